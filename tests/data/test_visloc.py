"""The UAV-VisLoc reader: two maps with known corners and sizes, and a one-line error for each missing part."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mindloc.config.sections import DataConfig
from mindloc.data.readers import read_split
from mindloc.data.visloc import Map, Tile, parse_tile, read_ground
from mindloc.errors import DataError

HEADER = "mapname,LT_lat_map,LT_lon_map,RB_lat_map,RB_lon_map,region"
# map 03: 512 x 1024 px (w x h), so finest zoom = log2(1024 / 256) = 2
LINE_03 = "satellite03.tif,32.0,119.0,31.0,120.0,Taizhou"
LINE_11 = "satellite11.tif,38.0,101.0,37.5,102.0,Zhangye"
TILES = ["03_1_000_000.png", "03_1_000_001.png", "03_2_001_003.png", "11_0_000_000.png"]


@pytest.fixture
def visloc_root(tmp_path) -> Path:
    """Map 03 in 512 x 1024 px, map 11 in 256 x 256 px; one drone image with two tiles of map 03."""
    for name, size in (("03", (512, 1024)), ("11", (256, 256))):
        (tmp_path / name).mkdir()
        Image.new("RGB", size).save(tmp_path / name / f"satellite{name}.tif")
    (tmp_path / "satellite").mkdir()
    for tile in TILES:
        (tmp_path / "satellite" / tile).write_bytes(b"")
    (tmp_path / "satellite_coordinates_range.csv").write_text(f"{HEADER}\n{LINE_03}\n{LINE_11}\n")
    write_entries(tmp_path, stated=[[31.75, 119.5], [31.25, 119.5]])
    return tmp_path


def write_entries(root: Path, stated: list, place: tuple = (31.7, 119.4), tiles: list[str] = TILES[:2]) -> None:
    entry = {
        "drone_img_dir": "drone/images",
        "drone_img_name": "03_0001.JPG",
        "drone_loc_lat_lon": list(place),
        "sate_img_dir": "satellite",
        "drone_metadata": {"height": 466.0},
    }
    for mode in ("pos", "pos_semipos"):
        entry[f"pair_{mode}_sate_img_list"] = tiles
        entry[f"pair_{mode}_sate_weight_list"] = [0.5, 0.4]
        entry[f"pair_{mode}_sate_loc_lat_lon_list"] = stated
    (root / "train.json").write_text(json.dumps([entry]))


def read(root: Path):
    return read_split(DataConfig(reader="visloc", root=str(root), train_pairs="train.json"), "train")


def test_places_are_latitude_and_longitude_of_tile_centers(visloc_root):
    split = read(visloc_root)
    assert split.reference.place_unit == "lat_lon_deg"
    assert split.query.files == ["drone/images/03_0001.JPG"]
    assert split.query.places.coordinate_N2.tolist() == [[31.7, 119.4]]
    expected = [
        # zoom 1 halves the image to 256 x 512: one column of two tiles, each 0.5 deg high and 1 deg wide
        [31.75, 119.5],
        [31.25, 119.5],
        # zoom 2 is the image itself: 2 columns of 0.5 deg, 4 rows of 0.25 deg; x = 1, y = 3
        [32.0 - 3.5 * 0.25, 119.75],
        # map 11 is one tile
        [37.75, 101.5],
    ]
    np.testing.assert_allclose(split.reference.places.coordinate_N2, expected, rtol=1e-12)


def test_bounds_are_minimum_before_maximum_and_latitude_before_longitude(visloc_root):
    expected = [[31.5, 119.0, 32.0, 120.0], [31.0, 119.0, 31.5, 120.0], [31.0, 119.5, 31.25, 120.0]]
    ground = read_ground(DataConfig(), visloc_root / "satellite", TILES[:3])
    assert ground.unit == "lat_lon_deg"
    np.testing.assert_allclose(ground.bounds_N4, expected, rtol=1e-12)


def test_bounds_of_a_map_without_corners_are_an_error(visloc_root):
    (visloc_root / "satellite_coordinates_range.csv").unlink()
    with pytest.raises(DataError, match="satellite_coordinates_range.csv is missing"):
        read_ground(DataConfig(), visloc_root / "satellite", TILES[:1])


def test_size_from_the_csv_needs_no_map_image(visloc_root):
    for name in ("03", "11"):
        (visloc_root / name / f"satellite{name}.tif").unlink()
    lines = [f"{HEADER},width_px,height_px", f"{LINE_03},512,1024", f"{LINE_11},256,256"]
    (visloc_root / "satellite_coordinates_range.csv").write_text("\n".join(lines))
    split = read(visloc_root)
    np.testing.assert_allclose(split.reference.places.coordinate_N2[3], [37.75, 101.5], rtol=1e-12)


def test_the_file_name_of_the_release_is_found(visloc_root):
    (visloc_root / "satellite_coordinates_range.csv").rename(visloc_root / "satellite_ coordinates_range.csv")
    assert len(read(visloc_root).reference.files) == 4


def test_without_bounds_the_stated_centers_are_used(visloc_root):
    (visloc_root / "satellite_coordinates_range.csv").unlink()
    for tile in TILES[2:]:
        (visloc_root / "satellite" / tile).unlink()
    split = read(visloc_root)
    assert split.reference.places.coordinate_N2.tolist() == [[31.75, 119.5], [31.25, 119.5]]


def failure(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        read(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_bounds_are_named(visloc_root):
    (visloc_root / "satellite_coordinates_range.csv").unlink()
    text = failure(visloc_root)
    assert "satellite_coordinates_range.csv is missing" in text
    assert "1 tiles of map 03 (first 03_2_001_003.png)" in text


def test_map_without_a_line(visloc_root):
    (visloc_root / "satellite_coordinates_range.csv").write_text(f"{HEADER}\n{LINE_03}\n")
    text = failure(visloc_root)
    assert "no line for satellite11.tif" in text
    assert "11_0_000_000.png" in text


def test_map_of_unknown_size(visloc_root):
    (visloc_root / "11/satellite11.tif").unlink()
    assert "width_px" in failure(visloc_root)


def test_broken_map_image(visloc_root):
    (visloc_root / "11/satellite11.tif").write_bytes(b"not an image")
    assert "satellite11.tif is not a readable TIFF" in failure(visloc_root)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("mapname,LT_lat,LT_lon,RB_lat\n", "column RB_lon is missing"),
        (f"{HEADER}\nsatellite03.tif,north,119,31,120,x\n", "map 03: LT_lat is 'north'"),
        (f"{HEADER}\nsatellite03.tif,119,32,120,31,x\n", "map 03: LT_lat is 119.0; expected degrees from -90 to 90"),
        (f"{HEADER},width_px,height_px\n{LINE_03},0,9\n", "map 03: width_px is 0"),
        (f"{HEADER},width_px,height_px\n{LINE_03},1024,512\n", "width_px 1024 and height_px 512, "),
        (f"{HEADER}\nsatellite03.tif,32,119,431.8,120,x\n", "map 03: RB_lat is 431.8; expected degrees from -90 to 90"),
        (f"{HEADER}\nsatellite03.tif,32,119,31,1e3,x\n", "map 03: RB_lon is 1000.0; expected degrees from -360"),
        (
            f"{HEADER}\nsatellite03.tif,31,120,32,119,x\n",
            "LT_lat is 31.0 and RB_lat is 32.0; expected LT north-west",
        ),
        (
            f"{HEADER}\nsatellite03.tif,32,120,31,119,x\n",
            "LT_lon is 120.0 and RB_lon is 119.0; expected LT",
        ),
        (f"{HEADER}\nsatellite03.tif,32,119,32,120,x\n", "LT_lat is 32.0 and RB_lat is 32.0; expected two different"),
        (f"{HEADER}\nsatellite03.tif,32,119,31,119,x\n", "LT_lon is 119.0 and RB_lon is 119.0; expected two different"),
        (f"{HEADER}\nsatellite03.tif,32\n", "map 03: LT_lon is ''"),
    ],
)
def test_broken_bounds(visloc_root, content, word):
    (visloc_root / "satellite_coordinates_range.csv").write_text(content)
    assert word in failure(visloc_root)


def test_longitude_before_latitude_is_an_error(visloc_root):
    write_entries(visloc_root, stated=[[31.75, 119.5], [31.25, 119.5]], place=(119.4, 31.7))
    text = failure(visloc_root)
    assert "entry 0, drone_loc_lat_lon" in text
    assert "latitude" in text


def test_a_name_that_is_not_a_tile_name(visloc_root):
    write_entries(visloc_root, stated=[[31.75, 119.5], [31.25, 119.5]], tiles=["03_1_000_000.png", "overview.png"])
    assert "'overview.png' is not a UAV-VisLoc tile name" in failure(visloc_root)


def test_tile_name_and_center_by_hand():
    # 1024 px high, 512 px wide: finest zoom ceil(log2(1024 / 256)) = 2; at zoom 1 the image is 512 x 256 px, so a
    # tile is half of the height (2 of 4 degrees) and the whole width (1 degree)
    area = Map(
        top_left_lat=30.0,
        top_left_lon=100.0,
        bottom_right_lat=26.0,
        bottom_right_lon=101.0,
        height_px=1024,
        width_px=512,
    )
    assert parse_tile("01_1_000_001.png") == Tile("01", 1, 0, 1)
    assert area.center_deg(Tile("01", 1, 0, 1)) == pytest.approx((27.0, 100.5))
    assert area.ground_deg(Tile("01", 2, 1, 3)) == pytest.approx((26.0, 100.5, 27.0, 101.0))


@pytest.mark.parametrize("name", ["01_0001.JPG", "01_100_000_000.png", "01_1_000"])
def test_other_names_are_not_tiles(name):
    with pytest.raises(DataError, match=name):
        parse_tile(name)


CELL = st.sampled_from(
    ["satellite03.tif", "32.0", "119.0", "31.0", "120.0", "512", "1024", "", "nan", "-1", '"', "1e999"]
)
TABLE = st.lists(st.lists(CELL | st.text(max_size=3), max_size=8).map(",".join), max_size=4).map("\n".join)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TABLE.map(lambda rows: f"{HEADER},width_px,height_px\n{rows}".encode()) | TABLE.map(str.encode) | st.binary())
def test_any_table_of_bounds_is_read_or_a_one_line_error(visloc_root, content):
    (visloc_root / "satellite_coordinates_range.csv").write_bytes(content)
    for tile in TILES[2:]:
        (visloc_root / "satellite" / tile).unlink(missing_ok=True)
    try:
        place_R2 = read(visloc_root).reference.places.coordinate_N2
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert np.isfinite(place_R2).all()
