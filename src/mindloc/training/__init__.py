"""Training: ``trainer`` runs it, ``build`` makes its parts, ``callbacks`` and ``checkpointing`` act between steps."""
