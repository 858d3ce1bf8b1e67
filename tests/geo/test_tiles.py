"""Tile names and the ground they cover, by hand."""

import json

import numpy as np
import pytest

from mindloc.errors import DataError
from mindloc.geo.tiles import Tile, TileGrid, VislocMap, VislocTile, parse_visloc_tile

GTA = TileGrid(map_px=24576, m_per_px=0.45)


def test_center_by_hand():
    # side 24576 / 16 = 1536 px = 691.2 m; x (6 + .5) * 691.2 = 4492.8, y (13 + .5) * 691.2 = 9331.2
    assert GTA.center_m("4_0_6_13.png") == pytest.approx((4492.8, 9331.2))


def test_offset_shifts_both_axes_by_its_share_of_a_tile():
    # 128 / 256 of 691.2 m is 345.6 m
    left, top, right, bottom = GTA.bounds_m("4_128_6_13")
    assert (left, top) == pytest.approx((6 * 691.2 + 345.6, 13 * 691.2 + 345.6))
    assert (right - left, bottom - top) == pytest.approx((691.2, 691.2))


def test_many_tiles_agree_with_one():
    tiles = GTA.tiles(4, 128)
    names = [Tile(*row).name for row in tiles]
    np.testing.assert_allclose(GTA.bounds_of(tiles), [GTA.bounds_m(name) for name in names])
    np.testing.assert_allclose(GTA.center_of(tiles), [GTA.center_m(name) for name in names])


def test_tiles_cover_the_map_and_stay_on_it():
    assert len(GTA.tiles(4)) == 16 * 16
    shifted = GTA.bounds_of(GTA.tiles(4, 64))
    assert len(shifted) == 15 * 15
    assert shifted.max() <= 24576 * 0.45


@pytest.mark.parametrize(
    "name", ["4_0_6", "a_0_6_13.png", "4_0_6_-1", "", "4_0_6_13_2", "4.5_0_6_13", "x/4_0_6_13.png"]
)
def test_other_names_are_refused(name):
    with pytest.raises(DataError, match="zoom"):
        GTA.parse(name)


def test_real_flight_agrees(adm_root):
    grid = TileGrid(map_px=4800, m_per_px=0.243)
    for row in json.loads((adm_root / "cross-area-drone2sate-train.json").read_text()):
        names, places = (row[f"pair_pos_semipos_sate_{what}_list"] for what in ("img", "loc_x_y"))
        for name, place in zip(names, places, strict=True):
            assert grid.center_m(name) == pytest.approx(place)


def test_visloc_name_and_center_by_hand():
    # 1024 px high, 512 px wide: finest zoom ceil(log2(1024 / 256)) = 2; at zoom 1 the picture is 512 x 256 px, so a
    # tile is half of the height (2 of 4 degrees) and the whole width (1 degree)
    area = VislocMap(
        top_left_lat=30.0,
        top_left_lon=100.0,
        bottom_right_lat=26.0,
        bottom_right_lon=101.0,
        height_px=1024,
        width_px=512,
    )
    assert parse_visloc_tile("01_1_000_001.png") == VislocTile("01", 1, 0, 1)
    assert VislocTile("01", 1, 0, 1).name == "01_1_000_001"
    assert area.center_deg("01_1_000_001.png") == pytest.approx((27.0, 100.5))
    assert area.bounds_deg("01_2_001_003") == pytest.approx((27.0, 100.5, 26.0, 101.0))


def test_visloc_refuses_a_query_name():
    with pytest.raises(DataError, match="01_0001"):
        parse_visloc_tile("01_0001.JPG")
