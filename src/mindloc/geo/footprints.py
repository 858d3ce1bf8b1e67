"""Ground footprints of posed cameras over flat ground, and their overlap with upright rectangles.

The plane has x to the east and y down (to the south), as on the map; heights go up. A camera's attitude is given by
yaw clockwise from north, pitch -90 straight down, and roll about the line of sight. Polygons are convex, with
their corners clockwise or counterclockwise. Shapes: F frames, P polygons, V corners.
"""

import numpy as np


def camera_axes(yaw_deg, pitch_deg, roll_deg) -> np.ndarray:
    """Unit vectors of a camera in the world, shape (F, 3, 3): rows are right, image-down, forward.

    World axes are (x east, y south, z up). At pitch -90, yaw 0, roll 0 the top of the image is north.

    Args:
        yaw_deg: clockwise from north, shape (F,) or scalar.
        pitch_deg: -90 looks straight down, 0 at the horizon.
        roll_deg: clockwise turn of the camera about its line of sight.
    """
    yaw, pitch, roll = (np.atleast_1d(np.radians(np.asarray(a, np.float64))) for a in (yaw_deg, pitch_deg, roll_deg))
    yaw, pitch, roll = np.broadcast_arrays(yaw, pitch, roll)
    heading_F3 = np.stack([np.sin(yaw), -np.cos(yaw), np.zeros_like(yaw)], axis=1)
    right_F3 = np.stack([np.cos(yaw), np.sin(yaw), np.zeros_like(yaw)], axis=1)
    up = np.array([0.0, 0.0, 1.0])
    forward_F3 = np.cos(pitch)[:, None] * heading_F3 + np.sin(pitch)[:, None] * up
    down_F3 = np.sin(pitch)[:, None] * heading_F3 - np.cos(pitch)[:, None] * up
    cos, sin = np.cos(roll)[:, None], np.sin(roll)[:, None]
    return np.stack([cos * right_F3 + sin * down_F3, cos * down_F3 - sin * right_F3, forward_F3], axis=1)


def footprints_m(place_F2, height_m, axes_F33, aspect: float, half_width_tan: float) -> np.ndarray:
    """Ground corners of each frame, shape (F, 4, 2), meters: top left, top right, bottom right, bottom left.

    Args:
        place_F2: camera (x, y), meters.
        height_m: above the ground, shape (F,) or scalar.
        axes_F33: from ``camera_axes``.
        aspect: image height over width.
        half_width_tan: tangent of half the horizontal field of view.

    Raises:
        ValueError: a corner looks at or above the horizon, so it has no footprint.
    """
    corner_43 = np.array([[-1, -aspect, 1], [1, -aspect, 1], [1, aspect, 1], [-1, aspect, 1]], np.float64)
    corner_43[:, :2] *= half_width_tan
    ray_F43 = corner_43 @ np.asarray(axes_F33, np.float64)
    if (ray_F43[..., 2] >= -1e-6).any():
        raise ValueError("a corner of the image looks at or above the horizon; lower the tilt or the field of view")
    reach_F4 = np.broadcast_to(np.asarray(height_m, np.float64), len(ray_F43))[:, None] / -ray_F43[..., 2]
    return np.asarray(place_F2, np.float64)[:, None, :] + reach_F4[..., None] * ray_F43[..., :2]


def polygon_area(polygon_PV2) -> np.ndarray:
    """Areas of polygons, shape (P,), never negative (shoelace formula)."""
    polygon_PV2 = np.asarray(polygon_PV2, np.float64)
    polygon_PV2 = polygon_PV2 - polygon_PV2[:, :1]  # moved to the origin, as large coordinates would lose precision
    x, y = polygon_PV2[..., 0], polygon_PV2[..., 1]
    return np.abs((x * np.roll(y, -1, axis=1) - y * np.roll(x, -1, axis=1)).sum(axis=1)) / 2


def clip_to_bounds(polygon_PV2, bounds_P4) -> np.ndarray:
    """Clip each convex polygon to its own upright rectangle; shape (P, V + 4, 2), unused corners repeat the first one.

    Repeated corners add no area, so ``polygon_area`` of the result is exact; a polygon fully outside has area zero.
    The algorithm is Sutherland-Hodgman's, one half-plane after the other, for all polygons at once.

    Args:
        polygon_PV2: convex polygons.
        bounds_P4: (left, top, right, bottom) of each rectangle.
    """
    bounds_P4 = np.asarray(bounds_P4, np.float64)
    polygon = np.asarray(polygon_PV2, np.float64)
    for edge, axis, sign in ((0, 0, 1.0), (1, 1, 1.0), (2, 0, -1.0), (3, 1, -1.0)):
        polygon = _clip_half_plane(polygon, sign * (polygon[..., axis] - bounds_P4[:, edge, None]))
    return polygon


def iou_with_bounds(polygon_PV2, bounds_P4) -> np.ndarray:
    """Intersection over union of each convex polygon with its own upright rectangle, shape (P,)."""
    bounds_P4 = np.asarray(bounds_P4, np.float64)
    shared_P = polygon_area(clip_to_bounds(polygon_PV2, bounds_P4))
    square_P = (bounds_P4[:, 2] - bounds_P4[:, 0]) * (bounds_P4[:, 3] - bounds_P4[:, 1])
    return shared_P / (polygon_area(polygon_PV2) + square_P - shared_P)


def _clip_half_plane(polygon_PV2, inside_PV) -> np.ndarray:
    """Clip each polygon to the part with ``inside >= 0``; a convex polygon gains at most one corner, so V grows by one.

    Each edge contributes its first corner if that is inside, and its crossing point if the sign changes. A stable sort
    moves these points to the front; the rest of the row repeats the first of them.
    """
    count, corners = inside_PV.shape
    next_PV2, next_inside_PV = np.roll(polygon_PV2, -1, axis=1), np.roll(inside_PV, -1, axis=1)
    keep_PV = inside_PV >= 0
    crosses_PV = keep_PV != (next_inside_PV >= 0)
    span_PV = np.where(crosses_PV, inside_PV - next_inside_PV, 1.0)
    crossing_PV2 = polygon_PV2 + (inside_PV / span_PV)[..., None] * (next_PV2 - polygon_PV2)
    candidate = np.stack([polygon_PV2, crossing_PV2], axis=2).reshape(count, 2 * corners, 2)
    valid = np.stack([keep_PV, crosses_PV], axis=2).reshape(count, 2 * corners)
    order = np.argsort(~valid, axis=1, kind="stable")[:, : corners + 1]
    order = np.where(np.take_along_axis(valid, order, axis=1), order, order[:, :1])
    return np.take_along_axis(candidate, order[..., None], axis=1)
