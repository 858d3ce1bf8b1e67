"""Training criteria over named descriptors."""
