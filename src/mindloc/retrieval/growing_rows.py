"""A matrix that grows by rows: those from a file stay there (memory-mapped), later ones lie in memory.

Suffixes: N rows, M rows asked for, E width.
"""

from collections.abc import Iterator

import numpy as np

_BLOCK_ROWS = 4096


class GrowingRows:
    """Rows of float32.

    Args:
        first_NE: the rows to begin with; kept as they are, a memmap stays one.
    """

    def __init__(self, first_NE: np.ndarray):
        self._first_NE = first_NE
        self._later_NE = np.empty((0, first_NE.shape[1]), np.float32)  # may be longer than what is in use
        self._later = 0

    def __len__(self) -> int:
        return len(self._first_NE) + self._later

    @property
    def width(self) -> int:
        return self._first_NE.shape[1]

    def append(self, row_ME: np.ndarray) -> None:
        """Put rows after the last."""
        needed = self._later + len(row_ME)
        if needed > len(self._later_NE):
            longer_NE = np.empty((max(needed, 2 * len(self._later_NE)), self.width), np.float32)
            longer_NE[: self._later] = self._later_NE[: self._later]
            self._later_NE = longer_NE
        self._later_NE[self._later : needed] = row_ME
        self._later = needed

    def take(self, rows: np.ndarray) -> np.ndarray:
        """(M, E): these rows, in this order."""
        if not self._later:
            return np.asarray(self._first_NE[rows])
        taken_ME = np.empty((len(rows), self.width), np.float32)
        later_M = rows >= len(self._first_NE)
        taken_ME[~later_M] = self._first_NE[rows[~later_M]]
        taken_ME[later_M] = self._later_NE[rows[later_M] - len(self._first_NE)]
        return taken_ME

    def blocks(self) -> Iterator[np.ndarray]:
        """All rows, in order, some at a time."""
        for part_NE in (self._first_NE, self._later_NE[: self._later]):
            for start in range(0, len(part_NE), _BLOCK_ROWS):
                yield np.asarray(part_NE[start : start + _BLOCK_ROWS])
