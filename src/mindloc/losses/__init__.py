"""Losses of named descriptors, as functions and Cells, and the criterion that combines them; all in float32."""
