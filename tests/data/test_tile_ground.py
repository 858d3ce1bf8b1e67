"""The ground of a folder of tiles, worked out by hand from names, a map's side and scale, or a map's corners."""

import numpy as np
import pytest

from mindloc.data.readers import gta_uav_ground, visloc_ground
from mindloc.errors import DataError


def test_meters_are_read_from_side_and_scale():
    # 512 px at .3 m are 153.6 m, at zoom 3 eight tiles of 19.2 m a side; offset 128 of 256 px begins half a side on
    ground = gta_uav_ground(["3_0_2_1.png", "part/3_128_1_0.png"], 512, 0.3)
    assert ground.unit == "plane_m"
    np.testing.assert_allclose(ground.bounds_N4, [[38.4, 19.2, 57.6, 38.4], [28.8, 9.6, 48, 28.8]])
    np.testing.assert_allclose(ground.place_N2, [[48, 28.8], [38.4, 19.2]])
    assert str(ground) == "2 tiles from 28.8, 9.6 to 57.6, 38.4 (plane_m)"


def test_degrees_are_read_from_the_corners_of_maps(tmp_path):
    (tmp_path / "satellite_coordinates_range.csv").write_text(
        "mapname,LT_lat,LT_lon,RB_lat,RB_lon,width_px,height_px\nsatellite03.tif,32,119,31,120,512,1024\n"
    )
    ground = visloc_ground(tmp_path / "tiles", ["03_1_000_001.png", "part/03_2_001_003.png"])
    assert ground.unit == "lat_lon_deg"
    # zoom 1: one column of two tiles, .5 by 1 degrees; zoom 2: tiles of .25 by .5 degrees, column 1, row 3
    np.testing.assert_allclose(ground.bounds_N4, [[31, 119, 31.5, 120], [31, 119.5, 31.25, 120]])
    np.testing.assert_allclose(ground.place_N2, [[31.25, 119.5], [31.125, 119.75]])
    assert str(ground) == "2 tiles from 31, 119 to 31.5, 120 (lat_lon_deg)"


def test_what_is_no_tile_has_no_ground(tmp_path):
    with pytest.raises(DataError, match=r"tile name 'picnic.png' is not"):
        gta_uav_ground(["picnic.png"], 512, 0.3)
    with pytest.raises(DataError, match=r"satellite_coordinates_range.csv is missing"):
        visloc_ground(tmp_path / "tiles", ["03_1_000_000.png"])
