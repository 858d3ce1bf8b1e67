"""Meters per pixel, places of offsets and bounds of VIGOR's tiles, by hand and from a drawn image."""

import numpy as np
import pytest

from mindloc.geo.vigor import M_PER_PX, overlap_iou, place_in_tile, tile_bounds, tile_m_per_px

M_PER_DEG = 6371008.8 * np.pi / 180  # 111195.08


def test_each_published_city_has_its_own_scale():
    # 320 px, half a tile, in the four cities; 0.114 for all would be 36.48 m
    half_tile_m = {city: float(tile_m_per_px(city, 45.0)) * 320 for city in M_PER_PX}
    expected = {"Chicago": 35.60384, "NewYork": 36.23936, "SanFrancisco": 37.80512, "Seattle": 32.26144}
    assert half_tile_m == pytest.approx(expected, rel=1e-9)


def test_another_city_has_mercator_tiles_of_its_latitude():
    # zoom 20 has 2^20 tiles of 256 px around the equator of 40 075 016.7 m; at 60 degrees half of it
    at_equator = 40075016.6856 / 2**20 / 256
    np.testing.assert_allclose(tile_m_per_px("Bern", [0.0, 60.0]), [at_equator, at_equator / 2], rtol=1e-9)
    # the formula is within 0.2 % of the published scale of New York
    assert tile_m_per_px("elsewhere", 40.74) == pytest.approx(0.113248, rel=2e-3)


def test_a_mark_in_an_image_is_where_its_offset_says():
    image_HW = np.zeros((640, 640))
    image_HW[250, 420] = 1  # 70 px above and 100 px to the right of the center (320, 320)
    y, x = np.argwhere(image_HW)[0]
    offset = (y - 320, 320 - x)  # the panorama is at x = 320 - column, y = 320 + row
    assert offset == (-70, -100)
    # north-up: 70 px of 0.1 m to the north, 100 px to the east; at latitude 60 a degree of longitude is half as long
    expected = [60 + 7.0 / M_PER_DEG, 10 + 10.0 / (M_PER_DEG / 2)]
    np.testing.assert_allclose(place_in_tile([60.0, 10.0], offset, 0.1), expected, rtol=0, atol=1e-12)


def test_places_broadcast_and_pass_the_180th_meridian():
    places = place_in_tile([[0.0, 179.9999], [10.0, 20.0]], [[0.0, -320.0], [0.0, 0.0]], [1.0, 1.0])
    # 320 m are 0.0028778 degrees: 180.0027778 is -179.9971222
    np.testing.assert_allclose(places, [[0, 179.9999 + 320 / M_PER_DEG - 360], [10, 20]], atol=1e-12)
    many = place_in_tile(np.zeros((5, 1, 2)), np.zeros((5, 4, 2)), np.ones((5, 4)))
    assert many.shape == (5, 4, 2)


def test_bounds_are_320_px_around_the_center():
    half = 32.0 / M_PER_DEG  # 320 px of 0.1 m
    bounds = tile_bounds([[0.0, 5.0], [60.0, 5.0], [0.0, -180.0]], [0.1, 0.1, 0.1])
    expected = [
        [-half, 5 - half, half, 5 + half],
        [60 - half, 5 - 2 * half, 60 + half, 5 + 2 * half],
        [-half, 180 - half, half, 180 + half],  # the lowest longitude is in -180..180
    ]
    np.testing.assert_allclose(bounds, expected, atol=1e-12)


def test_iou_by_hand():
    offsets = [[0, 0], [320, 0], [-160, 160], [0, 640]]
    # shares 1, 1/2, 3/4 * 3/4 = 9/16 and 0; p / (2 - p): 1, (1/2) / (3/2), (9/16) / (23/16), 0
    np.testing.assert_allclose(overlap_iou(offsets), [1, 1 / 3, 9 / 23, 0], rtol=1e-12)


def test_iou_of_rectangles_by_counting_pixels():
    covers = np.zeros((2, 2000, 2000), bool)
    covers[0, 500:1140, 500:1140] = True
    covers[1, 500 + 200 : 1140 + 200, 500 - 75 : 1140 - 75] = True
    expected = (covers[0] & covers[1]).sum() / (covers[0] | covers[1]).sum()
    assert overlap_iou([200, -75]) == pytest.approx(expected, rel=1e-12)
