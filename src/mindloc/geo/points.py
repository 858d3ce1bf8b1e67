"""Distances between places, on a map plane or on the globe.

A place is a pair of numbers whose meaning its unit defines: ``plane_m`` is (x, y) in meters with y down,
``lat_lon_deg`` is (latitude, longitude) in degrees, latitude first. Shapes: N, M places, 2 the pair.
"""

import math
from typing import Literal

import numpy as np

PlaceUnit = Literal["plane_m", "lat_lon_deg"]

EARTH_RADIUS_M = 6_371_008.8  # mean radius of the IUGG


def distance_m(a_N2, b_M2, unit: PlaceUnit) -> np.ndarray:
    """Meters between every place of ``a`` and every place of ``b``, shape (N, M), float64.

    Args:
        a_N2, b_M2: places in ``unit``; latitude before longitude.
        unit: "plane_m" (Euclidean) or "lat_lon_deg" (haversine on a sphere).

    Raises:
        ValueError: an unknown unit.
    """
    a_N12 = np.asarray(a_N2, np.float64).reshape(-1, 1, 2)
    b_1M2 = np.asarray(b_M2, np.float64).reshape(1, -1, 2)
    return _distance(a_N12, b_1M2, unit)


def paired_distance_m(a_N2, b_N2, unit: PlaceUnit) -> np.ndarray:
    """Distance in meters between place i of the first array and place i of the second, shape (N,).

    Leading axes may have any shapes that broadcast.

    Raises:
        ValueError: an unknown unit.
    """
    return _distance(np.asarray(a_N2, np.float64), np.asarray(b_N2, np.float64), unit)


def _distance(a, b, unit: PlaceUnit) -> np.ndarray:
    if unit == "plane_m":
        return np.hypot(a[..., 0] - b[..., 0], a[..., 1] - b[..., 1])
    if unit == "lat_lon_deg":
        return _haversine_m(np.radians(a), np.radians(b))
    raise ValueError(f"place unit is {unit!r}; expected plane_m or lat_lon_deg")


def _haversine_m(a, b) -> np.ndarray:
    """Great-circle distance in meters between (latitude, longitude) pairs in radians."""
    half_lat, half_lon = (b[..., 0] - a[..., 0]) / 2, (b[..., 1] - a[..., 1]) / 2
    chord = np.sin(half_lat) ** 2 + np.cos(a[..., 0]) * np.cos(b[..., 0]) * np.sin(half_lon) ** 2
    return 2 * EARTH_RADIUS_M * np.arcsin(np.sqrt(np.minimum(chord, 1.0)))  # rounding may exceed 1 at the antipode


def box_around(place: tuple[float, float], radius_m: float, unit: PlaceUnit) -> tuple[tuple[float, float], ...]:
    """The smallest box that contains every place within a distance: its lowest corner, its highest corner.

    Longitudes may exceed 180, as in 179.9 to 180.1. If a pole is within the distance, they are -180 to 180.

    Raises:
        ValueError: an unknown unit.
    """
    a, b = place
    if unit == "plane_m":
        return (a - radius_m, b - radius_m), (a + radius_m, b + radius_m)
    if unit != "lat_lon_deg":
        raise ValueError(f"place unit is {unit!r}; expected plane_m or lat_lon_deg")
    angle = radius_m / EARTH_RADIUS_M
    low_lat, high_lat = a - math.degrees(angle), a + math.degrees(angle)
    if low_lat <= -90 or high_lat >= 90:  # the circle contains a pole
        return (max(low_lat, -90.0), -180.0), (min(high_lat, 90.0), 180.0)
    lon_deg = math.degrees(math.asin(math.sin(angle) / math.cos(math.radians(a))))
    return (low_lat, b - lon_deg), (high_lat, b + lon_deg)


def is_lat_lon(place_N2: np.ndarray) -> np.ndarray:
    """Whether each place (..., 2) is a latitude in -90..90 and a longitude in -180..180; False for NaN."""
    place_N2 = np.asarray(place_N2, np.float64)
    return (np.abs(place_N2[..., 0]) <= 90) & (np.abs(place_N2[..., 1]) <= 180)


def wrapped_lon(lon_N) -> np.ndarray:
    """Longitudes shifted by 360 degrees into -180..180; those already in this range are returned unchanged.

    Args:
        lon_N: degrees, within 360 of that range, any shape.
    """
    lon_N = np.asarray(lon_N, np.float64)
    return np.where(lon_N > 180, lon_N - 360, np.where(lon_N < -180, lon_N + 360, lon_N))


def lon_from(lon_N, start) -> np.ndarray:
    """Longitudes shifted by 360 degrees into start - 180..start + 180, so that near meridians are near as numbers too.

    Args:
        lon_N, start: degrees in -180..180; shapes that broadcast.
    """
    lon_N, start = np.asarray(lon_N, np.float64), np.asarray(start, np.float64)
    return np.where(lon_N - start > 180, lon_N - 360, np.where(lon_N - start < -180, lon_N + 360, lon_N))
