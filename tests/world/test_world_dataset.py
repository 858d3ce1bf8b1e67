"""A generated data set as a whole: the same spec gives the same bytes, and its files agree with its geometry."""

import hashlib
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from mindloc.data.gta_uav import parse_tile
from mindloc.errors import DataError
from mindloc.geo.tiles import TileGrid
from mindloc.world.dataset import generate_world
from mindloc.world.spec import WorldSpec

SMALL = WorldSpec(
    seed=3,
    map_px=512,
    m_per_px=0.6,
    zooms=(1, 2, 3),
    offsets=(0, 128),
    drones=24,
    drone_size_px=(48, 64),
    tile_size_px=64,
    flights=3,
    drone_format="jpg",
    test_share=0.5,
)
# GTA-UAV's own keys (docs of the data set), in its order
KEYS = [
    "drone_img_dir",
    "drone_img_name",
    "drone_loc_x_y",
    "sate_img_dir",
    "pair_pos_sate_img_list",
    "pair_pos_sate_weight_list",
    "pair_pos_sate_loc_x_y_list",
    "pair_pos_semipos_sate_img_list",
    "pair_pos_semipos_sate_weight_list",
    "pair_pos_semipos_sate_loc_x_y_list",
    "drone_metadata",
]
METADATA = {"height", "drone_roll", "drone_pitch", "drone_yaw", "cam_roll", "cam_pitch", "cam_yaw"}
LISTS = [f"{area}-area-drone2sate-{side}.json" for area in ("cross", "same") for side in ("train", "test")]


def digest(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return generate_world(SMALL, tmp_path_factory.mktemp("world") / "one", workers=1)


def rows_of(root, name):
    return json.loads((root / name).read_text())


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_threads(world, tmp_path):
    threads = cv2.getNumThreads()
    cv2.setNumThreads(3)
    assert digest(generate_world(SMALL, tmp_path / "two", workers=3)) == digest(world)
    assert cv2.getNumThreads() == 3  # not changed
    cv2.setNumThreads(threads)


def test_a_different_seed_gives_a_different_world(world, tmp_path):
    other = digest(generate_world(replace(SMALL, seed=4), tmp_path / "other"))
    mine = digest(world)
    same_names = set(mine) & set(other)
    assert {"world.json", "satellite/3_0_1_1.png"} <= same_names
    assert not any(mine[name] == other[name] for name in same_names)


@pytest.mark.parametrize("name", LISTS)
def test_lists_have_exactly_the_keys_and_agree(world, name):
    grid = TileGrid(SMALL.map_px, SMALL.m_per_px)
    rows = rows_of(world, name)
    assert rows
    for row in rows:
        assert list(row) == KEYS and set(row["drone_metadata"]) == METADATA
        assert (world / row["drone_img_dir"] / row["drone_img_name"]).is_file()
        assert len(row["drone_loc_x_y"]) == 2
        for kind, least in (("pos", 0.39), ("pos_semipos", 0.14)):
            names, weights, places = (row[f"pair_{kind}_sate_{what}_list"] for what in ("img", "weight", "loc_x_y"))
            assert len(names) == len(weights) == len(places) == len(set(names))
            assert all(least < weight <= 1 for weight in weights)
            for tile, place in zip(names, places, strict=True):
                assert (world / row["sate_img_dir"] / tile).is_file()
                assert grid.center_of(parse_tile(tile))[0] == pytest.approx(place, abs=1e-3)


@pytest.mark.parametrize("name", LISTS)
def test_semipositives_include_the_positives(world, name):
    for row in rows_of(world, name):
        semi = dict(zip(row["pair_pos_semipos_sate_img_list"], row["pair_pos_semipos_sate_weight_list"], strict=True))
        pos = dict(zip(row["pair_pos_sate_img_list"], row["pair_pos_sate_weight_list"], strict=True))
        assert {tile: weight for tile, weight in semi.items() if weight > 0.39} == pos


def test_splits_share_no_frame(world):
    for area in ("cross", "same"):
        train, test = (
            {row["drone_img_name"] for row in rows_of(world, f"{area}-area-drone2sate-{side}.json")}
            for side in ("train", "test")
        )
        assert not train & test
        if area == "same":
            assert len(train | test) == SMALL.drones


def test_cross_area_lists_share_no_tile(world):
    train, test = (
        {
            tile
            for row in rows_of(world, f"cross-area-drone2sate-{side}.json")
            for tile in row["pair_pos_semipos_sate_img_list"]
        }
        for side in ("train", "test")
    )
    assert train and test and not train & test


def test_images_have_their_sizes_and_differ(world):
    tiles = sorted((world / "satellite").iterdir())
    drones = sorted((world / "drone/images").iterdir())
    assert len(tiles) == 4 + 16 + 64 + 1 + 9 + 49 and len(drones) == SMALL.drones
    assert {cv2.imread(str(path)).shape for path in tiles} == {(64, 64, 3)}
    assert {cv2.imread(str(path)).shape for path in drones} == {(48, 64, 3)}
    assert len(set(digest(world).values())) == len(tiles) + len(drones) + len(LISTS) + 1
    assert all(cv2.imread(str(path)).std() > 2 for path in drones)


def test_card_contains_the_values_that_a_reader_needs(world):
    card = json.loads((world / "world.json").read_text())
    assert (card["map_px"], card["m_per_px"], card["seed"], card["version"]) == (512, 0.6, 3, 1)
    assert card["drones"] == 24 and card["spec"]["drone_size_px"] == [48, 64]
    assert card["frames"]["cross_train"] == len(rows_of(world, LISTS[0]))


def test_lists_without_images_are_the_same_as_with_images(world, tmp_path):
    alone = generate_world(replace(SMALL, json_only=True), tmp_path / "meta")
    assert sorted(path.name for path in alone.iterdir()) == sorted([*LISTS, "world.json"])
    for name in LISTS:
        assert (alone / name).read_bytes() == (world / name).read_bytes()


@pytest.mark.parametrize("share, side, other", [(0.0, "train", "test"), (1.0, "test", "train")])
def test_a_world_can_be_all_train_or_all_test(tmp_path, share, side, other):
    root = generate_world(replace(SMALL, test_share=share, json_only=True), tmp_path / "w")
    for area in ("cross", "same"):
        assert len(rows_of(root, f"{area}-area-drone2sate-{side}.json")) == SMALL.drones
        assert not (root / f"{area}-area-drone2sate-{other}.json").exists()


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="not empty"):
        generate_world(SMALL, tmp_path)
    with pytest.raises(DataError, match="is a file"):
        generate_world(SMALL, tmp_path / "mine.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_world_is_written_into_an_empty_directory(tmp_path):
    generate_world(replace(SMALL, json_only=True), tmp_path)
    assert (tmp_path / "world.json").is_file()


def test_progress_reaches_the_end(tmp_path):
    lines = []
    generate_world(replace(SMALL, json_only=True), tmp_path / "w", lambda *line: lines.append(line))
    assert lines[-1] == ("pair lists", SMALL.drones, SMALL.drones)


def test_drone_image_and_tile_show_the_same_place(world):
    """A drone image that is rotated to north and cropped is more similar to its positive tiles than to other tiles."""
    picks = [row for row in rows_of(world, "same-area-drone2sate-train.json") if row["pair_pos_sate_weight_list"]]
    tiles = {path.name: cv2.imread(str(path), 0) for path in (world / "satellite").iterdir()}
    better = []
    for row in picks:
        drone = cv2.imread(str(world / "drone/images" / row["drone_img_name"]), 0)
        turn = cv2.getRotationMatrix2D((32, 24), -row["drone_metadata"]["cam_yaw"], 1.2)
        turn[:, 2] += (0, 8)
        drone = cv2.warpAffine(drone, turn, (64, 64), borderMode=cv2.BORDER_REFLECT)[14:50, 14:50]
        score = {name: cv2.matchTemplate(tile, drone, cv2.TM_CCOEFF_NORMED).max() for name, tile in tiles.items()}
        true = np.mean([score[name] for name in row["pair_pos_sate_img_list"]])
        better.append((true > np.array(list(score.values()))).mean())
    assert np.mean(better) > 0.7  # 0.5 is chance


def test_lists_at_the_size_of_gta_uav(tmp_path):
    """33 763 drone images and 14 640 tiles, as in GTA-UAV; takes seconds, not minutes."""
    spec = WorldSpec(map_px=24576, m_per_px=0.45, zooms=(4, 5, 6, 7), offsets=(0,), tiles=14640, drones=33763,
                     json_only=True)  # fmt: skip
    card = json.loads((generate_world(spec, tmp_path / "gta") / "world.json").read_text())
    assert (card["drones"], card["tiles"]) == (33763, 14640)
    assert card["frames_without_positive"] < 0.06 * 33763
