"""Memory for batches, used again once nobody holds it."""

import sys

import numpy as np


class BatchArrays:
    """Float32 arrays of one shape; a batch of pictures in fresh memory costs as much to map as to normalize.

    MindSpore hands an array on without copying it and keeps a reference as long as it reads, and so does whoever keeps
    the batch or a part of it: the count of references says when the memory is free. For MindSpore that was seen on CPUs
    alone: a device that copies from this memory on its own may still read when the reference is gone.

    Args:
        reuse: False hands out fresh memory every time, for devices on which nobody has seen when they have read.

    Evaluation needs no such care: an engine has read its batch when ``encode`` returns. Ask from one thread.
    """

    def __init__(self, shape: tuple[int, ...], reuse: bool = True):
        self.shape, self._reuse = shape, reuse
        self._arrays: list[np.ndarray] = []

    def __len__(self) -> int:
        """Arrays that are kept for use again."""
        return len(self._arrays)

    def take(self) -> np.ndarray:
        """An array that nobody else holds, its content undefined."""
        for index in range(len(self._arrays)):
            if _references(self._arrays, index) == _HELD_BY_ITS_LIST_ALONE:
                return self._arrays[index]
        array = np.empty(self.shape, np.float32)
        if self._reuse:
            self._arrays.append(array)
        return array


def _references(arrays: list[np.ndarray], index: int) -> int:
    return sys.getrefcount(arrays[index])


# measured: how many references the counting itself holds is the interpreter's affair and differs between versions
_HELD_BY_ITS_LIST_ALONE = _references([np.empty(1, np.float32)], 0)
