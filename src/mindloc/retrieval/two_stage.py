"""Search in stages: recall among all tiles, re-rank the first n, on request compare the nodes of the first m.

Suffixes: Q queries, D width of the recall vector, E width of the re-rank vector.
"""

import time
from dataclasses import dataclass

import numpy as np

from mindloc.errors import TileIndexError
from mindloc.retrieval.consistency import node_consistency
from mindloc.retrieval.tile_index import Box, TileIndex


@dataclass(frozen=True)
class Answers:
    """Answers to Q queries, best first; fewer than asked for where ``Hits`` has fewer."""

    names: list[list[str]]
    scores: list[np.ndarray]  # of the stage that decided: consistencies, then cosines
    compared: list[int]  # how many of these scores are consistencies
    recall_rank: list[np.ndarray]  # int64, place that each answer had in stage one, 1-based
    recall_s: float  # seconds of the whole batch
    rerank_s: float
    consistency_s: float


def two_stage_search(
    index: TileIndex,
    query_QD: np.ndarray,
    query_QE: np.ndarray | None,
    n: int,
    k: int,
    m: int = 0,
    box: Box | None = None,
) -> Answers:
    """The k best tiles of each query.

    Args:
        query_QD: recall vectors.
        query_QE: re-rank vectors; None: stage one alone, which n has no part in.
        n: tiles that stage one hands to stage two.
        k: answers, at most n.
        m: first answers of stage two that change places by node consistency, at most n; 0: none.
        box: where to look; None: everywhere.

    Raises:
        TileIndexError: k, n or m contradict each other or the library; the queries do not fit it.
    """
    started = time.perf_counter()
    if query_QE is None:
        if m:
            raise TileIndexError(f"node consistency of {m} answers needs re-rank vectors of the queries; give some")
        found = index.recall(query_QD, k, box)
        ranks = [np.arange(1, len(names) + 1) for names in found.names]
        return Answers(found.names, found.scores, [0] * len(ranks), ranks, time.perf_counter() - started, 0.0, 0.0)
    _check(index, query_QD, query_QE, n, k, m)
    recalled = index.recall(query_QD, n, box)
    recalled_at = time.perf_counter()
    reranked = index.rerank(query_QE, recalled.names, max(k, m))
    names, scores = reranked.names, reranked.scores
    reranked_at = time.perf_counter()
    for query in range(len(names) if m else 0):
        names[query], scores[query] = _by_consistency(index, query_QE[query], names[query], scores[query], m)
    names, scores = [own[:k] for own in names], [own[:k] for own in scores]
    consistent_at = time.perf_counter()
    return Answers(
        names=names,
        scores=scores,
        compared=[min(m, len(own)) for own in names],
        recall_rank=[_places(own, first) for own, first in zip(names, recalled.names, strict=True)],
        recall_s=recalled_at - started,
        rerank_s=reranked_at - recalled_at,
        consistency_s=consistent_at - reranked_at,
    )


def _check(index: TileIndex, query_QD: np.ndarray, query_QE: np.ndarray, n: int, k: int, m: int) -> None:
    if not 1 <= k <= n or not 0 <= m <= n:  # n itself is checked by recall: to count a library may take its time
        raise TileIndexError(
            f"{k} answers from {n} recalled tiles with {m} compared by nodes; neither must exceed the recalled tiles"
        )
    if len(query_QD) != len(query_QE):
        raise TileIndexError(
            f"{len(query_QD)} recall vectors and {len(query_QE)} re-rank vectors of queries; give pairs"
        )
    if index.card.rerank_dimension is None:
        raise TileIndexError(
            "the library holds no re-rank vectors; search it by stage one alone, or build it with some"
        )
    if m and index.card.nodes is None:
        raise TileIndexError("the library does not say how many nodes its re-rank vectors have; take m = 0")


def _by_consistency(
    index: TileIndex, query_E: np.ndarray, names: list[str], score_N: np.ndarray, m: int
) -> tuple[list[str], np.ndarray]:
    """The first m in the order of their consistency, equal ones as before; those behind stay."""
    if not names:
        return names, score_N
    consistency_M = node_consistency(query_E, index.rerank_vectors(names[:m]), index.card.nodes)
    order = np.argsort(-consistency_M, kind="stable")
    score_N = np.concatenate([consistency_M[order], score_N[m:]])
    return [names[place] for place in order] + names[m:], score_N


def _places(names: list[str], recalled: list[str]) -> np.ndarray:
    place_of = {name: place for place, name in enumerate(recalled, 1)}
    return np.array([place_of[name] for name in names], np.int64)
