"""Tiles of a map equal values by hand and their definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindloc.geo.tiles import TileGrid

GTA = TileGrid(map_px=24576, m_per_px=0.45)


def test_center_by_hand():
    # side 24576 / 16 = 1536 px = 691.2 m; x (6 + 0.5) * 691.2 = 4492.8, y (13 + 0.5) * 691.2 = 9331.2
    np.testing.assert_allclose(GTA.center_of([4, 0, 6, 13]), [[4492.8, 9331.2]])


def test_offset_shifts_both_axes_by_its_share_of_a_tile():
    # 128 / 256 of 691.2 m is 345.6 m
    ((left, top, right, bottom),) = GTA.bounds_of([4, 128, 6, 13])
    assert (left, top) == pytest.approx((6 * 691.2 + 345.6, 13 * 691.2 + 345.6))
    assert (right - left, bottom - top) == pytest.approx((691.2, 691.2))


def test_tiles_cover_the_map_and_nothing_else():
    assert len(GTA.tiles(4)) == 16 * 16
    shifted = GTA.bounds_of(GTA.tiles(4, 64))
    assert len(shifted) == 15 * 15
    assert shifted.max() <= 24576 * 0.45


@given(st.integers(1, 10**5), st.floats(0.01, 10), st.integers(0, 6), st.integers(0, 255))
def test_the_bounds_of_every_tile_equal_their_definition(map_px, m_per_px, zoom, offset):
    grid = TileGrid(map_px, m_per_px)
    tile_T4 = grid.tiles(zoom, offset)
    side_m = map_px * m_per_px / 2**zoom
    bounds = [[side_m * (t + add + offset / 256) for add in (0, 1) for t in (x, y)] for _, _, x, y in tile_T4.tolist()]
    np.testing.assert_allclose(grid.bounds_of(tile_T4), np.reshape(bounds, (-1, 4)), rtol=1e-12)
    np.testing.assert_allclose(
        grid.center_of(tile_T4), (grid.bounds_of(tile_T4)[:, :2] + grid.bounds_of(tile_T4)[:, 2:]) / 2
    )
    in_a_row = 2**zoom - (offset > 0)
    assert {tuple(row) for row in tile_T4.tolist()} == {
        (zoom, offset, x, y) for x in range(in_a_row) for y in range(in_a_row)
    }
