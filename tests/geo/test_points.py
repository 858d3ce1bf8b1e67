"""Distances on a plane and on the globe, against Pythagoras and known places."""

import numpy as np
import pytest

from mindloc.geo.points import EARTH_RADIUS_M, distance_m, paired_distance_m


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
    # at 60 degrees north a degree of longitude is half as long as one of latitude (cos 60 = .5)
    one_lat, one_lon = distance_m([[60, 10]], [[60.001, 10], [60, 10.001]], "lat_lon_deg")[0]
    assert one_lat == pytest.approx(EARTH_RADIUS_M * np.radians(0.001), rel=1e-6)
    assert one_lon == pytest.approx(one_lat / 2, rel=1e-4)


@pytest.mark.parametrize("unit", ["plane_m", "lat_lon_deg"])
def test_distance_is_a_metric(unit):
    place = np.random.default_rng(0).uniform(-80, 80, (30, 2))
    distance = distance_m(place, place, unit)
    np.testing.assert_allclose(distance, distance.T, atol=1e-6)
    assert (np.diag(distance) == 0).all()
    assert (distance[:, None, :] <= distance[:, :, None] + distance[None] + 1e-6).all()
    np.testing.assert_allclose(paired_distance_m(place[:-1], place[1:], unit), np.diag(distance, 1), rtol=1e-12)


def test_antipodes_are_half_a_circle_apart():
    assert distance_m([[12.3, 45.6]], [[-12.3, 45.6 - 180]], "lat_lon_deg")[0, 0] == pytest.approx(
        EARTH_RADIUS_M * np.pi
    )


def test_unknown_unit_is_refused():
    with pytest.raises(ValueError, match="feet"):
        distance_m([[0, 0]], [[0, 0]], "feet")
