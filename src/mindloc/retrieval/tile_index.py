"""A library of tiles that can be searched: the one interface behind which every kind of index stands.

A tile has a recall vector (Omega, or the one descriptor of a one-stage encoder), on request a re-rank vector (Phi), a
name that is unique in the library, and where they are known its place and bounds. Vectors are unit length, so that an
inner product is a cosine; they are normalized on the way in.

Suffixes: Q queries, N tiles, K answers, D width of the recall vector, E width of the re-rank vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol, get_args

import numpy as np

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
