"""Encoders: pictures to named descriptors, and the weights they start from."""
