"""Search in stages: recall among all tiles, re-rank the first n, on request compare the nodes of the first m.

Around a last known position, stage one looks into the box around a circle; answers in its corners are dropped.

Shapes: Q queries, D width of the recall vector, E width of the re-rank vector.
"""

import time
from dataclasses import dataclass, replace
from importlib import import_module

import numpy as np

from mindloc.descriptors.ranking import node_consistency
from mindloc.errors import TileIndexError
from mindloc.geo.points import box_around, paired_distance_m
from mindloc.search.index import Box, IndexCard, TileIndex


@dataclass(frozen=True)
class Answers:
    """Answers to Q queries, best first; fewer than requested where ``Hits`` has fewer."""

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
        TileIndexError: k, n or m contradict each other or the index; the queries do not fit it.
    """
    if m:
        import_module("scipy.optimize")  # which node_consistency loads: not in anybody's time
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
    if not 1 <= k <= n or not 0 <= m <= n:  # n itself is checked by recall: counting may take its time
        raise TileIndexError(
            f"{k} answers from {n} recalled tiles with {m} compared by nodes; neither must exceed the recalled tiles"
        )
    if len(query_QD) != len(query_QE):
        raise TileIndexError(
            f"{len(query_QD)} recall vectors and {len(query_QE)} re-rank vectors of queries; give pairs"
        )
    if index.card.rerank_dimension is None:
        raise TileIndexError("the index contains no re-rank vectors; search by stage one alone, or build it with some")
    if m and index.card.nodes is None:
        raise TileIndexError("the index does not say how many nodes its re-rank vectors have; take m = 0")


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


@dataclass(frozen=True)
class Circle:
    """Where to look: tiles whose place is at most this far from a position, the edge included."""

    place: tuple[float, float]  # in the unit of the index's places
    radius_m: float

    def box(self, card: IndexCard) -> Box:
        """The smallest box of the index's places that contains the circle.

        Raises:
            TileIndexError: the index knows no places, or the position is none in their unit.
            DataError: no box of degrees contains it: around a pole or across the 180th meridian.
        """
        if card.place_unit is None:
            raise TileIndexError("this index knows no places of its tiles; build it from tiles that have some")
        if card.place_unit == "lat_lon_deg" and not (abs(self.place[0]) <= 90 and abs(self.place[1]) <= 180):
            raise TileIndexError(
                f"{self.place[0]},{self.place[1]} is no place in degrees; give latitude before longitude"
            )
        return Box(*box_around(self.place, self.radius_m, card.place_unit))


def near_search(
    index: TileIndex,
    query_QD: np.ndarray,
    query_QE: np.ndarray | None,
    n: int,
    k: int,
    circle: Circle,
    m: int = 0,
) -> Answers:
    """The k best tiles of each query within a circle, as ``two_stage_search`` of the box around it orders them.

    Args:
        n: tiles of the box that are requested, also where there is only one stage; at least k. A query gets fewer than
            k answers where fewer of these lie within the circle.

    Raises:
        TileIndexError: as ``two_stage_search``; the index knows no places, or the position is none.
        DataError: as ``Circle.box``.
    """
    if not 1 <= k <= n:
        raise TileIndexError(f"{k} answers from {n} tiles of the box; answers must not exceed them")
    found = two_stage_search(index, query_QD, query_QE, n, n, m, circle.box(index.card))
    facts = iter(index.facts([name for names in found.names for name in names]))
    places = [[next(facts).place for _ in names] for names in found.names]
    kept = [_within(circle, own, index.card)[:k] for own in places]
    return replace(
        found,
        names=[[names[place] for place in own] for names, own in zip(found.names, kept, strict=True)],
        scores=[scores[own] for scores, own in zip(found.scores, kept, strict=True)],
        recall_rank=[ranks[own] for ranks, own in zip(found.recall_rank, kept, strict=True)],
        compared=[int((own < count).sum()) for own, count in zip(kept, found.compared, strict=True)],
    )


def _within(circle: Circle, places: list[tuple[float, float]], card: IndexCard) -> np.ndarray:
    """Which of the answers lie within, int64, in order."""
    place_N2 = np.array(places, np.float64).reshape(-1, 2)
    return np.flatnonzero(paired_distance_m(circle.place, place_N2, card.place_unit) <= circle.radius_m)
