"""Search in stages: recall among all tiles, re-rank the first n, on request compare the nodes of the first m.

Suffixes: Q queries, D width of the recall vector, E width of the re-rank vector.

What an extraction wrote, ready to be searched with or to become tiles of a library: reduced on the way if asked.

Letters: B rows of one batch, D width of the recall descriptor (reduced if asked), E width of the re-rank descriptor.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mindloc.descriptors.ranking import node_consistency
from mindloc.descriptors.reduction import Reduction, load_reduction, require_origin
from mindloc.descriptors.sets import RECALL_DESCRIPTORS, DescriptorSet, load_descriptor_sets
from mindloc.errors import TileIndexError
from mindloc.geo.points import box_around, paired_distance_m
from mindloc.search.index import Box, IndexCard, TileIndex, Tiles, read_index_card

_BATCH_NUMBERS = 2**24  # float32 of both descriptors: 64 MB


class Batch(NamedTuple):
    """Some rows of an extraction."""

    names: list[str]
    recall_BD: np.ndarray
    rerank_BE: np.ndarray | None


@dataclass(frozen=True)
class Extracted:
    """The sets of one extraction; of a one-stage encoder there is none to re-rank with."""

    recall: DescriptorSet
    rerank: DescriptorSet | None
    reduction: Reduction | None  # what is still to be done to the recall descriptors

    @property
    def count(self) -> int:
        return self.recall.count

    @property
    def checkpoint_sha256(self) -> str | None:
        return self.recall.card.get("checkpoint_sha256")

    @property
    def reduction_sha256(self) -> str | None:
        return self.reduction.sha256 if self.reduction else self.recall.card.get("reduction_sha256")

    @property
    def dimension(self) -> int:
        """Of the recall descriptors as they leave ``batches``."""
        return self.reduction.dimension if self.reduction else self.recall.card["dimension"]

    def index_card(self, kind: str) -> IndexCard:
        """The card of a library of these rows.

        Raises:
            TileIndexError: the cards of the sets hold facts of a wrong type.
        """
        facts = {
            "kind": kind,
            "descriptor": self.recall.descriptor,
            "dimension": self.dimension,
            "rerank_dimension": self.rerank.card["dimension"] if self.rerank else None,
            "nodes": self.rerank.card.get("nodes") if self.rerank else None,
            "place_unit": self.recall.card["place_unit"],
            "checkpoint_sha256": self.checkpoint_sha256,
            "reduction_sha256": self.reduction_sha256,
        }
        card = read_index_card(facts)
        if card is None:
            said = ", ".join(f"{name} {value!r}" for name, value in facts.items())
            raise TileIndexError(f"cards of the extraction hold a fact of a wrong type ({said}); extract it again")
        return card

    def batches(self) -> Iterator[Batch]:
        """All rows in order, as many at a time as fit a few dozen megabytes."""
        names = self.recall.names
        for rows in self._slices():
            recall_BD = self.recall.descriptor_ND[rows]
            if self.reduction:
                recall_BD = self.reduction.project(recall_BD)
            yield Batch(names[rows], recall_BD, self.rerank.descriptor_ND[rows] if self.rerank else None)

    def tiles(self) -> Iterator[Tiles]:
        """The same rows as tiles."""
        place_N2, bounds_N4 = self.recall.place_N2(), self.recall.bounds_N4()
        for rows, batch in zip(self._slices(), self.batches(), strict=True):
            yield Tiles(*batch, place_N2[rows], bounds_N4[rows])

    def _slices(self) -> Iterator[slice]:
        width = self.recall.card["dimension"] + (self.rerank.card["dimension"] if self.rerank else 0)
        step = max(1, _BATCH_NUMBERS // width)
        return (slice(start, start + step) for start in range(0, self.count, step))


def load_extracted(folder: Path, pca: Path | None = None) -> Extracted:
    """An extraction from its folder.

    Args:
        pca: reduce its recall descriptors by this file.

    Raises:
        DataError: a set is missing or damaged, or two don't belong together.
        TileIndexError: no recall descriptors; a reduction that is damaged, of another encoder, or one too many.
    """
    sets = load_descriptor_sets(folder)
    recall = next((sets[name] for name in RECALL_DESCRIPTORS if name in sets), None)
    if recall is None:
        raise TileIndexError(
            f"{folder} holds {', '.join(sets)} alone; name the folder that extract wrote, which holds omega as well"
        )
    reduction = None
    if pca is not None:
        if recall.card.get("reduction_sha256"):
            raise TileIndexError(f"{folder} was reduced when it was extracted; leave --pca out")
        reduction = load_reduction(pca)
        require_origin(reduction, recall.card.get("checkpoint_sha256"))
    return Extracted(recall, sets.get("phi"), reduction)


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


@dataclass(frozen=True)
class Circle:
    """Where to look: tiles whose place is at most this far from a position, the edge included."""

    place: tuple[float, float]  # in the unit of the library's places
    radius_m: float

    def box(self, card: IndexCard) -> Box:
        """The smallest box of the library's places that holds the circle.

        Raises:
            TileIndexError: the library knows no places, or the position is none in their unit.
            DataError: no box of degrees holds it: around a pole or across the 180th meridian.
        """
        if card.place_unit is None:
            raise TileIndexError("this library knows no places of its tiles; build it from tiles that have some")
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
        n: tiles of the box that are asked for, also where there is but one stage; at least k. A query gets fewer than
            k answers where fewer of these lie within the circle.

    Raises:
        TileIndexError: as ``two_stage_search``; the library knows no places, or the position is none.
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
