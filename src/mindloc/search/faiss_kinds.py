"""The kinds of FAISS index: how each is sized, learned, searched among part of its rows, written and read.

======== =====================================================================================================
flat     every vector compared, exact
ivf_flat vectors in lists around learned centers; the lists nearest to a query are compared
ivf_pq   the same with each vector in a few bytes; with ``refine`` the whole vectors stand beside it
hnsw     a graph of neighbors that a query walks through
======== =====================================================================================================

Scores are inner products. Suffixes: Q queries, N rows, K answers, D width.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from mindloc.errors import TileIndexError, one_line

KINDS = ("flat", "ivf_flat", "ivf_pq", "hnsw")
LEARNED = ("ivf_flat", "ivf_pq")

_PQ_CODES = 256  # one byte a part
_ROWS_PER_LIST = 39  # below this many training rows FAISS calls a center badly learned
_MOST = 2**31 - 1  # FAISS's int
_RANGES = {"links": (2, 1024), "ef_construction": (1, _MOST), "train_rows": (1, _MOST)}
_WALK_SHARE = 0.1  # where fewer of the rows are wanted, a graph's walk meets too few of them


@dataclass(frozen=True)
class FaissParameters:
    """How an index is built and searched. 0 leaves a number to the count and width of the vectors.

    nprobe, refine (where it was built with any) and ef_search may be changed on a finished index.
    """

    nlist: int = 0  # ivf: lists; about 4 sqrt(N), where enough rows are learned from
    nprobe: int = 0  # ivf: lists compared per query
    pq_bytes: int = 0  # ivf_pq: bytes per vector, a divisor of the width; about a quarter of it
    refine: int = 0  # ivf_pq: this many times k candidates are scored by their whole vectors; 0: none are
    links: int = 32  # hnsw: neighbors per row, twice as many on the lowest level
    ef_construction: int = 80  # hnsw: candidates while building
    ef_search: int = 0  # hnsw: candidates while searching
    train_rows: int = 262_144  # ivf: rows to learn from, at most
    seed: int = 0


def resolve(
    kind: str, dimension: int, count: int, parameters: FaissParameters, learned: int | None = None
) -> FaissParameters:
    """The parameters with every 0 filled in for ``count`` vectors.

    Args:
        learned: vectors to learn lists and codes from; None: all of them.

    Raises:
        TileIndexError: an unknown kind, numbers out of range, or too few tiles to learn from.
    """
    if kind not in KINDS:
        raise TileIndexError(f"index kind {kind!r} is none of {', '.join(KINDS)}; take one of them")
    for name, value in vars(parameters).items():
        least, most = _RANGES.get(name, (0, _MOST))
        if not least <= value <= most:
            raise TileIndexError(f"index parameter {name} is {value}; give a whole number from {least} to {most}")
    if kind in LEARNED:
        learned = count if learned is None else learned
        parameters = _resolve_lists(kind, count, learned, parameters)
    if kind == "ivf_pq":
        parameters = _resolve_codes(dimension, learned, parameters)
    return replace(parameters, ef_search=parameters.ef_search or 64)


def _resolve_lists(kind: str, count: int, learned: int, parameters: FaissParameters) -> FaissParameters:
    if not count:
        raise TileIndexError(f"an index of kind {kind} learns from tiles and was given none; take flat or hnsw")
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
            f"an index of kind ivf_pq learns {_PQ_CODES} codes and needs as many tiles, {learned} were given; "
            "give more tiles and train_rows, or take ivf_flat or flat"
        )
    size = parameters.pq_bytes or max(m for m in range(1, max(1, dimension // 4) + 1) if dimension % m == 0)
    if dimension % size:
        raise TileIndexError(f"pq_bytes {size} is no divisor of the vectors' width {dimension}; give one that is")
    return replace(parameters, pq_bytes=size)


def new_index(kind: str, dimension: int, parameters: FaissParameters) -> faiss.Index:
    """An empty index; those that learn still have to."""
    if kind == "flat":
        return faiss.IndexFlatIP(dimension)
    if kind == "hnsw":
        graph = faiss.IndexHNSWFlat(dimension, parameters.links, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = parameters.ef_construction
        return graph
    centers, nlist = faiss.IndexFlatIP(dimension), parameters.nlist
    if kind == "ivf_flat":
        lists = faiss.IndexIVFFlat(centers, dimension, nlist, faiss.METRIC_INNER_PRODUCT)
    else:
        lists = faiss.IndexIVFPQ(centers, dimension, nlist, parameters.pq_bytes, 8, faiss.METRIC_INNER_PRODUCT)
        _learn_quietly(lists.pq.cp, parameters.seed)
    _learn_quietly(lists.cp, parameters.seed)
    return faiss.IndexRefineFlat(lists) if kind == "ivf_pq" and parameters.refine else lists


def _learn_quietly(clustering: faiss.ClusteringParameters, seed: int) -> None:
    clustering.seed = seed
    clustering.min_points_per_centroid = 1  # FAISS would warn on stderr; resolve has chosen the numbers to suit


def search(
    index: faiss.Index, query_QD: np.ndarray, k: int, kept_N: np.ndarray | None, parameters: FaissParameters
) -> tuple[np.ndarray, np.ndarray]:
    """(Q, K) scores and rows, best first, among the kept rows (None: all); row -1 past the last answer.

    Where few rows are kept more lists are compared, in proportion, and all where that still finds too few; a graph
    is not walked then, its vectors are compared one by one.
    """
    wanted = index.ntotal if kept_N is None else int(np.count_nonzero(kept_N))
    if not wanted:
        return np.full((len(query_QD), k), -np.inf, np.float32), np.full((len(query_QD), k), -1, np.int64)
    selector = None if kept_N is None else faiss.IDSelectorBitmap(np.packbits(kept_N, bitorder="little"))
    share = wanted / index.ntotal
    if isinstance(index, faiss.IndexHNSW) and share < _WALK_SHARE:
        return _all_of_graph(index, query_QD, k, selector)
    score_QK, row_QK = index.search(query_QD, k, params=_search_parameters(index, parameters, k, share, selector))
    short_Q = (row_QK >= 0).sum(axis=1) < min(k, wanted)
    if short_Q.any():
        again = query_QD[short_Q]
        score_QK[short_Q], row_QK[short_Q] = _exhaustive(index, again, k, parameters, selector)
    return score_QK, row_QK


def _exhaustive(index: faiss.Index, query_QD: np.ndarray, k: int, parameters: FaissParameters, selector: Any):
    if isinstance(index, faiss.IndexHNSW):
        return _all_of_graph(index, query_QD, k, selector)
    every = replace(parameters, nprobe=parameters.nlist)
    return index.search(query_QD, k, params=_search_parameters(index, every, k, 1.0, selector))


def _all_of_graph(index: faiss.IndexHNSW, query_QD: np.ndarray, k: int, selector: Any):
    vectors = faiss.downcast_index(index.storage)
    return vectors.search(query_QD, k, params=faiss.SearchParameters(sel=selector))


def _search_parameters(index: faiss.Index, parameters: FaissParameters, k: int, share: float, selector: Any):
    if isinstance(index, faiss.IndexRefine):
        lists = faiss.downcast_index(index.base_index)
        inner = _search_parameters(lists, parameters, k, share, selector)
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
    """What a row takes: codes, identity, links; not what all rows share."""
    if isinstance(index, faiss.IndexRefine):
        return bytes_per_vector(faiss.downcast_index(index.base_index)) + 4 * index.d
    if isinstance(index, faiss.IndexIVF):
        return index.code_size + 8
    if isinstance(index, faiss.IndexHNSW):
        return 4 * index.d + 4 * index.hnsw.nb_neighbors(0)
    return 4 * index.d


def read_vectors(path: Path, kind: str, dimension: int, rows: int, memory_map: bool) -> faiss.Index:
    """An index from its file, which must be of this kind, width and number of rows.

    Raises:
        TileIndexError: FAISS can't read the file, or it holds another index.
    """
    # IO_FLAG_MMAP_IFC maps vectors, lists and graphs alike; IO_FLAG_MMAP maps lists and copies the rest.
    # The table that FAISS would compute for ivf_pq serves Euclidean distances alone.
    flags = faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE | (faiss.IO_FLAG_MMAP_IFC if memory_map else 0)
    try:
        with _limited(path.stat().st_size):
            index = faiss.read_index(str(path), flags)
    except (RuntimeError, MemoryError) as error:
        raise TileIndexError(f"{path} can't be read by FAISS ({_reason(error)}); build the index again") from None
    inner = faiss.downcast_index(index.base_index) if isinstance(index, faiss.IndexRefine) else index
    found = (_kind_of(inner), index.d, index.ntotal, index.metric_type)
    expected = (kind, dimension, rows, faiss.METRIC_INNER_PRODUCT)
    if found != expected or inner.d != dimension or inner.ntotal != rows:
        raise TileIndexError(
            f"{path} holds kind {found[0]} of width {found[1]} with {found[2]} rows, its card says kind {kind} of "
            f"width {dimension} with {rows}; build the index again"
        )
    return index


def _kind_of(index: faiss.Index) -> str:
    types = {"flat": faiss.IndexFlat, "ivf_flat": faiss.IndexIVFFlat, "ivf_pq": faiss.IndexIVFPQ}
    types["hnsw"] = faiss.IndexHNSWFlat
    return next((kind for kind, type_ in types.items() if isinstance(index, type_)), type(index).__name__)


@contextmanager
def _limited(size: int) -> Iterator[None]:
    """FAISS believes no file that speaks of arrays larger than itself."""
    before = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
    faiss.set_deserialization_vector_byte_limit(size)
    faiss.set_deserialization_loop_limit(size)
    try:
        yield
    finally:
        faiss.set_deserialization_vector_byte_limit(before[0])
        faiss.set_deserialization_loop_limit(before[1])


def _reason(error: Exception) -> str:
    return one_line(error).rpartition("Error: ")[2][:120]
