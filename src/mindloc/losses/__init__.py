"""Losses of named descriptors, as functions and as Cells, and the criterion that joins them; all in float32."""
