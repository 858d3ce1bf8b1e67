"""The rows of a tile library besides their vectors: name, place, bounds, and whether the row still counts.

A row is never moved: a tile that goes or is replaced leaves a dead row behind. Suffixes: N rows, M names.

Search around a last known position: stage one looks into the box around a circle, whose corners are dropped.

Suffixes: Q queries, D width of the recall vector, E width of the re-rank vector.

A library of tiles that can be searched: the one interface behind which every kind of index stands.

A tile has a recall vector (Omega, or the one descriptor of a one-stage encoder), on request a re-rank vector (Phi), a
name that is unique in the library, and where they are known its place and bounds. Vectors are unit length, so that an
inner product is a cosine; they are normalized on the way in.

Suffixes: Q queries, N tiles, K answers, D width of the recall vector, E width of the re-rank vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol, get_args

import numpy as np

from mindloc.errors import TileIndexError
from mindloc.geo.points import PlaceUnit


@dataclass(frozen=True)
class IndexCard:
    """What a library of tiles says of itself; queries have to fit it."""

    kind: str  # "flat", "ivf_flat", "ivf_pq", "hnsw", "milvus"
    descriptor: str  # of the recall vectors: "global" or "omega"
    dimension: int  # of the recall vectors
    rerank_dimension: int | None  # of the re-rank vectors; None: there are none
    nodes: int | None  # that a re-rank vector consists of, one after the other
    place_unit: PlaceUnit | None  # None: places are unknown
    checkpoint_sha256: str | None  # of the encoder
    reduction_sha256: str | None  # of the file that the recall vectors were reduced with; None: they are as encoded


def read_index_card(facts: Any) -> IndexCard | None:
    """The card that was written as these facts; None: one is missing, superfluous or of a wrong type."""
    if not isinstance(facts, dict) or set(facts) != {field.name for field in fields(IndexCard)}:
        return None
    counts = [facts["dimension"], *(facts[name] for name in ("rerank_dimension", "nodes") if facts[name] is not None)]
    texts = [facts["kind"], facts["descriptor"]]
    texts += [facts[name] for name in ("checkpoint_sha256", "reduction_sha256") if facts[name] is not None]
    sound = all(is_count(value) and value > 0 for value in counts) and all(isinstance(text, str) for text in texts)
    return IndexCard(**facts) if sound and facts["place_unit"] in (None, *get_args(PlaceUnit)) else None


def is_count(value: Any) -> bool:
    """Whether it is a whole number, 0 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@dataclass(frozen=True)
class Tiles:
    """Tiles to put into a library, one row each."""

    names: Sequence[str]
    recall_ND: np.ndarray  # any float type, any length above zero
    rerank_NE: np.ndarray | None
    place_N2: np.ndarray  # float64, NaN where nobody knows; in the card's unit
    bounds_N4: np.ndarray  # float64, NaN where nobody knows: lowest of both coordinates, then highest of both


class TileFacts(NamedTuple):
    """What the library knows of a tile besides its vectors."""

    name: str
    place: tuple[float, float] | None
    bounds: tuple[float, float, float, float] | None


class Box(NamedTuple):
    """Where to look: tiles whose place lies within, edges included, in the unit of the library's places."""

    low: tuple[float, float]
    high: tuple[float, float]


@dataclass(frozen=True)
class Hits:
    """Answers to Q queries, best first; fewer than asked for only where a box holds fewer.

    Or where a graph of Milvus (hnsw, diskann) finds fewer in a box with all its effort.
    """

    names: list[list[str]]
    scores: list[np.ndarray]  # cosines, float32; estimates where the kind of index only estimates them


class TileIndex(Protocol):
    """A library of tiles."""

    @property
    def card(self) -> IndexCard: ...

    @property
    def count(self) -> int:
        """Tiles that can be found."""
        ...

    def add(self, tiles: Tiles) -> None:
        """Put tiles in; one whose name is there already takes the place of the older.

        Raises:
            TileIndexError: vectors of another width, NaN, a name that comes twice in ``tiles``.
        """
        ...

    def remove(self, names: Sequence[str]) -> None:
        """Take tiles out.

        Raises:
            TileIndexError: a name that is not there; nothing is taken out then.
        """
        ...

    def recall(self, query_QD: np.ndarray, k: int, box: Box | None = None) -> Hits:
        """Stage one: the k tiles whose recall vectors are nearest, of all or of those in a box.

        Raises:
            TileIndexError: an empty library, k beyond its count, queries of another width, a box without places.
        """
        ...

    def rerank(self, query_QE: np.ndarray, names: Sequence[Sequence[str]], k: int) -> Hits:
        """Stage two: of each query's own tiles the k whose re-rank vectors are nearest.

        Raises:
            TileIndexError: a library without re-rank vectors, queries of another width.
        """
        ...

    def rerank_vectors(self, names: Sequence[str]) -> np.ndarray:
        """(N, E) float32, of unit length."""
        ...

    def facts(self, names: Sequence[str]) -> list[TileFacts]:
        """Places and bounds of tiles."""
        ...

    def statistics(self) -> dict[str, Any]:
        """For people: count, bytes, parameters of the kind."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


class TileTable:
    """What is known of each row, and which row a name has.

    Args:
        names: of all rows, dead ones too.
        place_N2, bounds_N4: float64, NaN where nobody knows.
        alive_N: bool.
    """

    def __init__(self, names: list[str], place_N2: np.ndarray, bounds_N4: np.ndarray, alive_N: np.ndarray):
        self.names = names
        self.place_N2 = place_N2
        self.bounds_N4 = bounds_N4
        self.alive_N = alive_N
        self._row_of = {names[row]: row for row in np.flatnonzero(alive_N).tolist()}

    @property
    def count(self) -> int:
        """Rows that count."""
        return len(self._row_of)

    def append(self, tiles: Tiles) -> None:
        """Add a row per tile; the older row of a name dies."""
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
            TileIndexError: a name that is not there; then nothing is taken out.
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
            raise TileIndexError(f"tile {absent.args[0]} is not in the library; check the name") from None

    def kept(self, box: Box | None) -> np.ndarray | None:
        """(N,) bool, rows that count and lie in the box; None: every row."""
        if box is None:
            return None if self.count == len(self.names) else self.alive_N
        within_N2 = (self.place_N2 >= box.low) & (self.place_N2 <= box.high)  # never of NaN
        return within_N2[:, 0] & within_N2[:, 1] & self.alive_N

    def facts(self, names: Sequence[str]) -> list[TileFacts]:
        """What is known of each name."""
        rows = self.rows(names)
        pairs = zip(names, self.place_N2[rows].tolist(), self.bounds_N4[rows].tolist(), strict=True)
        return [TileFacts(name, _known(place), _known(bounds)) for name, place, bounds in pairs]


def empty_table() -> TileTable:
    """A table without rows."""
    return TileTable([], np.empty((0, 2)), np.empty((0, 4)), np.empty(0, bool))


def _known(numbers: list[float]) -> tuple | None:
    return None if numbers[0] != numbers[0] else tuple(numbers)
