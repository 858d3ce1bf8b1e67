"""Encoders as MindSpore Cells, and the import of weights trained elsewhere."""
