"""Loss functions on named descriptors, in float32."""
