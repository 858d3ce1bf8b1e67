"""Memory for batches, used again once nobody holds it."""

import sys

import numpy as np

_HELD_BY_US_ALONE = 2  # references that CPython counts: the list's and the call's


class BatchArrays:
    """Float32 arrays of one shape; a batch of pictures in fresh memory costs as much to map as to normalize.

    MindSpore hands an array on without copying it and keeps a reference as long as it reads, and so does whoever keeps
    the batch or a part of it: the count of references says when the memory is free. Ask from one thread.
    """

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape
        self._arrays: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self._arrays)

    def take(self) -> np.ndarray:
        """An array that nobody else holds, its content undefined."""
        for index in range(len(self._arrays)):
            if sys.getrefcount(self._arrays[index]) == _HELD_BY_US_ALONE:
                return self._arrays[index]
        self._arrays.append(np.empty(self.shape, np.float32))
        return self._arrays[-1]
