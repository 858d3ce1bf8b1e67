"""Descriptor sets on disk and exact search in them; never imports MindSpore."""
