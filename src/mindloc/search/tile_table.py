"""All of an index's rows except recall vectors: name, place, bounds, re-rank vector, whether the row still counts.

Rows are never moved: the row of a tile that is removed or replaced remains as a dead row.

Shapes: N rows, M rows or names of a request, E width of the re-rank vector.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from mindloc.errors import TileIndexError
from mindloc.search.index import Box, TileFacts, Tiles

_BLOCK_ROWS = 4096


class TileTable:
    """What is known about each row, and the row of each name.

    Args:
        names: of all rows, including dead ones.
        place_N2, bounds_N4: float64, NaN where unknown.
        alive_N: bool.
        rerank: of unit length; None: an index without re-rank vectors.
    """

    def __init__(
        self,
        names: list[str],
        place_N2: np.ndarray,
        bounds_N4: np.ndarray,
        alive_N: np.ndarray,
        rerank: "GrowingRows | None",
    ):
        self.names = names
        self.rerank = rerank
        self.place_N2 = place_N2
        self.bounds_N4 = bounds_N4
        self.alive_N = alive_N
        self._row_of = {names[row]: row for row in np.flatnonzero(alive_N).tolist()}

    @property
    def count(self) -> int:
        """Number of rows that are not dead."""
        return len(self._row_of)

    def append(self, tiles: Tiles, rerank_ME: np.ndarray | None) -> None:
        """Add a row per tile; the older row of a name becomes dead."""
        if rerank_ME is not None:
            self.rerank.append(rerank_ME)
        older = [self._row_of[name] for name in tiles.names if name in self._row_of]
        first = len(self.names)
        self.names.extend(tiles.names)
        self.place_N2 = np.concatenate([self.place_N2, tiles.place_N2])
        self.bounds_N4 = np.concatenate([self.bounds_N4, tiles.bounds_N4])
        self.alive_N = np.concatenate([self.alive_N, np.ones(len(tiles.names), bool)])
        self.alive_N[older] = False
        self._row_of.update((name, first + offset) for offset, name in enumerate(tiles.names))

    def remove(self, names: Sequence[str]) -> None:
        """Mark the rows of these names as dead.

        Raises:
            TileIndexError: a name is not in the index; then nothing is removed.
        """
        self.alive_N[self.rows(names)] = False
        for name in names:
            self._row_of.pop(name, None)  # a name may appear twice

    def rows(self, names: Sequence[str]) -> np.ndarray:
        """(M,) int64, the row of each name.

        Raises:
            TileIndexError: a name is not in the index.
        """
        try:
            return np.array([self._row_of[name] for name in names], np.int64)
        except KeyError as absent:
            raise TileIndexError(f"tile {absent.args[0]} is not in the index; check the name") from None

    def kept(self, boxes: Sequence[Box] | None) -> np.ndarray | None:
        """(N,) bool: rows that are not dead and, if ``boxes`` are given, in one (``Box.parts``); None: all rows."""
        if boxes is None:
            return None if self.count == len(self.names) else self.alive_N
        within_N = np.zeros(len(self.names), bool)
        for box in boxes:
            within_N2 = (self.place_N2 >= box.low) & (self.place_N2 <= box.high)  # False for NaN
            within_N |= within_N2[:, 0] & within_N2[:, 1]
        return within_N & self.alive_N

    def facts(self, names: Sequence[str]) -> list[TileFacts]:
        """Places and bounds of the tiles with these names."""
        rows = self.rows(names)
        pairs = zip(names, self.place_N2[rows].tolist(), self.bounds_N4[rows].tolist(), strict=True)
        return [TileFacts(name, _known(place), _known(bounds)) for name, place, bounds in pairs]


def empty_table(rerank_width: int | None) -> TileTable:
    """A table without rows; with ``rerank_width`` None also without re-rank vectors."""
    rerank = None if rerank_width is None else GrowingRows(np.empty((0, rerank_width), np.float32))
    return TileTable([], np.empty((0, 2)), np.empty((0, 4)), np.empty(0, bool), rerank)


def _known(numbers: list[float]) -> tuple | None:
    return None if numbers[0] != numbers[0] else tuple(numbers)


class GrowingRows:
    """A float32 matrix that grows by rows: the first rows are not copied, later ones are in memory.

    Args:
        first_NE: the first rows, possibly a memmap.
    """

    def __init__(self, first_NE: np.ndarray):
        self._first_NE = first_NE
        self._later_NE = np.empty((0, first_NE.shape[1]), np.float32)  # may have more rows than are in use
        self._later = 0

    def __len__(self) -> int:
        return len(self._first_NE) + self._later

    @property
    def width(self) -> int:
        return self._first_NE.shape[1]

    def append(self, row_ME: np.ndarray) -> None:
        """Append rows."""
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
        """Yield all rows in order, a block at a time."""
        for part_NE in (self._first_NE, self._later_NE[: self._later]):
            for start in range(0, len(part_NE), _BLOCK_ROWS):
                yield np.asarray(part_NE[start : start + _BLOCK_ROWS])
