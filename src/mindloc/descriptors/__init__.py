"""Descriptor sets on disk and exact search in them; knows nothing of MindSpore."""
