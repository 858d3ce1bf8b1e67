"""The kinds of FAISS index: how each is created, sized, searched among some of its rows, and read from its file.

======== =====================================================================================================
flat     every vector compared, exact
ivf_flat vectors in lists around learned centers; the lists nearest to a query are compared
ivf_pq   like ivf_flat, with each vector in a few bytes; with ``refine``, the whole vectors are kept too
hnsw     a graph of neighbors that a query walks through
======== =====================================================================================================

Scores are inner products. Shapes: Q queries, N rows, K answers, D width.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np

from mindloc.errors import ConfigError, TileIndexError, one_line
from mindloc.reading import is_unicode


class FaissKind(NamedTuple):
    factory: str  # for faiss.index_factory, with names of FaissParameters in braces
    reads: tuple[str, ...]  # the parameters that this kind reads
    learns: bool = False  # whether it must learn from vectors before any is added
    type: type = faiss.IndexFlat  # class that the factory creates if whole vectors are not kept


_LISTS = ("nlist", "nprobe", "train_rows", "seed")
KINDS = {
    "flat": FaissKind("Flat", ()),
    "ivf_flat": FaissKind("IVF{nlist},Flat", _LISTS, True, faiss.IndexIVFFlat),
    # np: codes in no particular order; the factory's own default orders them for Hamming distances
    "ivf_pq": FaissKind("IVF{nlist},PQ{pq_bytes}x8np", (*_LISTS, "pq_bytes", "refine"), True, faiss.IndexIVFPQ),
    "hnsw": FaissKind("HNSW{links},Flat", ("links", "ef_construction", "ef_search"), type=faiss.IndexHNSWFlat),
}
_WHOLE_VECTORS = ",RFlat"  # appended to the factory string of a kind with refine

_PQ_CODES = 256  # one byte a part
_ROWS_PER_LIST = 39  # with fewer training rows per center, FAISS warns
_WALK_SHARE = 0.1  # if a smaller fraction of rows is kept, a walk through the graph meets too few
_ROUNDING = 1e-5  # larger than the difference between two ways to sum a cosine
_MOST = 2**31 - 1  # FAISS's int


def _number(default: int, meaning: str, auto: str = "", least: int = 0, most: int = _MOST) -> int:
    return field(default=default, metadata={"meaning": meaning, "auto": auto, "range": (least, most)})


@dataclass(frozen=True)
class FaissParameters:
    """How an index is built and searched: whole numbers. 0 chooses those with ``auto`` by the number of tiles."""

    nlist: int = _number(0, "ivf: lists", "about 4 sqrt(tiles), where enough are learned from")
    nprobe: int = _number(0, "ivf: lists compared per query", "by nlist")
    pq_bytes: int = _number(0, "ivf_pq: bytes per tile, a divisor of the dimension", "about a quarter of it")
    refine: int = _number(0, "ivf_pq: this many times the answers are scored by whole vectors, which are kept for it")
    links: int = _number(32, "hnsw: neighbors per tile, twice as many on the lowest level", least=2, most=1024)
    ef_construction: int = _number(80, "hnsw: candidates while building", least=1)
    ef_search: int = _number(64, "hnsw: candidates while searching", least=1)
    train_rows: int = _number(262_144, "ivf: tiles to learn from at most", least=1)
    seed: int = _number(0, "ivf: of the sample to learn from")


WHILE_SEARCHING = ("nprobe", "refine", "ef_search")  # refine: only if the index was built with it


def require_parameters_of(kind: str, given: Iterable[str]) -> None:
    """Check that an index of this kind reads all given parameters.

    Raises:
        ConfigError: it does not; the message names them.
    """
    unfit = [f"--{name}" for name in given if kind not in KINDS or name not in KINDS[kind].reads]
    if unfit:
        raise ConfigError(f"{', '.join(unfit)} means nothing to an index of kind {kind}; leave it out or change kind")


def resolve(
    kind: str, dimension: int, count: int, parameters: FaissParameters, learned: int | None = None
) -> FaissParameters:
    """The parameters with every 0 filled in for ``count`` vectors.

    Args:
        learned: number of vectors to learn lists and codes from; None: ``count``.

    Raises:
        TileIndexError: an unknown kind, numbers out of range, or too few tiles to learn from.
    """
    if kind not in KINDS:
        raise TileIndexError(f"index kind is {kind!r}; expected one of {', '.join(KINDS)}")
    for parameter in fields(FaissParameters):
        (least, most), value = parameter.metadata["range"], getattr(parameters, parameter.name)
        if not least <= value <= most:
            raise TileIndexError(
                f"index parameter {parameter.name} is {value}; give a whole number from {least} to {most}"
            )
    if not KINDS[kind].learns:
        return parameters
    learned = count if learned is None else learned
    parameters = _resolve_lists(kind, count, learned, parameters)
    return _resolve_codes(dimension, learned, parameters) if kind == "ivf_pq" else parameters


def _resolve_lists(kind: str, count: int, learned: int, parameters: FaissParameters) -> FaissParameters:
    if not count:
        raise TileIndexError(f"an index of kind {kind} learns from tiles, but none were given; use flat or hnsw")
    if parameters.nlist > learned:
        raise TileIndexError(
            f"nlist {parameters.nlist} exceeds the {learned} tiles to learn from; give fewer lists or more train_rows"
        )
    nlist = parameters.nlist or max(1, min(round(4 * math.sqrt(count)), learned // _ROWS_PER_LIST))
    nprobe = parameters.nprobe or min(nlist, max(8, nlist // 128))
    return replace(parameters, nlist=nlist, nprobe=nprobe)


def _resolve_codes(dimension: int, learned: int, parameters: FaissParameters) -> FaissParameters:
    if learned < _PQ_CODES:
        raise TileIndexError(
            f"an index of kind ivf_pq learns {_PQ_CODES} codes and needs as many tiles, but {learned} were given; "
            "give more tiles and train_rows, or use ivf_flat or flat"
        )
    size = parameters.pq_bytes or max(m for m in range(1, max(1, dimension // 4) + 1) if dimension % m == 0)
    if dimension % size:
        raise TileIndexError(f"pq_bytes {size} does not divide the vectors' width {dimension}; give a divisor of it")
    return replace(parameters, pq_bytes=size)


def new_index(kind: str, dimension: int, parameters: FaissParameters) -> faiss.Index:
    """An empty index; one of a kind that learns is not trained yet."""
    text = KINDS[kind].factory.format(**vars(parameters))
    if parameters.refine and "refine" in KINDS[kind].reads:
        text += _WHOLE_VECTORS
    index = faiss.index_factory(dimension, text, faiss.METRIC_INNER_PRODUCT)
    inner = _without_whole_vectors(index)
    if kind == "hnsw":
        inner.hnsw.efConstruction = parameters.ef_construction
    for clustering in (inner.cp, *([inner.pq.cp] if kind == "ivf_pq" else [])) if KINDS[kind].learns else ():
        clustering.seed = parameters.seed
        clustering.min_points_per_centroid = 1  # no warning on stderr: ``resolve`` has chosen suitable numbers
    return index


def _without_whole_vectors(index: faiss.Index) -> faiss.Index:
    return faiss.downcast_index(index.base_index) if isinstance(index, faiss.IndexRefine) else index


def search(
    index: faiss.Index, query_QD: np.ndarray, k: int, kept_N: np.ndarray | None, parameters: FaissParameters
) -> tuple[np.ndarray, np.ndarray]:
    """(Q, K) scores and rows, best first, among the kept rows (None: all); row -1 past the last answer.

    Equal scores are in the order of the rows; for kind flat, that order also decides which of them are among the k.

    If few rows are kept, proportionally more lists are compared, and all lists if that still finds too few rows. A
    graph is not walked then: its vectors are compared one by one.
    """
    wanted = index.ntotal if kept_N is None else int(np.count_nonzero(kept_N))
    if not wanted:
        return np.full((len(query_QD), k), -np.inf, np.float32), np.full((len(query_QD), k), -1, np.int64)
    selector = None if kept_N is None else faiss.IDSelectorBitmap(np.packbits(kept_N, bitorder="little"))
    share = wanted / index.ntotal
    if isinstance(index, faiss.IndexHNSW) and share < _WALK_SHARE:
        index = faiss.downcast_index(index.storage)
    if isinstance(index, faiss.IndexFlat):
        return _search_flat(index, query_QD, k, wanted, selector)
    score_QK, row_QK = index.search(query_QD, k, params=_search_parameters(index, parameters, k, share, selector))
    short_Q = (row_QK >= 0).sum(axis=1) < min(k, wanted)
    if short_Q.any():
        score_QK[short_Q], row_QK[short_Q] = _exhaustive(index, query_QD[short_Q], k, parameters, selector)
    return _ordered(score_QK, row_QK)


def _search_flat(
    index: faiss.IndexFlat, query_QD: np.ndarray, k: int, wanted: int, selector: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Like ``search``; if the row after the last answer has the same score, all rows of that score are examined."""
    parameters = faiss.SearchParameters(sel=selector)
    score_QK, row_QK = _ordered(*index.search(query_QD, k + (k < wanted), params=parameters))
    for query in np.flatnonzero(score_QK[:, k - 1] == score_QK[:, k]) if k < wanted else ():
        # scores of a single query may differ in the last bits from those of a batch
        least = float(score_QK[query, k]) - _ROUNDING
        _, score_M, row_M = index.range_search(query_QD[query : query + 1], least, params=parameters)
        score_QK[query, :k], row_QK[query, :k] = (part[:k] for part in _ordered(score_M, row_M))
    return score_QK[:, :k], row_QK[:, :k]


def _ordered(score_QK: np.ndarray, row_QK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows sorted best first, equal scores by row; FAISS returns these in no particular order."""
    order_QK = np.lexsort((row_QK, -score_QK))
    return np.take_along_axis(score_QK, order_QK, -1), np.take_along_axis(row_QK, order_QK, -1)


def _exhaustive(index: faiss.Index, query_QD: np.ndarray, k: int, parameters: FaissParameters, selector: Any):
    if isinstance(index, faiss.IndexHNSW):
        vectors = faiss.downcast_index(index.storage)
        return vectors.search(query_QD, k, params=faiss.SearchParameters(sel=selector))
    every = replace(parameters, nprobe=parameters.nlist)
    return index.search(query_QD, k, params=_search_parameters(index, every, k, 1.0, selector))


def _search_parameters(index: faiss.Index, parameters: FaissParameters, k: int, share: float, selector: Any):
    if isinstance(index, faiss.IndexRefine):
        inner = _search_parameters(_without_whole_vectors(index), parameters, k, share, selector)
        factor = min(max(1, parameters.refine), math.ceil(index.ntotal / k))  # there are no more candidates than rows
        return faiss.IndexRefineSearchParameters(k_factor=factor, base_index_params=inner)
    if isinstance(index, faiss.IndexIVF):
        nprobe = min(index.nlist, math.ceil(max(1, parameters.nprobe) / share))
        return faiss.SearchParametersIVF(sel=selector, nprobe=nprobe)
    if isinstance(index, faiss.IndexHNSW):
        candidates = max(k, min(index.ntotal, math.ceil(parameters.ef_search / share)))
        return faiss.SearchParametersHNSW(sel=selector, efSearch=candidates)
    return faiss.SearchParameters(sel=selector)


def bytes_per_vector(index: faiss.Index) -> int:
    """Bytes of a row: codes, identifier, links; without what all rows share."""
    if isinstance(index, faiss.IndexRefine):
        return bytes_per_vector(_without_whole_vectors(index)) + 4 * index.d
    if isinstance(index, faiss.IndexIVF):
        return index.code_size + 8
    if isinstance(index, faiss.IndexHNSW):
        return 4 * index.d + 4 * index.hnsw.nb_neighbors(0)
    return 4 * index.d


def read_vectors(path: Path, kind: str, dimension: int, rows: int, memory_map: bool) -> faiss.Index:
    """Read an index from its file and check that it has the expected kind, width and number of rows.

    Raises:
        TileIndexError: FAISS can't read the file or its name, or the file contains a different index.
    """
    if not is_unicode(str(path)):
        raise TileIndexError(f"{path} has a name that is not UTF-8, which FAISS can't open; rename the directory")
    # IO_FLAG_MMAP_IFC maps vectors, lists and graphs alike; IO_FLAG_MMAP maps lists and copies the rest.
    # The table that FAISS would compute for ivf_pq is only for Euclidean distances.
    flags = faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE | (faiss.IO_FLAG_MMAP_IFC if memory_map else 0)
    try:
        with _limited(path.stat().st_size):
            index = faiss.read_index(str(path), flags)
    except (RuntimeError, MemoryError) as error:
        reason = one_line(error).rpartition("Error: ")[2][:120]
        raise TileIndexError(f"{path} can't be read by FAISS ({reason}); build the index again") from None
    inner = _without_whole_vectors(index)
    names = (name for name, known in KINDS.items() if isinstance(inner, known.type))
    found = (next(names, type(inner).__name__), index.d, index.ntotal, index.metric_type)
    expected = (kind, dimension, rows, faiss.METRIC_INNER_PRODUCT)
    if found != expected or inner.d != dimension or inner.ntotal != rows:
        raise TileIndexError(
            f"{path} contains kind {found[0]} of width {found[1]} with {found[2]} rows, but card.json says kind {kind} "
            f"of width {dimension} with {rows}; build the index again"
        )
    return index


@contextmanager
def _limited(size: int) -> Iterator[None]:
    """Context in which FAISS rejects a file that states arrays larger than the file itself, ``size`` bytes."""
    before = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
    faiss.set_deserialization_vector_byte_limit(size)
    faiss.set_deserialization_loop_limit(size)
    try:
        yield
    finally:
        faiss.set_deserialization_vector_byte_limit(before[0])
        faiss.set_deserialization_loop_limit(before[1])
