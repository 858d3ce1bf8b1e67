"""What every kind of tile library asks of vectors, tiles and questions before it touches them.

Suffixes: Q queries, N tiles or rows, K answers, D width of a vector.
"""

import numpy as np

from mindloc.errors import TileIndexError
from mindloc.search.index import Box, IndexCard, Tiles


def unit_rows(row_ND: np.ndarray, dimension: int, what: str, zeros: bool = False) -> np.ndarray:
    """The rows with unit length, float32, contiguous.

    Args:
        what: the rows, e.g. "queries", for messages.
        zeros: a row of zeros stays one: Phi of a picture that no center is like, whose cosine to everything is 0.

    Raises:
        TileIndexError: another width, NaN or infinity, a row of zeros that is not allowed.
    """
    row_ND = np.asarray(row_ND)
    if row_ND.ndim != 2 or row_ND.shape[1] != dimension:
        raise TileIndexError(
            f"{what} of shape {row_ND.shape} where the library holds vectors of width {dimension}; "
            f"give (count, {dimension}), encoded and reduced like the library's"
        )
    unit_ND = np.array(row_ND, np.float32, order="C")
    length_N = np.sqrt(np.einsum("nd,nd->n", unit_ND, unit_ND, dtype=np.float64))
    broken_N = ~np.isfinite(length_N) | ((length_N == 0) & (not zeros))
    if broken_N.any():
        row = int(np.flatnonzero(broken_N)[0])
        kind = "is all zeros" if length_N[row] == 0 else "holds NaN or infinity"
        raise TileIndexError(f"row {row} of the {what} {kind}; the encoder's weights or the input are broken")
    unit_ND /= np.where(length_N == 0, 1.0, length_N)[:, None].astype(np.float32)
    return unit_ND


def check_tiles(card: IndexCard, tiles: Tiles) -> tuple[np.ndarray, np.ndarray | None]:
    """Recall and re-rank vectors of tiles that fit a library, each of unit length (None: there are none).

    Raises:
        TileIndexError: vectors of another width or count, NaN, missing or superfluous re-rank vectors, a name that is
            no text or comes twice, places where the library knows no unit of them.
    """
    count = len(tiles.names)
    _check_names(tiles.names)
    recall_ND = unit_rows(tiles.recall_ND, card.dimension, "recall vectors of tiles")
    if (tiles.rerank_NE is None) != (card.rerank_dimension is None):
        given, kept = ("without", "keeps") if tiles.rerank_NE is None else ("with", "keeps no")
        raise TileIndexError(
            f"tiles {given} re-rank vectors for a library that {kept} such; build a library of its own"
        )
    rerank_NE = None
    if tiles.rerank_NE is not None:
        rerank_NE = unit_rows(tiles.rerank_NE, card.rerank_dimension, "re-rank vectors of tiles", zeros=True)
    check_length("recall vectors", len(recall_ND), count)
    check_length("re-rank vectors", count if rerank_NE is None else len(rerank_NE), count)
    _check_places(card, tiles, count)
    return recall_ND, rerank_NE


def check_question(card: IndexCard, count: int, query_QD: np.ndarray, k: int, box: Box | None) -> np.ndarray:
    """Queries of unit length for stage one.

    Raises:
        TileIndexError: an empty library, no queries, k below 1 or beyond the library's ``count``, queries of another
            width or with NaN, a box without places or upside down.
    """
    if not count:
        raise TileIndexError("the library holds no tiles; add some before searching it")
    if not 1 <= k <= count:
        raise TileIndexError(f"{k} answers are asked for, the library holds {count} tiles; ask for 1 to {count}")
    query_QD = check_queries(query_QD, card.dimension)
    if box is not None:
        check_box(card, box)
    return query_QD


def check_queries(query_QD: np.ndarray, dimension: int, zeros: bool = False) -> np.ndarray:
    """Queries of unit length, at least one; ``zeros`` as ``unit_rows``.

    Raises:
        TileIndexError: none, of another width, with NaN.
    """
    unit_QD = unit_rows(query_QD, dimension, "queries", zeros)
    if not len(unit_QD):
        raise TileIndexError("no queries were given; give at least one")
    return unit_QD


def check_box(card: IndexCard, box: Box) -> None:
    """Refuse a box that can't be looked into: upside down, not of numbers, or of a library that knows no places.

    Raises:
        TileIndexError: naming which.
    """
    if card.place_unit is None:
        raise TileIndexError("a box was given, but this library knows no places; build it from tiles that have some")
    if not (box.low[0] <= box.high[0] and box.low[1] <= box.high[1]):  # NaN too
        raise TileIndexError(f"box from {box.low} to {box.high} is upside down; give its lowest corner first")


def _check_names(names) -> None:
    seen = set()
    for name in names:
        if not isinstance(name, str) or not name:
            raise TileIndexError(f"tile name {name!r} is no text; give every tile a name")
        if name in seen:
            raise TileIndexError(f"tile {name} comes twice among the tiles to add; names must be unique")
        seen.add(name)


def check_length(what: str, found: int, expected: int) -> None:
    """Refuse another number of rows than there are tile names.

    Raises:
        TileIndexError: naming both.
    """
    if found != expected:
        raise TileIndexError(f"{found} {what} for {expected} tile names; give one for each")


def _check_places(card: IndexCard, tiles: Tiles, count: int) -> None:
    for what, array, width in (("places", tiles.place_N2, 2), ("bounds", tiles.bounds_N4, 4)):
        if np.shape(array) != (count, width):
            raise TileIndexError(f"{what} of shape {np.shape(array)} for {count} tiles; give ({count}, {width})")
        known = ~np.isnan(array)
        if np.isinf(array).any() or (known.any(axis=1) != known.all(axis=1)).any():
            raise TileIndexError(f"{what} hold infinity or half a pair; give numbers, or NaN throughout a tile's row")
        if card.place_unit is None and known.any():
            raise TileIndexError(f"{what} for a library whose card names no unit of places; name it when building")


def require_fit(card: IndexCard, checkpoint_sha256: str | None, reduction_sha256: str | None, dimension: int) -> None:
    """Refuse a library whose vectors are not comparable with queries of this origin and width.

    Raises:
        TileIndexError: built with another checkpoint, another reduction, or vectors of another width; it names both.
    """
    origins = (
        ("checkpoint", card.checkpoint_sha256, checkpoint_sha256),
        ("reduction", card.reduction_sha256, reduction_sha256),
        ("width", card.dimension, dimension),
    )
    for what, library, queries in origins:
        if library != queries:
            raise TileIndexError(
                f"the library was built with {what} {_short(library)}, the queries come with {what} {_short(queries)}; "
                "encode the queries with the library's own, or build the library anew"
            )


def require_same_card(card: IndexCard, tiles: IndexCard, where: str) -> None:
    """Refuse tiles whose vectors or places are not comparable with those of the library at ``where``.

    Raises:
        TileIndexError: naming what differs.
    """
    for name, kept in vars(card).items():
        if kept != (given := getattr(tiles, name)):
            raise TileIndexError(
                f"{where} has {name} {_short(kept)}, these tiles have {_short(given)}; extract them with the library's "
                "own checkpoint, settings and --pca, or build a library of their own"
            )


def _short(origin: str | int | None) -> str:
    return "none" if origin is None else str(origin)[:12]
