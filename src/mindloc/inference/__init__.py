"""Encode images to named descriptors by one call, ``encode(batch)``, of any engine."""
