"""Encoders: images to named descriptors, and the weights they start from."""
