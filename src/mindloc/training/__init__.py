"""Training: ``trainer`` prepares and runs it, ``step`` is one step, ``callbacks`` and ``checkpointing`` surround it."""
