"""Search around a last known position: stage one looks into the box around a circle, whose corners are dropped.

Suffixes: Q queries, D width of the recall vector, E width of the re-rank vector.
"""

from dataclasses import dataclass, replace

import numpy as np

from mindloc.errors import TileIndexError
from mindloc.geo.points import box_around, paired_distance_m
from mindloc.retrieval.tile_index import Box, IndexCard, TileIndex
from mindloc.retrieval.two_stage import Answers, two_stage_search


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
