"""Check of the IoUs in a pairs file against the footprints of its images, if the poses in the file explain the IoUs.

A pose is height, yaw, pitch and roll of ``drone_metadata``. The file states no field of view, so the one that explains
the IoUs of a sample best is used. If none explains them, the footprints are unknown and nothing is checked.

Shapes: Q query images, E pairs, 4 the bounds of a tile or the numbers of a pose.
"""

import numpy as np

from mindloc.data.pairs_file import PairsFile
from mindloc.data.readers import Report
from mindloc.data.split import Split
from mindloc.geo.footprints import camera_axes, footprints_m, iou_with_bounds
from mindloc.geo.points import EARTH_RADIUS_M, PlaceUnit, lon_from

_SAMPLE = 200  # pairs that the field of view is fitted to
_FEWEST = 10  # pairs with a pose and bounds that a fit needs
_ASPECTS = (3 / 4, 9 / 16, 2 / 3, 1.0)  # height over width of an image
_HALF_WIDTH_TANS = np.geomspace(0.15, 1.5, 60)
_EXPLAINED = 0.01  # largest median error of the IoUs after a fit; it is 0.0001 if no place is rounded
_WRONG = 0.1  # IoUs that differ by more are reported
_HORIZON_DEG = 85.0  # angle from straight down; corners that look higher have no footprint


def check_footprints(pairs: PairsFile, split: Split, bounds_S4: np.ndarray, report: Report) -> None:
    """Report IoUs that differ from those of the footprints, if the footprints are known.

    Args:
        split: as read from ``pairs``.
        bounds_S4: ground of all tiles of the split, minimum of both coordinates, then maximum; NaN where unknown.
    """
    edges, query_E = split.semipositive, split.semipositive.query()
    bounds_E4 = _around(bounds_S4[edges.reference], split.query.places.coordinate_N2[query_E], pairs.layout.place_unit)
    pose_E4, iou_E = pairs.pose[query_E], np.asarray(edges.columns["iou"], np.float64)
    known = np.flatnonzero(~np.isnan(pose_E4).any(axis=1) & ~np.isnan(bounds_E4).any(axis=1))
    if len(known) < _FEWEST:
        return
    sample = known[np.linspace(0, len(known) - 1, min(_SAMPLE, len(known))).astype(int)]
    lens = _fit(pose_E4[sample], bounds_E4[sample], iou_E[sample])
    if lens is None:
        return
    found_N = _ious(pose_E4[known], bounds_E4[known], *lens)
    for place in np.flatnonzero(np.abs(found_N - iou_E[known]) > _WRONG):
        edge = known[place]
        where = pairs.where(int(query_E[edge]), pairs.layout.list_keys("pos_semipos")[1])
        report.doubt(
            "IoU of footprints",
            f"{where}: IoU with {split.reference.files[edges.reference[edge]]} is {iou_E[edge]:.2f}, but the image's "
            f"place, height and angles give {found_N[place]:.2f}; correct the tile, the weight or the place",
        )


def _around(bounds_E4: np.ndarray, place_E2: np.ndarray, unit: PlaceUnit) -> np.ndarray:
    """(left, top, right, bottom) of each tile in meters relative to the place of its image, x east, y south."""
    if unit == "plane_m":
        return bounds_E4 - np.tile(place_E2, 2)
    lat_E, lon_E = place_E2.T
    meters_per_deg_E = EARTH_RADIUS_M * np.radians(1.0) * np.cos(np.radians(lat_E))
    left_E = (lon_from(bounds_E4[:, 1], lon_E) - lon_E) * meters_per_deg_E
    width_E = (bounds_E4[:, 3] - bounds_E4[:, 1]) * meters_per_deg_E
    top_E, bottom_E = (EARTH_RADIUS_M * np.radians(lat_E - bounds_E4[:, side]) for side in (2, 0))
    return np.stack([left_E, top_E, left_E + width_E, bottom_E], axis=1)


def _fit(pose_N4: np.ndarray, bounds_N4: np.ndarray, iou_N: np.ndarray) -> tuple[float, float] | None:
    """(aspect, tangent of half the horizontal field of view) that explain the IoUs; None if no values do."""

    def error(lens: tuple[float, float]) -> float:
        off_N = np.abs(_ious(pose_N4, bounds_N4, *lens) - iou_N)
        return float(np.median(np.where(np.isnan(off_N), 1.0, off_N)))

    best = min(((aspect, float(tan)) for aspect in _ASPECTS for tan in _HALF_WIDTH_TANS), key=error)
    best = min(((best[0], float(best[1] * factor)) for factor in np.linspace(0.96, 1.04, 33)), key=error)
    return best if error(best) <= _EXPLAINED else None


def _ious(pose_N4: np.ndarray, bounds_N4: np.ndarray, aspect: float, half_width_tan: float) -> np.ndarray:
    """(N,) IoU of the footprint of each camera, at (0, 0), with its tile; NaN where a corner looks at the horizon."""
    height_N, yaw_N, pitch_N, roll_N = pose_N4.T
    corner_deg = np.degrees(np.arctan(half_width_tan * np.hypot(1, aspect)))
    down = np.flatnonzero(np.abs(pitch_N + 90) + np.abs(roll_N) + corner_deg < _HORIZON_DEG)
    axes = camera_axes(yaw_N[down], pitch_N[down], roll_N[down])
    footprint_N42 = footprints_m(np.zeros((len(down), 2)), height_N[down], axes, aspect, half_width_tan)
    found_N = np.full(len(pose_N4), np.nan)
    found_N[down] = iou_with_bounds(footprint_N42, bounds_N4[down])
    return found_N
