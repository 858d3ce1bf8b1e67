"""The interface that all kinds of tile index have in common: what goes in, what comes out, and how both are checked.

A tile has a name that is unique in the index, a recall vector (Omega, or the one descriptor of a one-stage encoder),
optionally a re-rank vector (Phi) and, if they are known, its place and bounds. Vectors are normalized when they are
added, so that an inner product is a cosine.

Shapes: Q queries, N tiles or rows, K answers, D width of the recall vector, E width of the re-rank vector.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, Protocol, get_args

import numpy as np

from mindloc.errors import TileIndexError
from mindloc.geo.points import PlaceUnit, box_around, is_lat_lon
from mindloc.runtime.console import progress_bar


@dataclass(frozen=True)
class IndexCard:
    """Description of an index; queries must fit it."""

    kind: str  # "flat", "ivf_flat", "ivf_pq", "hnsw", "milvus"
    descriptor: str  # of the recall vectors: "global" or "omega"
    dimension: int  # of the recall vectors
    rerank_dimension: int | None  # of the re-rank vectors; None: there are none
    nodes: int | None  # number of nodes in a re-rank vector, one after the other; None: unknown
    place_unit: PlaceUnit | None  # None: places are unknown
    checkpoint_sha256: str | None  # of the encoder
    reduction_sha256: str | None  # of the file that the recall vectors were reduced with; None: not reduced

    def require_fit(self, checkpoint_sha256: str | None, reduction_sha256: str | None, dimension: int) -> None:
        """Check that the vectors of queries are comparable with those of the index.

        Raises:
            TileIndexError: checkpoint, reduction or width differ; the message names both values.
        """
        origins = (
            ("checkpoint", self.checkpoint_sha256, checkpoint_sha256),
            ("reduction", self.reduction_sha256, reduction_sha256),
            ("width", self.dimension, dimension),
        )
        for what, own, given in origins:
            if own != given:
                raise TileIndexError(
                    f"the index was built with {what} {_short(own)}, but the queries have {what} {_short(given)}; "
                    "encode the queries like the index, or build the index again"
                )

    def require_same(self, tiles: "IndexCard", where: str) -> None:
        """Check that vectors and places of tiles are comparable with those of the index, which is at ``where``.

        Raises:
            TileIndexError: the cards differ; the message names the difference.
        """
        for name, own in vars(self).items():
            if own != (given := getattr(tiles, name)):
                raise TileIndexError(
                    f"{where} has {name} {_short(own)}, but these tiles have {_short(given)}; extract them with the "
                    "checkpoint, settings and --pca of the index, or build a separate index"
                )


def _short(origin: str | int | None) -> str:
    return "none" if origin is None else str(origin)[:12]


def read_index_card(facts: Any) -> IndexCard | None:
    """The card that was written as these facts; None if a fact is missing, superfluous or of a wrong type."""
    if not isinstance(facts, dict) or set(facts) != {field.name for field in fields(IndexCard)}:
        return None
    counts = [facts["dimension"], *(facts[name] for name in ("rerank_dimension", "nodes") if facts[name] is not None)]
    texts = [facts["kind"], facts["descriptor"]]
    texts += [facts[name] for name in ("checkpoint_sha256", "reduction_sha256") if facts[name] is not None]
    sound = all(is_count(value) and value > 0 for value in counts) and all(isinstance(text, str) for text in texts)
    return IndexCard(**facts) if sound and facts["place_unit"] in (None, *get_args(PlaceUnit)) else None


def is_count(value: Any) -> bool:
    """Whether ``value`` is a whole number, 0 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@dataclass(frozen=True)
class Tiles:
    """Tiles to add, one row each."""

    names: Sequence[str]
    recall_ND: np.ndarray  # any float type, any length above zero
    rerank_NE: np.ndarray | None
    place_N2: np.ndarray  # float64, NaN where unknown; in the card's unit
    bounds_N4: np.ndarray  # float64, NaN where unknown: lowest of both coordinates, then highest of both


class TileFacts(NamedTuple):
    """What an index stores about a tile besides its vectors."""

    name: str
    place: tuple[float, float] | None
    bounds: tuple[float, float, float, float] | None


_DEGREES = "give latitude, -90 to 90, before longitude, -180 to 180"


class Box(NamedTuple):
    """A search area: the tiles whose place is in the box, edges included, in the unit of the index's places.

    A box across the 180th meridian has longitudes such as 179.9 to -179.9, or 179.9 to 180.1.
    """

    low: tuple[float, float]
    high: tuple[float, float]

    def box(self, card: IndexCard) -> "Box":
        """This box with its lowest longitude first, also across the 180th meridian.

        Raises:
            TileIndexError: the box is upside down, contains NaN or is not in degrees, or the index has no places.
        """
        unit = _require_places(card)
        (low_a, low_b), (high_a, high_b) = self
        if unit == "lat_lon_deg":
            if max(abs(low_b), abs(high_b)) > 360:
                raise TileIndexError(f"box from {self.low} to {self.high} is not in degrees; {_DEGREES}")
            if high_b < low_b and high_b + 360 - low_b <= 180:  # a wider box has exchanged corners
                high_b += 360
        if not (low_a <= high_a and low_b <= high_b):  # also true of NaN
            upright = ",".join(f"{number:.15g}" for number in self._upright(unit))
            raise TileIndexError(
                f"box from {self.low} to {self.high} is upside down; its lowest corner comes first: {upright}"
            )
        return Box((low_a, low_b), (high_a, high_b))

    def _upright(self, unit: PlaceUnit) -> tuple[float, float, float, float]:
        """The same corners, lowest first; of the two arcs between longitudes the shorter one."""
        (low_a, high_a), (low_b, high_b) = (sorted(pair) for pair in zip(self.low, self.high, strict=True))
        if unit == "lat_lon_deg" and high_b - low_b > 180:
            low_b, high_b = high_b, low_b
        return low_a, low_b, high_a, high_b

    def parts(self, card: IndexCard) -> list["Box"]:
        """This box as boxes whose edges can be compared as numbers: two across the 180th meridian, otherwise one.

        Raises:
            TileIndexError: for the reasons given in ``box``.
        """
        whole = self.box(card)
        if card.place_unit != "lat_lon_deg":
            return [whole]
        turns = [(whole.low[1] + turn, whole.high[1] + turn) for turn in (-360, 0, 360)]
        lon = [(max(low, -180.0), min(high, 180.0)) for low, high in turns]
        return [Box((whole.low[0], low), (whole.high[0], high)) for low, high in lon if low <= high]


@dataclass(frozen=True)
class Circle:
    """A search area: the tiles whose place is at most this far from a position, the edge included."""

    place: tuple[float, float]  # in the unit of the index's places; a longitude may exceed 180
    radius_m: float

    def box(self, card: IndexCard) -> Box:
        """The smallest box of the index's places that contains the circle.

        Raises:
            TileIndexError: the index has no places, or the position is not valid in their unit.
        """
        unit = _require_places(card)
        if unit == "lat_lon_deg" and not (abs(self.place[0]) <= 90 and abs(self.place[1]) <= 360):
            raise TileIndexError(f"{self.place[0]},{self.place[1]} is not a place in degrees; {_DEGREES}")
        return Box(*box_around(self.place, self.radius_m, unit))


def _require_places(card: IndexCard) -> PlaceUnit:
    if card.place_unit is None:
        raise TileIndexError("the index has no places of its tiles; build it from: extract --places")
    return card.place_unit


@dataclass(frozen=True)
class Hits:
    """Answers to Q queries, best first.

    There are fewer than requested only if a box contains fewer tiles, or if a graph of Milvus (hnsw, diskann) finds
    fewer in a box even with its widest search.
    """

    names: list[list[str]]
    scores: list[np.ndarray]  # cosines, float32; some kinds of index only estimate them


class TileIndex(Protocol):
    """The interface of an index of tiles, whichever engine searches it."""

    @property
    def card(self) -> IndexCard: ...

    @property
    def count(self) -> int:
        """Tiles that can be found."""
        ...

    def add(self, tiles: Tiles) -> None:
        """Add tiles; a tile replaces an older one of the same name.

        Raises:
            TileIndexError: a vector has a different width or contains NaN, or a name appears twice in ``tiles``.
        """
        ...

    def remove(self, names: Sequence[str]) -> None:
        """Remove tiles.

        Raises:
            TileIndexError: a name is not in the index; then nothing is removed.
        """
        ...

    def recall(self, query_QD: np.ndarray, k: int, box: Box | None = None) -> Hits:
        """Stage one: the k tiles whose recall vectors are nearest, among all tiles or among those in a box.

        Raises:
            TileIndexError: the index is empty, k exceeds its count, the queries have a different width, or a box is
                given and the index has no places.
        """
        ...

    def rerank(self, query_QE: np.ndarray, names: Sequence[Sequence[str]], k: int) -> Hits:
        """Stage two: among the tiles named for each query, the k whose re-rank vectors are nearest.

        Raises:
            TileIndexError: the index has no re-rank vectors, or the queries have a different width.
        """
        ...

    def rerank_vectors(self, names: Sequence[str]) -> np.ndarray:
        """Re-rank vectors of tiles, (N, E) float32, of unit length."""
        ...

    def facts(self, names: Sequence[str]) -> list[TileFacts]:
        """Places and bounds of tiles."""
        ...

    def search_with(self, given: Mapping[str, int]) -> None:
        """Change parameters of the search, name -> value; they replace those that the index was built with.

        Raises:
            ConfigError: this kind of index does not read a parameter while searching, or it is out of range.
        """
        ...

    def statistics(self) -> dict[str, Any]:
        """Facts for the user: count, bytes, parameters of the kind."""
        ...

    def save(self, address: str | Path) -> None:
        """Write all changes to disk at this address, all of them or none.

        Raises:
            TileIndexError: something else is at the address, the disk is full or not writable, or this kind of index
                can't be moved to a different address.
        """
        ...

    def close(self) -> None:
        """Release files and connections."""
        ...


def add_all(index: TileIndex, batches: Iterable[Tiles], total: int | None) -> None:
    """Add tiles batch by batch, with a progress bar up to ``total`` tiles."""
    with progress_bar(total=total, desc="tiles", unit="tile") as bar:
        for tiles in batches:
            index.add(tiles)
            bar.update(len(tiles.names))


def checked_unit_rows(row_ND: np.ndarray, dimension: int, what: str, zeros: bool = False) -> np.ndarray:
    """The rows with unit length, float32, contiguous.

    Args:
        what: the rows, e.g. "queries", for messages.
        zeros: allow rows of zeros, which remain zero: Phi of an image similar to no center; its cosine with any is 0.

    Raises:
        TileIndexError: a row has a different width, contains NaN or infinity, or is all zeros without ``zeros``.
    """
    row_ND = np.asarray(row_ND)
    if row_ND.ndim != 2 or row_ND.shape[1] != dimension:
        raise TileIndexError(
            f"{what} have shape {row_ND.shape}, but the index contains vectors of width {dimension}; "
            f"give (count, {dimension}), encoded and reduced like those of the index"
        )
    unit_ND = np.array(row_ND, np.float32, order="C")
    length_N = np.sqrt(np.einsum("nd,nd->n", unit_ND, unit_ND, dtype=np.float64))
    broken_N = ~np.isfinite(length_N) | ((length_N == 0) & (not zeros))
    if broken_N.any():
        row = int(np.flatnonzero(broken_N)[0])
        kind = "is all zeros" if length_N[row] == 0 else "contains NaN or infinity"
        raise TileIndexError(f"row {row} of the {what} {kind}; the encoder's weights or the input are broken")
    unit_ND /= np.where(length_N == 0, 1.0, length_N)[:, None].astype(np.float32)
    return unit_ND


def check_tiles(card: IndexCard, tiles: Tiles) -> tuple[np.ndarray, np.ndarray | None]:
    """Check that tiles fit an index; returns their recall and re-rank vectors (None: there are none) of unit length.

    Raises:
        TileIndexError: vectors have a different width or count or contain NaN; re-rank vectors are missing or
            superfluous; a name is not text or appears twice; there are places, but the card has no unit of them.
    """
    count = len(tiles.names)
    _check_names(tiles.names)
    recall_ND = checked_unit_rows(tiles.recall_ND, card.dimension, "recall vectors of tiles")
    if (tiles.rerank_NE is None) != (card.rerank_dimension is None):
        given, kept = ("no", "does") if tiles.rerank_NE is None else ("some", "does not")
        raise TileIndexError(f"tiles have {given} re-rank vectors, but the index {kept}; build a separate index")
    rerank_NE = None
    if tiles.rerank_NE is not None and card.rerank_dimension is not None:
        rerank_NE = checked_unit_rows(tiles.rerank_NE, card.rerank_dimension, "re-rank vectors of tiles", zeros=True)
    check_length("recall vectors", len(recall_ND), count)
    check_length("re-rank vectors", count if rerank_NE is None else len(rerank_NE), count)
    _check_places(card, tiles, count)
    return recall_ND, rerank_NE


def check_question(card: IndexCard, count: int, query_QD: np.ndarray, k: int, box: Box | None) -> np.ndarray:
    """Check the queries of stage one and return them with unit length.

    Raises:
        TileIndexError: the index is empty, k is not 1 to its ``count``, there are no queries, they have a different
            width or contain NaN, or the box is invalid or the index has no places.
    """
    if not count:
        raise TileIndexError("the index contains no tiles; add some before searching it")
    if not 1 <= k <= count:
        raise TileIndexError(f"{k} answers are requested, but the index has {count} tiles; request 1 to {count}")
    query_QD = check_queries(query_QD, card.dimension)
    if box is not None:
        box.box(card)
    return query_QD


def check_queries(query_QD: np.ndarray, dimension: int, zeros: bool = False) -> np.ndarray:
    """Check queries and return them with unit length; for ``zeros`` see ``checked_unit_rows``.

    Raises:
        TileIndexError: there are none, or one has a different width or contains NaN.
    """
    unit_QD = checked_unit_rows(query_QD, dimension, "queries", zeros)
    if not len(unit_QD):
        raise TileIndexError("no queries were given; give at least one")
    return unit_QD


def check_length(what: str, found: int, expected: int) -> None:
    """Check that there are as many rows as tile names.

    Raises:
        TileIndexError: there are not; the message names both numbers.
    """
    if found != expected:
        raise TileIndexError(f"there are {found} {what}, but {expected} tile names; give one for each name")


def _check_names(names: Sequence[str]) -> None:
    seen = set()
    for name in names:
        if not isinstance(name, str) or not name:
            raise TileIndexError(f"tile name {name!r} is not text; give every tile a name")
        if name in seen:
            raise TileIndexError(f"tile {name} appears twice among the tiles to add; names must be unique")
        seen.add(name)


def _check_places(card: IndexCard, tiles: Tiles, count: int) -> None:
    for what, array, width in (("places", tiles.place_N2, 2), ("bounds", tiles.bounds_N4, 4)):
        if np.shape(array) != (count, width):
            raise TileIndexError(f"{what} has shape {np.shape(array)}, expected ({count}, {width}) for {count} tiles")
        known = ~np.isnan(array)
        if np.isinf(array).any() or (known.any(axis=1) != known.all(axis=1)).any():
            raise TileIndexError(
                f"{what} contain infinity or a row with some NaN; give numbers, or NaN for a whole row"
            )
        if card.place_unit is None and known.any():
            raise TileIndexError(f"tiles have {what}, but the index card has no place_unit; set it when building")
    if card.place_unit == "lat_lon_deg":
        off_N = ~np.isnan(tiles.place_N2[:, 0]) & ~is_lat_lon(tiles.place_N2)
        if off_N.any():
            row = int(np.flatnonzero(off_N)[0])
            raise TileIndexError(
                f"the place of tile {tiles.names[row]} is {tiles.place_N2[row].tolist()}; "
                "expected latitude -90..90, then longitude -180..180"
            )
