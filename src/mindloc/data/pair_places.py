"""Check of the places in a pairs file against its overlaps: what can't be true is reported by ``Report.doubt``.

A query image is taken from above its own footprint or near it, so a tile that the footprint overlaps by some IoU is at
most a few tile sides away. The distance is larger if coordinates are exchanged, a sign is lost, the unit is wrong, or
the camera had no position fix.

Shapes: Q query images, S tiles, E pairs (a query image and a tile).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mindloc.data.footprint_check import check_footprints
from mindloc.data.pairs_file import FAR_M, PairsFile
from mindloc.data.readers import Report, repeated_ground
from mindloc.data.split import Split
from mindloc.geo.points import EARTH_RADIUS_M, PlaceUnit, lon_from, paired_distance_m

_UNKNOWN_SIDE_LIMIT_M = 20_000.0  # distance allowed to a tile of unknown side; drone images show less
_LEAST_IOU = 0.05  # a smaller IoU says little about the size of the footprint
_ROUNDED = 0.05  # error allowed in the IoUs of a file
_SIDES_OFF = 1.0  # median distance of images from their tiles, in tile sides, above which they look misplaced
_FEWEST_FITTED = 5  # fewest query images that a map's size is fitted to
_EXPLAINED = 0.25  # fraction of that distance that remains at most if a known mistake explains it


@dataclass(frozen=True)
class _Pairs:
    """The pairs of a file, the places of their images, and distances between them."""

    query_E: np.ndarray
    tile_E: np.ndarray
    iou_E: np.ndarray  # float64
    query_Q2: np.ndarray  # places
    tile_S2: np.ndarray  # centers
    side_S: np.ndarray  # meters, NaN where unknown
    unit: PlaceUnit

    def distance_m(self, query_Q2: np.ndarray) -> np.ndarray:
        """(E,) distance of the query images, at these places, from the centers of their tiles."""
        return paired_distance_m(query_Q2[self.query_E], self.tile_S2[self.tile_E], self.unit)

    def limit_m(self) -> np.ndarray:
        """(E,) largest possible distance of a tile from the camera.

        The footprint's area is at most that of the tile divided by the IoU. The camera may be outside the footprint and
        look sideways.
        """
        limit_E = self.side_S[self.tile_E] * (1 + 2 / np.sqrt(np.maximum(self.iou_E, _LEAST_IOU)))
        return np.where(np.isnan(limit_E), _UNKNOWN_SIDE_LIMIT_M, limit_E)

    def sides_off(self, distance_E: np.ndarray) -> float:
        """Median over the query images of the distance to their best tile, in sides of that tile; NaN if unknown."""
        best = best_pairs(self.query_E, self.iou_E)
        ratio = distance_E[best] / self.side_S[self.tile_E[best]]
        known = ratio[~np.isnan(ratio)]
        return float(np.median(known)) if len(known) else np.nan


def check_places(pairs: PairsFile, split: Split, bounds_S4: np.ndarray, report: Report) -> None:
    """Report query images far from their tiles, pairs that contradict each other, and tiles that cover the same ground.

    Args:
        split: as read from ``pairs``.
        bounds_S4: ground of all tiles of the split, minimum of both coordinates, then maximum; NaN where unknown.
    """
    edges, unit = split.semipositive, pairs.layout.place_unit
    if not report.cross_checks or not len(edges):
        return
    iou_E = np.asarray(edges.columns["iou"], np.float64)
    places = split.query.places.coordinate_N2, split.reference.places.coordinate_N2
    stated = _Pairs(edges.query(), edges.reference, iou_E, *places, sides_m(bounds_S4, unit), unit)
    _check_distances(pairs, split, stated, bounds_S4, report)
    _check_tiles_of_a_query(pairs, split, stated, bounds_S4, report)
    check_footprints(pairs, split, bounds_S4, report)
    if repeated := repeated_ground(bounds_S4, split.reference.files):
        report.note(f"{split.root}: {repeated}")


def best_pairs(query_E: np.ndarray, iou_E: np.ndarray) -> np.ndarray:
    """For each query image with pairs: the index of the pair of highest IoU."""
    order_E = np.lexsort((-iou_E, query_E))
    return order_E[np.unique(query_E[order_E], return_index=True)[1]]


def fitting_side_m(
    split: Split, part_S2: np.ndarray, tile_part_S: np.ndarray, stated_S2: np.ndarray, side_m: float
) -> float | None:
    """Side in meters of the square map that the places of a pairs file fit; None if it is ``side_m`` or unknown.

    If the stated centers are those of some map, that map decides, unless it moves the query images away from their
    tiles. Without such centers the query images decide, if they are far from their tiles with ``side_m`` and near them
    with a different side.

    Args:
        split: the places of its tiles are not used.
        part_S2: centers of the tiles, (x, y) in sides of the map.
        tile_part_S: sides of the tiles, in sides of the map.
        stated_S2: centers as the file states them, meters; NaN where it states none.
    """
    edges, query_Q2 = split.semipositive, split.query.places.coordinate_N2
    best = best_pairs(edges.query(), edges.columns["iou"])
    query_N2, tile_N = query_Q2[edges.query()[best]], edges.reference[best]

    def sides_off(side_m: float) -> float:
        """Median distance of the query images from their best tiles, in tile sides."""
        off_N2 = query_N2 / side_m - part_S2[tile_N]
        return float(np.median(np.hypot(*off_N2.T) / tile_part_S[tile_N])) if len(tile_N) else np.nan

    known = ~np.isnan(stated_S2[:, 0])
    stated_m = _side_m(stated_S2[known], part_S2[known])
    off_N = np.hypot(*(stated_S2[known] - stated_m * part_S2[known]).T)
    if len(off_N) and stated_m > 0 and np.quantile(off_N, 0.95) <= FAR_M:
        unlike = abs(stated_m - side_m) > FAR_M and not sides_off(stated_m) > sides_off(side_m)
        return stated_m if unlike else None
    fitted_m = _side_m(query_N2, part_S2[tile_N])
    in_km = any(abs(fitted_m / side_m / unit - 1) < 0.1 for unit in (0.001, 1000))  # the places' unit is wrong
    if len(best) < _FEWEST_FITTED or in_km or not fitted_m > 0 or abs(fitted_m / side_m - 1) < 0.05:
        return None
    return fitted_m if sides_off(side_m) > max(_SIDES_OFF, sides_off(fitted_m) / _EXPLAINED) else None


def _side_m(place_N2: np.ndarray, part_N2: np.ndarray) -> float:
    """The side of the map by least squares: places in meters are those in map sides times it. NaN without places."""
    squares = np.square(part_N2).sum()
    return float((place_N2 * part_N2).sum() / squares) if squares else np.nan


def sides_m(bounds_S4: np.ndarray, unit: PlaceUnit) -> np.ndarray:
    """(S,) side in meters of a square with the area of each tile."""
    size_S2 = bounds_S4[:, 2:] - bounds_S4[:, :2]
    if unit == "lat_lon_deg":
        middle_S = np.radians((bounds_S4[:, 0] + bounds_S4[:, 2]) / 2)
        size_S2 = EARTH_RADIUS_M * np.radians(size_S2) * np.stack([np.ones_like(middle_S), np.cos(middle_S)], axis=1)
    return np.sqrt(size_S2.prod(axis=1))


def _check_distances(pairs: PairsFile, split: Split, stated: _Pairs, bounds_S4: np.ndarray, report: Report) -> None:
    distance_E, limit_E = stated.distance_m(stated.query_Q2), stated.limit_m()
    others = [(how, stated.distance_m(query_Q2)) for how, query_Q2 in _mistakes(stated, bounds_S4)]
    off = stated.sides_off(distance_E)
    for how, other_E in others:
        left = stated.sides_off(other_E)
        if off > _SIDES_OFF and left < _EXPLAINED * off:
            report.doubt(
                "places of all query images",
                f"{pairs.path}: query images are {off:.3g} tile sides from their best tiles, but {left:.2f} with "
                f"{how}; correct drone_{pairs.layout.place_key} that way",
            )
            break
    order_E = np.argsort(-distance_E / limit_E, kind="stable")
    far = order_E[: np.count_nonzero(distance_E > limit_E)]
    _, first = np.unique(stated.query_E[far], return_index=True)
    for edge in far[first]:
        query, tile = int(stated.query_E[edge]), split.reference.files[stated.tile_E[edge]]
        place = ", ".join(f"{number:.9g}" for number in stated.query_Q2[query])
        hint = next((f" ({how} would fit)" for how, other_E in others if other_E[edge] <= limit_E[edge]), "")
        if not stated.query_Q2[query].any():
            hint = " (0, 0: a camera without a position fix?)"
        report.doubt(
            "place far from its tiles",
            f"{pairs.where(query, f'drone_{pairs.layout.place_key}')}: {place} is {_length(distance_E[edge])} from "
            f"{tile}, which the image covers with IoU {stated.iou_E[edge]:.2f}; expected at most "
            f"{_length(limit_E[edge])}{hint}: correct the place or the pair",
        )


def _mistakes(stated: _Pairs, bounds_S4: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (correction, corrected places (Q, 2)) for each mistake that is known from data sets."""
    a_Q, b_Q = stated.query_Q2.T
    exchanged_Q2 = stated.query_Q2[:, ::-1]
    if stated.unit == "lat_lon_deg":
        yield "latitude and longitude exchanged", np.where(np.abs(b_Q)[:, None] <= 90, exchanged_Q2, np.nan)
        yield "the sign of the longitude changed", np.stack([a_Q, -b_Q], axis=1)
        yield "the sign of the latitude changed", np.stack([-a_Q, b_Q], axis=1)
        yield "both signs changed", -stated.query_Q2
    else:
        yield "x and y exchanged", exchanged_Q2
        yield "kilometers made meters", stated.query_Q2 * 1000
        yield "millimeters made meters", stated.query_Q2 / 1000
        top, bottom = np.nanmin(bounds_S4[:, 1]), np.nanmax(bounds_S4[:, 3])
        yield "y down instead of up", np.stack([a_Q, top + bottom - b_Q], axis=1)


def _check_tiles_of_a_query(
    pairs: PairsFile, split: Split, stated: _Pairs, bounds_S4: np.ndarray, report: Report
) -> None:
    """Report two tiles of one image that overlap each other too little for their IoUs with the image.

    1 - IoU is a metric, so 1 - IoU(tile, other) <= (1 - IoU(image, tile)) + (1 - IoU(image, other)).
    """
    order_E = np.lexsort((-stated.iou_E, stated.query_E))
    query_E = stated.query_E[order_E]
    start = np.flatnonzero(np.diff(query_E, prepend=-1))
    best_E = np.empty_like(order_E)
    best_E[order_E] = np.repeat(order_E[start], np.diff(np.append(start, len(order_E))))
    tile_E, other_E = stated.tile_E[best_E], stated.tile_E
    shared_E = rectangle_iou(bounds_S4[tile_E], bounds_S4[other_E], stated.unit)
    least_E = stated.iou_E[best_E] + stated.iou_E - 1
    for edge in np.flatnonzero((best_E != np.arange(len(best_E))) & (shared_E < least_E - _ROUNDED)):
        tile, other = (split.reference.files[index] for index in (tile_E[edge], other_E[edge]))
        report.doubt(
            "tiles that contradict each other",
            f"{pairs.where(int(stated.query_E[edge]), pairs.layout.list_keys('pos_semipos')[1])}: IoU "
            f"{stated.iou_E[best_E[edge]]:.2f} with {tile} and {stated.iou_E[edge]:.2f} with {other}, whose own IoU is "
            f"{shared_E[edge]:.2f}; expected {least_E[edge]:.2f} or more: correct the tile or the weight",
        )


def rectangle_iou(a_E4: np.ndarray, b_E4: np.ndarray, unit: PlaceUnit) -> np.ndarray:
    """(E,) intersection over union of the upright rectangles a[i] and b[i]; NaN where one is unknown."""
    if unit == "lat_lon_deg":
        shift_E = lon_from(b_E4[:, 1], a_E4[:, 1]) - b_E4[:, 1]
        b_E4 = b_E4 + np.stack([np.zeros_like(shift_E), shift_E] * 2, axis=1)
    shared_E2 = np.minimum(a_E4[:, 2:], b_E4[:, 2:]) - np.maximum(a_E4[:, :2], b_E4[:, :2])
    shared_E = np.maximum(shared_E2, 0).prod(axis=1)
    areas = [(bounds_E4[:, 2:] - bounds_E4[:, :2]).prod(axis=1) for bounds_E4 in (a_E4, b_E4)]
    return shared_E / (sum(areas) - shared_E)


def _length(meters: float) -> str:
    return f"{meters / 1000:.0f} km" if meters >= 10_000 else f"{meters:.0f} m"
