"""One call, encode(batch) -> named descriptors, whatever engine runs it."""
