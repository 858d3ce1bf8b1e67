"""A Cell that is in training, evaluated for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def evaluating(cell: Any) -> Iterator[None]:
    """Switch a Cell to evaluation and, whatever happens meanwhile, back to what it was."""
    training = cell.training
    if training:
        cell.set_train(False)
    try:
        yield
    finally:
        if training:
            cell.set_train(True)
