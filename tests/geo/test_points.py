"""Distances on a plane and on the globe equal Pythagoras and known places."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindloc.geo.points import (
    EARTH_RADIUS_M,
    box_around,
    distance_m,
    is_lat_lon,
    lon_from,
    paired_distance_m,
    wrapped_lon,
)


def test_plane_distance_is_pythagoras():
    a = [[0, 0], [1, 1]]
    b = [[3, 4], [1, 1], [0, 0]]
    expected = [[5, np.sqrt(2), 0], [np.sqrt(2**2 + 3**2), 0, np.sqrt(2)]]
    np.testing.assert_allclose(distance_m(a, b, "plane_m"), expected)


def test_a_quarter_of_the_equator_and_a_pole():
    # a quarter of a great circle is R pi / 2, along the equator and up a meridian alike
    quarter = EARTH_RADIUS_M * np.pi / 2
    got = distance_m([[0, 0]], [[0, 90], [90, 0], [-90, 123]], "lat_lon_deg")
    np.testing.assert_allclose(got, [[quarter, quarter, quarter]])


def test_latitude_comes_first():
    # at 60 degrees north a degree of longitude is half as long as one of latitude (cos 60 = 0.5)
    one_lat, one_lon = distance_m([[60, 10]], [[60.001, 10], [60, 10.001]], "lat_lon_deg")[0]
    assert one_lat == pytest.approx(EARTH_RADIUS_M * np.radians(0.001), rel=1e-6)
    assert one_lon == pytest.approx(one_lat / 2, rel=1e-4)


THREE = st.lists(st.tuples(st.floats(-90, 90), st.floats(-180, 180)), min_size=3, max_size=3)


@given(THREE, st.sampled_from(["plane_m", "lat_lon_deg"]))
def test_distance_is_a_metric(places, unit):
    distance = distance_m(places, places, unit)
    np.testing.assert_allclose(distance, distance.T, atol=1e-6)
    assert (np.diag(distance) == 0).all()
    assert (distance[:, None, :] <= distance[:, :, None] + distance[None] + 1e-6).all()
    np.testing.assert_allclose(paired_distance_m(places[:-1], places[1:], unit), np.diag(distance, 1), rtol=1e-12)


def test_antipodes_are_half_a_circle_apart():
    assert distance_m([[12.3, 45.6]], [[-12.3, 45.6 - 180]], "lat_lon_deg")[0, 0] == pytest.approx(
        EARTH_RADIUS_M * np.pi
    )


def test_unknown_unit_raises():
    with pytest.raises(ValueError, match="feet"):
        distance_m([[0, 0]], [[0, 0]], "feet")


def test_a_box_on_the_plane_reaches_the_radius_on_every_side():
    assert box_around((100.0, 50.0), 30.0, "plane_m") == ((70.0, 20.0), (130.0, 80.0))


@pytest.mark.parametrize("place", [(31.7, 119.4), (-67.0, -20.0), (0.0, 0.0)])
def test_a_box_on_the_globe_contains_the_circle_and_touches_it_on_every_side(place):
    radius_m = 900_000.0  # far enough that a small-angle formula would miss the edges
    low, high = np.array(box_around(place, radius_m, "lat_lon_deg"))
    grid = np.linspace(low - 1, high + 1, 801)
    around = np.stack(np.meshgrid(grid[:, 0], grid[:, 1], indexing="ij"), -1).reshape(-1, 2)
    inside = around[distance_m([place], around, "lat_lon_deg")[0] <= radius_m]
    assert (inside >= low).all() and (inside <= high).all()
    step = grid[1] - grid[0]
    assert (inside.min(0) <= low + 2 * step).all() and (inside.max(0) >= high - 2 * step).all()


@given(st.floats(-90, 90), st.floats(-180, 180), st.floats(1, 3e6), st.floats(0, 1), st.floats(0, 2 * np.pi))
def test_a_box_contains_every_place_of_the_circle_also_at_poles_and_the_180th_meridian(lat, lon, radius_m, part, turn):
    """The place at a distance and a direction is computed by vectors from the center of the globe."""
    angle, (a, b) = 0.999 * part * radius_m / EARTH_RADIUS_M, np.radians((lat, lon))
    up = np.array([np.cos(a) * np.cos(b), np.cos(a) * np.sin(b), np.sin(a)])
    north = np.array([-np.sin(a) * np.cos(b), -np.sin(a) * np.sin(b), np.cos(a)])
    there = np.cos(angle) * up + np.sin(angle) * (np.cos(turn) * north + np.sin(turn) * np.cross(up, north))
    place = np.degrees([np.arcsin(np.clip(there[2], -1, 1)), np.arctan2(there[1], there[0])])
    low, high = np.array(box_around((lat, lon), radius_m, "lat_lon_deg"))
    assert low[0] - 1e-6 <= place[0] <= high[0] + 1e-6
    turned = [place[1] + turns for turns in (-360, 0, 360)]
    assert any(low[1] - 1e-6 <= lon <= high[1] + 1e-6 for lon in turned) or np.cos(np.radians(place[0])) < 1e-6


def test_a_box_across_the_180th_meridian_exceeds_180_and_one_around_a_pole_has_all_longitudes():
    (low, high), half_deg = np.array(box_around((0.0, 179.9), 111_195.08, "lat_lon_deg")), 1.0  # R pi / 180
    np.testing.assert_allclose([low, high], [[-half_deg, 178.9], [half_deg, 180.9]], atol=1e-6)
    low, high = box_around((89.9, 12.0), 111_195.08, "lat_lon_deg")
    assert (low[1], high) == (-180, (90, 180)) and low[0] == pytest.approx(88.9)


def test_longitudes_are_wrapped_without_a_change_to_those_in_range():
    assert wrapped_lon([180.002, 180, -180, -180.5, 119.4]).tolist() == [180.002 - 360, 180, -180, 179.5, 119.4]
    assert lon_from([-179.5, 179.5, 10, 0.1], [179.9, -179.9, 170, 0.3]).tolist() == [180.5, -180.5, 10, 0.1]


def test_a_place_in_degrees_is_in_range():
    assert is_lat_lon([[90, -180], [91, 0], [0, 181], [np.nan, 0]]).tolist() == [True, False, False, False]
