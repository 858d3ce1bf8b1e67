"""The GTA-UAV reader: values by hand on four tiles, counts of the real flight, and one line for each bad input."""

import json

import numpy as np
import pytest

from mindloc.data import gta_uav
from mindloc.errors import DataError


def read(root, **options):
    return gta_uav.read_split(root, "train.json", 1024, 0.5, **options)


def test_files_places_and_overlaps(gta_root):
    split = read(gta_root)
    assert split.query.files[0] == "drone/images/100_0001_0000000001.png"
    # every tile of the folder, sorted, also 1_0_1_1, which no pair names
    assert split.reference.files == [f"satellite/1_0_{x}_{y}.png" for x, y in ((0, 0), (0, 1), (1, 0), (1, 1))]
    # tile_px = 1024 / 2 = 512, center = 512 * (t + 1/2) * 0.5: 128 or 384
    assert split.reference.places.coordinate_N2.tolist() == [[128, 128], [128, 384], [384, 128], [384, 384]]
    assert split.query.places.coordinate_N2.tolist() == [[130, 120], [380, 130], [256, 128]]
    assert split.reference.place_unit == "plane_m"
    assert split.edges("pos").pairs().tolist() == [[0, 0], [1, 2]]
    assert split.edges("pos_semipos").pairs().tolist() == [[0, 0], [0, 1], [1, 2], [2, 0], [2, 2]]
    np.testing.assert_allclose(split.edges("pos_semipos").columns["iou"], [0.5, 0.2, 0.75, 0.25, 0.3], rtol=1e-7)
    assert split.query_metadata[0] == {"height": 100.0, "drone_yaw": None}
    assert all(path.is_file() for path in split.paths("query") + split.paths("reference"))


def test_published_tile_center():
    # GTA-UAV: 24576 px, 0.45 m/px; 4_0_6_13 -> (4492.8, 9331.2)
    np.testing.assert_allclose(gta_uav.tile_places(["4_0_6_13.png"], 24576, 0.45), [[4492.8, 9331.2]])


def test_tile_bounds():
    # zoom 1: 256 m a side; offset 64 of 256: a quarter of a side = 64 m
    assert gta_uav.tile_bounds(["1_0_0_1.png", "1_64_0_0.png"], 1024, 0.5).tolist() == [
        [0, 256, 256, 512],
        [64, 64, 320, 320],
    ]


def test_tile_centers_equal_those_the_real_flight_states(adm_root):
    split = gta_uav.read_split(adm_root, "cross-area-drone2sate-train.json", 4800, 0.243)
    number = {file.removeprefix("satellite/"): at for at, file in enumerate(split.reference.files)}
    for entry in json.loads((adm_root / "cross-area-drone2sate-train.json").read_text()):
        at = [number[tile] for tile in entry["pair_pos_semipos_sate_img_list"]]
        np.testing.assert_allclose(
            split.reference.places.coordinate_N2[at], entry["pair_pos_semipos_sate_loc_x_y_list"], atol=1e-9
        )


@pytest.mark.parametrize(
    ("name", "drones", "positive", "semipositive"), [("train", 235, 236, 1970), ("test", 108, 96, 881)]
)
def test_real_flight(adm_root, name, drones, positive, semipositive):
    # counts: ls and the lists of the JSON files
    split = gta_uav.read_split(adm_root, f"cross-area-drone2sate-{name}.json", 4800, 0.243)
    assert (len(split.query.files), len(split.reference.files)) == (drones, 619)
    assert (len(split.positive), len(split.semipositive)) == (positive, semipositive)


def test_jpg_tiles(gta_root):
    for path in list((gta_root / "satellite").iterdir()):
        path.rename(path.with_suffix(".jpg"))
    text = (gta_root / "train.json").read_text()
    for x, y in ((0, 0), (0, 1), (1, 0)):
        text = text.replace(f"1_0_{x}_{y}.png", f"1_0_{x}_{y}.jpg")
    (gta_root / "train.json").write_text(text)
    assert read(gta_root).reference.files[0] == "satellite/1_0_0_0.jpg"


def test_other_files_beside_the_tiles_are_left_alone(gta_root):
    (gta_root / "satellite" / "README.txt").write_text("notes")
    assert len(read(gta_root).reference.files) == 4


def test_json_only_takes_the_tiles_that_pairs_name(gta_root, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "train.json").write_text((gta_root / "train.json").read_text())
    split = read(bare, json_only=True)
    assert split.reference.files == [f"satellite/1_0_{x}_{y}.png" for x, y in ((0, 0), (0, 1), (1, 0))]
    assert split.edges("pos_semipos").pairs().tolist() == read(gta_root).edges("pos_semipos").pairs().tolist()


def test_metadata_may_be_missing_or_null(change_entries):
    def change(entries):
        del entries[0]["drone_metadata"]
        entries[1]["drone_metadata"] = None

    assert read(change_entries(change)).query_metadata[:2] == [{}, {}]


def test_train_ratio_keeps_a_growing_share_of_drone_pictures(adm_root):
    def files(ratio):
        split = gta_uav.read_split(adm_root, "cross-area-drone2sate-train.json", 4800, 0.243, train_ratio=ratio)
        assert len(split.reference.files) == 619
        return split.query.files

    everything, half, tenth = files(1.0), files(0.5), files(0.1)
    assert (len(half), len(tenth)) == (118, 24)  # 117.5 and 23.5, rounded to even and up
    assert half == [name for name in everything if name in set(half)]  # file order
    assert set(tenth) < set(half)
    assert files(0.5) == half


@pytest.mark.parametrize("ratio", [0.0, -1.0, 1.5, float("nan")])
def test_train_ratio_outside_its_range(gta_root, ratio):
    with pytest.raises(DataError, match=r"data\.train_ratio is"):
        read(gta_root, train_ratio=ratio)


def one_line(root, *words, **options) -> str:
    with pytest.raises(DataError) as caught:
        read(root, **options)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text
    return text


@pytest.mark.parametrize("weight", [float("nan"), -0.1, 1.5, float("inf"), "0.5", None, True, 10**30, 10**400], ids=str)
def test_bad_weight(change_entries, weight):
    def change(entries):
        entries[1]["pair_pos_semipos_sate_weight_list"][0] = weight

    one_line(
        change_entries(change), "train.json: entry 1", "pair_pos_semipos_sate_weight_list", repr(weight)[:50], "0 to 1"
    )


@pytest.mark.parametrize("weight", [0, 1, 0.0, 1.0])
def test_weights_at_the_ends_of_the_range_are_fine(change_entries, weight):
    def change(entries):
        entries[1]["pair_pos_semipos_sate_weight_list"][0] = weight

    edges = read(change_entries(change)).semipositive
    assert edges.columns["iou"][edges.start[1] : edges.start[2]].tolist() == [weight]


@pytest.mark.parametrize("tile", ["house.png", "1_0_0.png", "1_0_0_x.png", "../1_0_0_0.png", 7, None, ["1_0_0_0.png"]])
def test_tile_name_that_is_none(change_entries, tile):
    def change(entries):
        entries[2]["pair_pos_semipos_sate_img_list"][1] = tile

    one_line(change_entries(change), "entry 2", "pair_pos_semipos_sate_img_list", "tile name", repr(tile))


def test_tile_that_is_not_on_disk(change_entries):
    def change(entries):
        entries[2]["pair_pos_semipos_sate_img_list"][1] = "1_0_1_7.png"

    one_line(change_entries(change), "entry 2", "pair_pos_semipos_sate_img_list", "1_0_1_7.png is not in satellite/")


def test_tile_that_is_there_with_another_ending(gta_root):
    (gta_root / "satellite/1_0_0_1.png").rename(gta_root / "satellite/1_0_0_1.jpg")
    one_line(gta_root, "entry 0", "1_0_0_1.png", "1_0_0_1.jpg is there")


def test_picture_in_the_tile_folder_that_is_no_tile(gta_root):
    (gta_root / "satellite/1_0_0_0.png").rename(gta_root / "satellite/overview.png")
    one_line(gta_root, "satellite/overview.png", "no GTA-UAV tile name")


def test_tile_twice_on_disk(gta_root):
    (gta_root / "satellite/1_0_0_0.jpg").write_bytes(b"")
    one_line(gta_root, "1_0_0_0.jpg and 1_0_0_0.png are one tile")


@pytest.mark.parametrize("what", ["img", "weight", "loc_x_y"])
@pytest.mark.parametrize("mode", ["pos", "pos_semipos"])
def test_lists_of_different_lengths(change_entries, mode, what):
    def change(entries):
        entries[0][f"pair_{mode}_sate_{what}_list"].append(entries[0][f"pair_{mode}_sate_{what}_list"][0])

    one_line(change_entries(change), "entry 0", f"pair_{mode}_sate_{what}_list has", "different lengths")


def test_drone_picture_twice(change_entries):
    def change(entries):
        entries[2]["drone_img_name"] = entries[0]["drone_img_name"]

    one_line(change_entries(change), "entry 2", "drone_img_name", "100_0001_0000000001.png stands in entry 0 too")


def test_tile_twice_in_one_list(change_entries):
    def change(entries):
        for what in ("img", "loc_x_y"):
            key = f"pair_pos_semipos_sate_{what}_list"
            entries[2][key][1] = entries[2][key][0]

    one_line(change_entries(change), "entry 2", "pair_pos_semipos_sate_img_list", "1_0_0_0.png stands twice")


def test_positive_missing_among_the_semipositives(change_entries):
    def change(entries):
        for what in ("img", "weight", "loc_x_y"):
            del entries[0][f"pair_pos_semipos_sate_{what}_list"][0]

    one_line(
        change_entries(change), "entry 0", "pair_pos_semipos_sate_img_list", "positive tile 1_0_0_0.png is missing"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("drone_img_name", 5),
        ("drone_img_name", ""),
        ("drone_img_dir", None),
        ("sate_img_dir", "tiles"),
        ("drone_loc_x_y", [1.0]),
        ("drone_loc_x_y", [1.0, float("nan")]),
        ("drone_loc_x_y", ["1", "2"]),
        ("pair_pos_sate_img_list", "1_0_0_0.png"),
        ("pair_pos_sate_weight_list", None),
        ("drone_metadata", [1]),
    ],
)
def test_value_of_the_wrong_kind(change_entries, key, value):
    def change(entries):
        entries[1][key] = value

    one_line(change_entries(change), "entry 1", key, "expected")


@pytest.mark.parametrize("key", ["drone_img_name", "drone_loc_x_y", "pair_pos_semipos_sate_img_list"])
def test_missing_key(change_entries, key):
    def change(entries):
        del entries[1][key]

    one_line(change_entries(change), "entry 1", f"{key} is missing")


def test_entry_that_is_no_object(change_entries):
    def change(entries):
        entries[1] = "picture"

    one_line(change_entries(change), "entry 1 is a str")


def test_split_without_any_pair(change_entries):
    def change(entries):
        for entry in entries:
            for key in entry:
                if key.endswith("_list"):
                    entry[key] = []

    one_line(
        change_entries(change),
        "train.json",
        "pair_pos_semipos_sate_img_list",
        "no usable pair",
        "3 entries",
        "take the file",
    )


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b'[{"drone_img_dir": "drone/images",', "line 1 column 35"),
        (b"", "can't be read as JSON (Expecting value: line 1 column 1"),
        (b"\xff\xfe\x00", "can't be read as JSON"),
        (b"[" * 200_000, "can't be read as JSON"),
        (b"[" + b"9" * 5000 + b"]", "JSON"),
        (b"[]", "empty list"),
        (b'{"a": 1}', "JSON dict"),
    ],
)
def test_file_that_is_no_list_of_entries(gta_root, content, word):
    (gta_root / "train.json").write_bytes(content)
    one_line(gta_root, "train.json", word)


def test_missing_file_and_folder(gta_root):
    with pytest.raises(DataError, match=r"nothing\.json is missing"):
        gta_uav.read_split(gta_root, "nothing.json", 1024, 0.5)
    (gta_root / "satellite").rename(gta_root / "elsewhere")
    one_line(gta_root, "satellite", "can't be listed")


def test_empty_tile_folder(gta_root):
    for path in (gta_root / "satellite").iterdir():
        path.unlink()
    one_line(gta_root, "satellite holds no tile")


def test_reads_a_hundred_thousand_pairs(tmp_path):
    tiles = [f"7_0_{x}_{y}.png" for x in range(100) for y in range(100)]
    entries = []
    for drone in range(10_000):
        names = [tiles[(drone + step) % len(tiles)] for step in range(10)]
        entry = {
            "drone_img_dir": "d",
            "drone_img_name": f"{drone}.png",
            "drone_loc_x_y": [0.0, 1.0],
            "sate_img_dir": "s",
        }
        for mode, listed in (("pos", names[:1]), ("pos_semipos", names)):
            entry[f"pair_{mode}_sate_img_list"] = listed
            entry[f"pair_{mode}_sate_weight_list"] = [0.5] * len(listed)
            entry[f"pair_{mode}_sate_loc_x_y_list"] = [[0.0, 0.0]] * len(listed)
        entries.append(entry)
    (tmp_path / "train.json").write_text(json.dumps(entries))
    assert len(read(tmp_path, json_only=True).semipositive) == 100_000
