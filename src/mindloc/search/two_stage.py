"""Search in stages: recall among all tiles, re-rank the first n, optionally compare the nodes of the first m.

Around a last known position, stage one searches the box around the circle; answers outside the circle are dropped.

Shapes: Q queries, D width of the recall vector, E width of the re-rank vector.
"""

import time
from dataclasses import dataclass, replace
from importlib import import_module

import numpy as np

from mindloc.descriptors.ranking import node_consistency
from mindloc.errors import TileIndexError
from mindloc.geo.points import paired_distance_m
from mindloc.search.index import Box, Circle, TileIndex


@dataclass(frozen=True)
class Answers:
    """Answers to Q queries, best first; fewer than requested for the reasons given in ``Hits``."""

    names: list[list[str]]
    scores: list[np.ndarray]  # of the last stage that compared the tile: consistencies, then cosines
    compared: list[int]  # how many of these scores are consistencies
    recall_rank: list[np.ndarray]  # int64, rank that each answer had in stage one, 1-based
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
    where: Box | Circle | None = None,
) -> Answers:
    """The k best tiles of each query, or fewer if the searched area contains fewer.

    Args:
        query_QD: recall vectors.
        query_QE: re-rank vectors; None: only stage one, without re-ranking.
        n: tiles that stage one passes to stage two.
        k: answers, at most n.
        m: first answers of stage two that are re-ordered by node consistency, at most n; 0: none.
        where: area to search; None: everywhere. For a circle, n tiles of the box around it are requested, even with
            only one stage, and those outside the circle are dropped.

    Raises:
        TileIndexError: k, n or m contradict each other or the index; the queries do not fit it; the reasons given
            in ``where.box``.
    """
    box = None if where is None else where.box(index.card)
    if not isinstance(where, Circle):
        return _search(index, query_QD, query_QE, n, k, m, box)
    if not 1 <= k <= n:
        raise TileIndexError(f"{k} answers are requested from {n} tiles of the box; request 1 to {n}")
    return _within(where, _search(index, query_QD, query_QE, n, n, m, box), k, index)


def _search(
    index: TileIndex, query_QD: np.ndarray, query_QE: np.ndarray | None, n: int, k: int, m: int, box: Box | None
) -> Answers:
    if m:
        import_module("scipy.optimize")  # loaded here, so that its time is not counted as node_consistency's
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
    if not 1 <= k <= n or not 0 <= m <= n:  # n is checked by ``recall``, as counting tiles may take time
        raise TileIndexError(
            f"{k} answers are requested from {n} recalled tiles, {m} of them compared by nodes; neither must exceed {n}"
        )
    if len(query_QD) != len(query_QE):
        raise TileIndexError(
            f"queries have {len(query_QD)} recall vectors, but {len(query_QE)} re-rank vectors; give one each per query"
        )
    if index.card.rerank_dimension is None:
        raise TileIndexError("the index contains no re-rank vectors; search by stage one alone, or build it with some")
    if m and index.card.nodes is None:
        raise TileIndexError("the index card does not say how many nodes its re-rank vectors have; set m to 0")


def _by_consistency(
    index: TileIndex, query_E: np.ndarray, names: list[str], score_N: np.ndarray, m: int
) -> tuple[list[str], np.ndarray]:
    """Re-order the first m answers by their consistency; ties keep their order, later answers their places."""
    if not names:
        return names, score_N
    consistency_M = node_consistency(query_E, index.rerank_vectors(names[:m]), index.card.nodes)
    order = np.argsort(-consistency_M, kind="stable")
    score_N = np.concatenate([consistency_M[order], score_N[m:]])
    return [names[place] for place in order] + names[m:], score_N


def _places(names: list[str], recalled: list[str]) -> np.ndarray:
    place_of = {name: place for place, name in enumerate(recalled, 1)}
    return np.array([place_of[name] for name in names], np.int64)


def _within(circle: Circle, found: Answers, k: int, index: TileIndex) -> Answers:
    """The first k of each query's answers within the circle."""
    facts = iter(index.facts([name for names in found.names for name in names]))
    kept = []
    for names in found.names:
        place_N2 = np.array([next(facts).place for _ in names], np.float64).reshape(-1, 2)
        distance_N = paired_distance_m(circle.place, place_N2, index.card.place_unit)
        kept.append(np.flatnonzero(distance_N <= circle.radius_m)[:k])
    return replace(
        found,
        names=[[names[place] for place in own] for names, own in zip(found.names, kept, strict=True)],
        scores=[scores[own] for scores, own in zip(found.scores, kept, strict=True)],
        recall_rank=[ranks[own] for ranks, own in zip(found.recall_rank, kept, strict=True)],
        compared=[int((own < count).sum()) for own, count in zip(kept, found.compared, strict=True)],
    )
