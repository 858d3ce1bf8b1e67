"""Places and overlaps that contradict each other are reported by entry; correct ones anywhere on the globe are not."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mindloc.config.sections import DataConfig
from mindloc.data.check import CheckReport, check_data
from mindloc.data.pair_places import rectangle_iou, sides_m
from mindloc.data.readers import Ground, read_ground, read_split, read_whole, repeated_ground
from mindloc.errors import DataError
from mindloc.geo.points import EARTH_RADIUS_M, wrapped_lon
from mindloc.world.dataset import generate_world
from mindloc.world.frames import build_gallery, tile_files
from mindloc.world.spec import WorldSpec

M_PER_DEG = EARTH_RADIUS_M * math.pi / 180
CENTERS = ("pair_pos_sate_loc_x_y_list", "pair_pos_semipos_sate_loc_x_y_list")


def make_world(root: Path, **values) -> DataConfig:
    """A world's pairs file, with empty files instead of its tiles."""
    spec = WorldSpec(**{"drones": 60, "json_only": True, "test_share": 0.0, **values})
    generate_world(spec, root)
    (root / "satellite").mkdir()
    for name in tile_files(spec, build_gallery(spec)):
        (root / "satellite" / name).touch()
    return DataConfig(root=str(root), map_px=spec.map_px, m_per_px=spec.m_per_px)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> DataConfig:
    return make_world(tmp_path_factory.mktemp("worlds") / "plain")


@pytest.fixture
def found_after(world):
    """(kinds of problems, their texts, notes) after a function changed the list of entries in place."""
    path = Path(world.root) / world.train_pairs
    whole = path.read_text()

    def check(change, **values):
        entries = json.loads(whole)
        change(entries)
        path.write_text(json.dumps(entries))
        report = CheckReport("gta_uav", world.root)
        read_whole(world.model_copy(update=values), "train", report)
        return {problem.kind for problem in report.problems}, [p.text for p in report.problems], report.notes

    yield check
    path.write_text(whole)


def place_by(function):
    def change(entries):
        for entry in entries:
            entry["drone_loc_x_y"] = function(*entry["drone_loc_x_y"])

    return change


@pytest.mark.parametrize(
    "values",
    [{"seed": seed} for seed in (1, 2, 3)]
    + [
        {"seed": 4, "drones": 5},
        {"seed": 5, "oblique_share": 1.0, "oblique_tilt_deg": (20.0, 35.0)},
        {"seed": 6, "offsets": (0,), "zooms": (3,), "positive_share": 0.3},
    ],
)
def test_a_world_is_clean(tmp_path, values):
    data = make_world(tmp_path / "world", **values)
    report = CheckReport("gta_uav", data.root)
    read_whole(data, "train", report)
    assert report.ok and not report.notes, report.text()


MAP_M = 4096 * 0.3


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (lambda x, y: [y, x], "with x and y exchanged"),
        (lambda x, y: [x, MAP_M - y], "with y down instead of up"),
        (lambda x, y: [x / 1000, y / 1000], "with kilometers made meters"),
        (lambda x, y: [x * 1000, y * 1000], "with millimeters made meters"),
    ],
)
def test_a_mistake_in_all_places_is_recognized(found_after, change, hint):
    kinds, texts, _ = found_after(place_by(change))
    assert "places of all query images" in kinds
    assert any(hint in text and "correct drone_loc_x_y that way" in text for text in texts)


def test_a_place_without_a_position_fix_is_named_by_its_entry(found_after):
    def change(entries):
        entries[7]["drone_loc_x_y"] = [0.0, 0.0]
        entries[7]["drone_metadata"] = None  # otherwise its IoUs contradict the footprint too

    kinds, (text,), _ = found_after(change)
    assert kinds == {"place far from its tiles"}
    assert (
        "entry 7 (drone/images/" in text
        and ", drone_loc_x_y: 0, 0 is " in text
        and "a camera without a position fix?" in text
    )


def test_a_tile_that_is_not_near_its_image_is_named_by_its_entry(found_after):
    """The best tile of entry 3 is exchanged for the one in the opposite corner of the map."""

    def change(entries):
        x, y = entries[3]["drone_loc_x_y"]
        side = 2**4
        far = f"4_0_{0 if x > MAP_M / 2 else side - 1}_{0 if y > MAP_M / 2 else side - 1}.png"
        for mode in ("pos", "pos_semipos"):
            if entries[3][f"pair_{mode}_sate_img_list"]:
                entries[3][f"pair_{mode}_sate_img_list"][0] = far
            entries[3].pop(f"pair_{mode}_sate_loc_x_y_list")

    kinds, texts, _ = found_after(change)
    assert {"place far from its tiles", "IoU of footprints"} <= kinds
    assert all("entry 3 (" in text for text in texts)


def test_an_iou_that_differs_from_that_of_the_footprint_is_named(found_after):
    def change(entries):
        weights = entries[4]["pair_pos_semipos_sate_weight_list"]
        weights[-1] = weights[-1] + 0.3

    kinds, (text,), _ = found_after(change)
    assert kinds == {"IoU of footprints"}
    assert "entry 4 (" in text and "pair_pos_semipos_sate_weight_list: IoU with satellite/" in text


def test_without_poses_that_explain_them_ious_are_not_doubted(found_after):
    def without_heights(entries):
        for entry in entries:
            entry["drone_metadata"] = {"height": "low", "cam_yaw": None}
            entry["pair_pos_semipos_sate_weight_list"][-1] += 0.2

    def other_heights(entries):
        random = np.random.default_rng(0)
        for entry in entries:
            entry["drone_metadata"]["height"] *= random.uniform(0.3, 3)

    for change in (without_heights, other_heights):
        kinds, _, _ = found_after(change)
        assert "IoU of footprints" not in kinds


def test_two_tiles_of_an_image_that_do_not_overlap_enough_are_named(found_after):
    """IoUs of 0.9 and 0.8 with two tiles: 1 - IoU is a metric, so the tiles' own IoU is at least 0.7."""

    def change(entries):
        for entry in entries:
            entry["drone_metadata"] = None
        for mode in ("pos", "pos_semipos"):
            for what, values in (("img", ["4_0_3_3.png", "4_0_4_3.png"]), ("weight", [0.9, 0.8])):
                entries[2][f"pair_{mode}_sate_{what}_list"] = values
            entries[2].pop(f"pair_{mode}_sate_loc_x_y_list")
        entries[2]["drone_loc_x_y"] = [4 * MAP_M / 16, 3.5 * MAP_M / 16]

    kinds, (text,), _ = found_after(change)
    assert kinds == {"tiles that contradict each other"}
    assert "entry 2 (" in text and "whose own IoU is 0.00; expected 0.70 or more" in text


def without_centers(entries):
    for entry in entries:
        for key in CENTERS:
            entry.pop(key)


def exchanged_centers(entries):
    for entry in entries:
        for key in CENTERS:
            entry[key] = [center[::-1] for center in entry[key]]


@pytest.mark.parametrize("change", [lambda entries: None, without_centers, exchanged_centers])
@pytest.mark.parametrize("values", [{"map_px": 24576, "m_per_px": 0.45}, {"m_per_px": 0.1}])
def test_map_constants_that_do_not_fit_the_places_are_an_error_that_states_correct_ones(found_after, change, values):
    """The map is 4096 px at 0.3 m: 1228.8 m. Without true centers it is fitted to the drone images: 2 %."""
    kinds, texts, _ = found_after(change, **values)
    assert kinds == {"map constants"}
    (text,) = texts
    product = float(text.rpartition("product is ")[2])
    assert product == pytest.approx(1228.8, rel=1e-6 if change.__name__ == "<lambda>" else 0.02)


def test_map_constants_that_do_not_fit_stop_training_too(world):
    with pytest.raises(DataError, match=r"fit a map of 1228\.8 m, .* set data\.m_per_px=0\.3, or set both"):
        read_split(world.model_copy(update={"m_per_px": 0.45}), "train")


def test_correct_map_constants_are_not_doubted_for_wrong_centers(found_after):
    kinds, _, (note,) = found_after(exchanged_centers)
    assert not kinds and "tile centers differ from the computed ones" in note


def test_a_tile_off_the_map_is_named(world, found_after):
    path = Path(world.root) / "satellite/2_0_4_1.png"
    path.touch()
    try:
        kinds, (text,), _ = found_after(lambda entries: None)
    finally:
        path.unlink()
    assert kinds == {"tile off the map"}
    assert text == f"{path} is off the map, whose last tile of zoom 2 is 2_0_3_3; correct its name"
    with pytest.raises(DataError, match="2_0_4_1.png is off the map"):
        read_ground(world, path.parent, ["2_0_3_3.png", "2_0_4_1.png"])
    assert len(read_ground(world, path.parent, ["2_128_3_3.png"]).bounds_N4) == 1  # half of it is on the map


def test_ground_that_two_tiles_cover_is_noted():
    bounds_N4 = np.array([[0, 0, 1, 1], [1, 0, 2, 1], [0, 0, 1, 1], [np.nan] * 4, [np.nan] * 4])
    text = repeated_ground(bounds_N4, ["a/1.png", "a/2.png", "b/1.png", "x", "y"])
    assert text.startswith("1 of 5 tiles cover the same ground as another one (first a/1.png and b/1.png)")
    assert repeated_ground(bounds_N4[[0, 1, 3]], ["a", "b", "c"]) is None


# a map of 4 x 4 tiles, four drone images on its diagonal
def write_visloc(
    root: Path, corners: tuple, places: list, width_px: int = 1024, stated: list | None = None
) -> DataConfig:
    (root / "satellite").mkdir(parents=True, exist_ok=True)
    tiles = [f"01_2_{x:03}_{y:03}.png" for x in range(4) for y in range(4)]
    for tile in tiles:
        (root / "satellite" / tile).touch()
    entries = []
    for index, place in enumerate(places):
        entry = {"drone_img_dir": "drone", "drone_img_name": f"{index}.JPG", "sate_img_dir": "satellite"}
        for mode in ("pos", "pos_semipos"):
            tile = f"01_2_{index:03}_{index:03}.png"
            entry |= {f"pair_{mode}_sate_img_list": [tile], f"pair_{mode}_sate_weight_list": [0.6]}
            if stated:
                entry[f"pair_{mode}_sate_loc_lat_lon_list"] = [stated[index]]
        entries.append({**entry, "drone_loc_lat_lon": [float(number) for number in place]})
    (root / "train.json").write_text(json.dumps(entries))
    table = "mapname,LT_lat,LT_lon,RB_lat,RB_lon,width_px,height_px\nsatellite01.tif,"
    text = table + ",".join(map(str, corners)) + f",{width_px},1024\n"
    (root / "satellite_coordinates_range.csv").write_text(text)
    return DataConfig(reader="visloc", root=str(root), train_pairs="train.json")


def corners_and_places(lat: float, lon: float, side_m: float = 800.0) -> tuple[tuple, list]:
    """Corners of a square map with this top left corner, and places on its diagonal; longitudes in -180..180."""
    lat_deg, lon_deg = side_m / M_PER_DEG, side_m / M_PER_DEG / math.cos(math.radians(lat))
    right, *on = (float(wrapped_lon(lon + part * lon_deg)) for part in (1, 0.125, 0.375, 0.625, 0.875))
    places = [[lat - part * lat_deg, on_lon] for part, on_lon in zip((0.125, 0.375, 0.625, 0.875), on, strict=True)]
    return (lat, lon, lat - lat_deg, right), places


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(-75, 75), st.floats(-180, 180) | st.floats(179.98, 180) | st.floats(-180, -179.98))
def test_a_map_anywhere_on_the_globe_is_clean_and_its_tiles_have_their_places(tmp_path, lat, lon):
    """A tile's side is 200 m, and the drone images are in the middle of their tiles."""
    corners, places = corners_and_places(lat, lon)
    data = write_visloc(tmp_path, corners, places)
    report = check_data(data, ("train",), read_images=False)
    assert {problem.kind for problem in report.problems} <= {"missing file"}, report.text()
    assert not report.notes
    split = read_split(data, "train")
    centers = split.reference.places.coordinate_N2[split.positive.reference]
    assert (np.abs(centers[:, 1]) <= 180).all()
    np.testing.assert_allclose(np.cos(np.radians(centers - places)), 1, atol=1e-14)
    names = [Path(file).name for file in split.reference.files]
    ground = read_ground(data, tmp_path / "satellite", names)
    np.testing.assert_allclose(ground.place_N2, split.reference.places.coordinate_N2, atol=1e-9)
    assert (ground.bounds_N4[:, 2:] > ground.bounds_N4[:, :2]).all() and (np.abs(ground.bounds_N4[:, 1]) <= 180).all()
    np.testing.assert_allclose(sides_m(ground.bounds_N4, "lat_lon_deg"), 200, rtol=1e-3)


def test_longitudes_of_corners_may_exceed_180(tmp_path):
    for right in (-179.995, 180.005):
        data = write_visloc(tmp_path, (-16.80, 179.995, -16.81, right), [])
        ground = read_ground(data, tmp_path / "satellite", ["01_2_000_000.png", "01_2_003_000.png"])
        np.testing.assert_allclose(ground.place_N2[:, 1], [179.99625, -179.99625])
        assert str(ground).endswith("2 tiles from -16.8025, 179.995 to -16.8, 180.005 (lat_lon_deg)")


@pytest.mark.parametrize("stated", [False, True])
@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (lambda lat, lon: [lon, lat], "latitude and longitude exchanged"),
        (lambda lat, lon: [lat, -lon], "the sign of the longitude changed"),
        (lambda lat, lon: [-lat, lon], "the sign of the latitude changed"),
        (lambda lat, lon: [0.0, 0.0], "a camera without a position fix"),
        (lambda lat, lon: [lat, lon + 1], ""),
    ],
)
def test_drone_images_far_from_their_tiles_are_named(tmp_path, change, hint, stated):
    """They are named even if no table of corners defines the size of a tile."""
    corners, places = corners_and_places(43.194, -85.626)
    data = write_visloc(tmp_path, corners, [change(*place) for place in places], stated=places if stated else None)
    if stated:
        (tmp_path / "satellite_coordinates_range.csv").unlink()
        for path in (tmp_path / "satellite").iterdir():  # tiles without a pair have no place
            x, y = path.stem.split("_")[2:]
            if x != y:
                path.unlink()
    texts = [
        p.text for p in check_data(data, ("train",), read_images=False).problems if p.kind == "place far from its tiles"
    ]
    assert len(texts) == 4
    for entry in range(4):
        assert any(f"entry {entry} (drone/{entry}.JPG), drone_loc_lat_lon: " in text and hint in text for text in texts)


def test_a_size_that_does_not_fit_the_corners_is_noted(tmp_path):
    corners, places = corners_and_places(43.194, -85.626)
    report = check_data(write_visloc(tmp_path, corners, places, width_px=4096), ("train",), read_images=False)
    assert len(report.notes) >= 1 and "pixels of map 01 are 0.25 times as wide as high" in report.notes[0]


def test_a_tile_off_a_map_of_degrees_is_named(tmp_path):
    corners, places = corners_and_places(43.194, -85.626)
    data = write_visloc(tmp_path, corners, places)
    (tmp_path / "satellite/01_2_004_000.png").touch()
    problems = check_data(data, ("train",), read_images=False).problems
    assert [p.text for p in problems if p.kind == "tile off the map"] == [
        f"{tmp_path}/satellite/01_2_004_000.png is off its map of 1024 x 1024 pixels; correct its name or the size"
    ]
    with pytest.raises(DataError, match="01_2_004_000.png is off its map"):
        read_ground(data, tmp_path / "satellite", ["01_2_004_000.png"])


def test_overlap_of_rectangles_by_hand():
    a_N4 = np.array([[0, 0, 2, 2], [0, 0, 1, 1], [10, 179, 12, 181], [np.nan] * 4])
    b_N4 = np.array([[1, 0, 3, 2], [1, 1, 2, 2], [10, -180, 12, -178], [0, 0, 1, 1]])
    # overlap 2 of 4 + 4 - 2 = 6; only a corner is shared; the west half of the second is the east half of the first
    np.testing.assert_allclose(rectangle_iou(a_N4, b_N4, "lat_lon_deg"), [1 / 3, 0, 1 / 3, np.nan])
    np.testing.assert_allclose(rectangle_iou(a_N4[:2], b_N4[:2], "plane_m"), [1 / 3, 0])


def test_the_ground_of_tiles_is_printed_the_short_way():
    ground = Ground("lat_lon_deg", np.array([[0, 179.5, 1, 180.5], [0, -179.5, 1, -178.5]]))
    assert str(ground) == "2 tiles from 0, 179.5 to 1, 181.5 (lat_lon_deg)"


def test_the_checks_change_no_data(world):
    """check-data reads the same split as a training run."""
    plain, checked = read_split(world, "train"), read_whole(world, "train", CheckReport("gta_uav", world.root))
    assert plain.reference.files == checked.reference.files
    np.testing.assert_array_equal(plain.reference.places.coordinate_N2, checked.reference.places.coordinate_N2)
    np.testing.assert_array_equal(plain.semipositive.reference, checked.semipositive.reference)
