"""Training: ``trainer`` prepares and runs it, ``step`` is one step, ``callbacks`` and ``checkpointing`` run between."""
