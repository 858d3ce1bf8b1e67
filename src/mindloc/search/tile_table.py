"""The rows of an index beside their recall vectors: name, place, bounds, re-rank vector, whether a row still counts.

A row is never moved: a tile that is removed or replaced leaves a dead row behind.

Shapes: N rows, M rows or names of a request, E width of the re-rank vector.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from mindloc.errors import TileIndexError
from mindloc.search.index import Box, TileFacts, Tiles

_BLOCK_ROWS = 4096


class TileTable:
    """What is known of each row, and which row a name has.

    Args:
        names: of all rows, dead ones too.
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
        """Rows that count."""
        return len(self._row_of)

    def append(self, tiles: Tiles, rerank_ME: np.ndarray | None) -> None:
        """Add a row per tile; the older row of a name dies."""
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
        """Let the rows of these names die.

        Raises:
            TileIndexError: a name that is not there; then nothing is removed.
        """
        self.alive_N[self.rows(names)] = False
        for name in names:
            self._row_of.pop(name, None)  # a name may come twice

    def rows(self, names: Sequence[str]) -> np.ndarray:
        """(M,) int64, the row of each name.

        Raises:
            TileIndexError: a name that is not there.
        """
        try:
            return np.array([self._row_of[name] for name in names], np.int64)
        except KeyError as absent:
            raise TileIndexError(f"tile {absent.args[0]} is not in the index; check the name") from None

    def kept(self, boxes: Sequence[Box] | None) -> np.ndarray | None:
        """(N,) bool, rows that count and are in one of the boxes (``Box.parts``); None: every row."""
        if boxes is None:
            return None if self.count == len(self.names) else self.alive_N
        within_N = np.zeros(len(self.names), bool)
        for box in boxes:
            within_N2 = (self.place_N2 >= box.low) & (self.place_N2 <= box.high)  # never of NaN
            within_N |= within_N2[:, 0] & within_N2[:, 1]
        return within_N & self.alive_N

    def facts(self, names: Sequence[str]) -> list[TileFacts]:
        """What is known of each name."""
        rows = self.rows(names)
        pairs = zip(names, self.place_N2[rows].tolist(), self.bounds_N4[rows].tolist(), strict=True)
        return [TileFacts(name, _known(place), _known(bounds)) for name, place, bounds in pairs]


def empty_table(rerank_width: int | None) -> TileTable:
    """A table without rows; None: without re-rank vectors."""
    rerank = None if rerank_width is None else GrowingRows(np.empty((0, rerank_width), np.float32))
    return TileTable([], np.empty((0, 2)), np.empty((0, 4)), np.empty(0, bool), rerank)


def _known(numbers: list[float]) -> tuple | None:
    return None if numbers[0] != numbers[0] else tuple(numbers)


class GrowingRows:
    """A float32 matrix that grows by rows: those it starts with stay where they are, later ones are in memory.

    Args:
        first_NE: kept as it is, a memmap stays one.
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
