"""The GTA-UAV reader: values by hand on four tiles, counts of the real flight, one line for each bad input."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_gta import gta_entries

from mindloc.config.sections import DataConfig
from mindloc.data.gta_uav import parse_tile, read_ground
from mindloc.data.readers import read_split
from mindloc.errors import DataError


def data_of(root, **values) -> DataConfig:
    values = {"train_pairs": "train.json", "map_px": 1024, "m_per_px": 0.5, **values}
    return DataConfig(reader="gta_uav", root=str(root), **values)


def read(root, **values):
    return read_split(data_of(root, **values), "train")


def flight(adm_root, **values) -> DataConfig:
    return DataConfig(root=str(adm_root), map_px=4800, m_per_px=0.243, **values)


def test_files_places_and_overlaps(gta_root):
    split = read(gta_root)
    assert split.query.files[0] == "drone/images/100_0001_0000000001.png"
    # every tile of the directory, sorted, including 1_0_1_1, which is in no pair
    assert split.reference.files == [f"satellite/1_0_{x}_{y}.png" for x, y in ((0, 0), (0, 1), (1, 0), (1, 1))]
    # tile_px = 1024 / 2 = 512, center = 512 * (t + 1/2) * 0.5: 128 or 384
    assert split.reference.places.coordinate_N2.tolist() == [[128, 128], [128, 384], [384, 128], [384, 384]]
    assert split.query.places.coordinate_N2.tolist() == [[130, 120], [380, 130], [256, 128]]
    assert split.reference.place_unit == "plane_m"
    assert split.edges("pos").pairs().tolist() == [[0, 0], [1, 2]]
    assert split.edges("pos_semipos").pairs().tolist() == [[0, 0], [0, 1], [1, 2], [2, 0], [2, 2]]
    np.testing.assert_allclose(split.edges("pos_semipos").columns["iou"], [0.5, 0.2, 0.75, 0.25, 0.3], rtol=1e-7)
    assert all(path.is_file() for path in split.paths("query") + split.paths("reference"))


@pytest.mark.parametrize(
    "name",
    [
        "4_0_6",
        "a_0_6_13.png",
        "4_0_6_-1",
        "",
        "4_0_6_13_2",
        "4.5_0_6_13",
        "x/4_0_6_13.png",
        "100_0_6_13",
        f"4_0_{10**9}_1",
    ],
)
def test_other_names_are_not_tiles(name):
    with pytest.raises(DataError, match="zoom"):
        parse_tile(name)


def test_published_tile_center():
    # GTA-UAV: 24576 px, 0.45 m/px; 4_0_6_13 -> (4492.8, 9331.2)
    ground = read_ground(DataConfig(map_px=24576, m_per_px=0.45), Path("tiles"), ["4_0_6_13.png"])
    np.testing.assert_allclose(ground.place_N2, [[4492.8, 9331.2]])


def test_ground_of_tiles():
    # zoom 1: 256 m a side; offset 64 of 256: a quarter of a side = 64 m
    ground = read_ground(data_of("nowhere"), Path("tiles"), ["1_0_0_1.png", "1_64_0_0.png"])
    assert ground.unit == "plane_m"
    assert ground.bounds_N4.tolist() == [[0, 256, 256, 512], [64, 64, 320, 320]]


def test_ground_of_tiles_on_the_map_of_their_data_set(tmp_path):
    """Zoom 0, one tile: 1024 px at 0.5 m are 512 m in training, at 2 m 2048 m in test."""
    data = data_of(tmp_path / "train", test_root=str(tmp_path / "train" / "test"), test_m_per_px=2)

    def side_m(directory, data=data):
        return read_ground(data, directory, ["0_0_0_0.png"]).bounds_N4[0, 2]

    assert side_m(tmp_path / "train" / "satellite") == 512
    assert side_m(tmp_path / "train" / "test" / "satellite") == side_m(tmp_path / "train" / "test") == 2048
    for directory, of in [(tmp_path / "else", data), (tmp_path / "train", data_of(tmp_path / "train", test_map_px=9))]:
        with pytest.raises(DataError, match=f"tiles in {directory} have no place: the maps of .* set one of the two"):
            side_m(directory, of)
    same = data_of(tmp_path / "train", test_root=str(tmp_path / "test"), test_m_per_px=0.5)
    assert side_m(tmp_path / "else", same) == 512


def test_tile_centers_equal_those_in_the_real_flights_file(adm_root):
    split = read_split(flight(adm_root), "train")
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
    # counts: ls and the lists of the pairs files
    split = read_split(flight(adm_root), name)
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


def test_other_files_beside_the_tiles_are_ignored(gta_root):
    (gta_root / "satellite" / "README.txt").write_text("notes")
    assert len(read(gta_root).reference.files) == 4


def test_a_larger_train_ratio_keeps_a_superset_of_drone_images(adm_root):
    def files(ratio):
        split = read_split(flight(adm_root, train_ratio=ratio), "train")
        assert len(split.reference.files) == 619
        return split.query.files

    everything, half, tenth = files(1.0), files(0.5), files(0.1)
    assert (len(half), len(tenth)) == (118, 24)  # 117.5 and 23.5, rounded to even and up
    assert half == [name for name in everything if name in set(half)]  # file order
    assert set(tenth) < set(half)
    assert files(0.5) == half


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
def test_weights_at_the_limits_are_accepted(change_entries, weight):
    def change(entries):
        entries[1]["pair_pos_semipos_sate_weight_list"][0] = weight

    edges = read(change_entries(change)).semipositive
    assert edges.columns["iou"][edges.start[1] : edges.start[2]].tolist() == [weight]


@pytest.mark.parametrize("tile", ["roof.png", "1_0_0.png", "1_0_0_x.png", "../1_0_0_0.png", 7, None, ["1_0_0_0.png"]])
def test_a_name_that_is_not_a_tile_name(change_entries, tile):
    def change(entries):
        entries[2]["pair_pos_semipos_sate_img_list"][1] = tile

    one_line(change_entries(change), "entry 2", "pair_pos_semipos_sate_img_list", "tile name", repr(tile))


def test_tile_that_is_not_on_disk(change_entries):
    def change(entries):
        entries[2]["pair_pos_semipos_sate_img_list"][1] = "1_0_1_7.png"

    one_line(change_entries(change), "entry 2", "pair_pos_semipos_sate_img_list", "1_0_1_7.png is not in satellite/")


def test_a_tile_with_another_suffix(gta_root):
    (gta_root / "satellite/1_0_0_1.png").rename(gta_root / "satellite/1_0_0_1.jpg")
    one_line(gta_root, "entry 0", "1_0_0_1.png", "1_0_0_1.jpg exists")


def test_image_in_the_tile_directory_that_is_not_a_tile(gta_root):
    (gta_root / "satellite/1_0_0_0.png").rename(gta_root / "satellite/overview.png")
    one_line(gta_root, "satellite/overview.png", "is not a GTA-UAV tile name")


def test_tile_twice_on_disk(gta_root):
    (gta_root / "satellite/1_0_0_0.jpg").write_bytes(b"")
    one_line(gta_root, "1_0_0_0.jpg and 1_0_0_0.png are the same tile")


@pytest.mark.parametrize("what", ["img", "weight", "loc_x_y"])
@pytest.mark.parametrize("mode", ["pos", "pos_semipos"])
def test_lists_of_different_lengths(change_entries, mode, what):
    def change(entries):
        entries[0][f"pair_{mode}_sate_{what}_list"].append(entries[0][f"pair_{mode}_sate_{what}_list"][0])

    one_line(change_entries(change), "entry 0", f"pair_{mode}_sate_{what}_list has", "different lengths")


def test_drone_image_twice(change_entries):
    def change(entries):
        entries[2]["drone_img_name"] = entries[0]["drone_img_name"]

    one_line(change_entries(change), "entry 2", "drone_img_name", "100_0001_0000000001.png is in entry 0 too")


def test_tile_twice_in_one_list(change_entries):
    def change(entries):
        for what in ("img", "loc_x_y"):
            key = f"pair_pos_semipos_sate_{what}_list"
            entries[2][key][1] = entries[2][key][0]

    one_line(change_entries(change), "entry 2", "pair_pos_semipos_sate_img_list", "1_0_0_0.png is listed twice")


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
        ("drone_img_name", "a\n.png"),
        ("drone_img_dir", None),
        ("sate_img_dir", "tiles"),
        ("drone_img_name", "../../secret.jpg"),
        ("drone_img_dir", "..\\drone\\images"),
        ("drone_img_dir", "D:\\data\\drone\\images"),
        ("drone_loc_x_y", [1.0]),
        ("drone_loc_x_y", [1.0, float("nan")]),
        ("drone_loc_x_y", ["1", "2"]),
        ("pair_pos_sate_img_list", "1_0_0_0.png"),
        ("pair_pos_sate_weight_list", None),
    ],
)
def test_value_of_the_wrong_kind(change_entries, key, value):
    def change(entries):
        entries[1][key] = value

    one_line(change_entries(change), "entry 1", key, "expected")


def test_paths_as_windows_writes_them(change_entries):
    def change(entries):
        for entry in entries:
            entry["drone_img_dir"] = entry["drone_img_dir"].replace("/", "\\") + "\\"
            entry["sate_img_dir"] = ".\\" + entry["sate_img_dir"]

    plain, changed = read(change_entries(lambda entries: None)), read(change_entries(change))
    assert plain.query.files == changed.query.files and plain.reference.files == changed.reference.files


@pytest.mark.parametrize("key", ["drone_img_name", "drone_loc_x_y", "pair_pos_semipos_sate_img_list"])
def test_missing_key(change_entries, key):
    def change(entries):
        del entries[1][key]

    one_line(change_entries(change), "entry 1", f"{key} is missing")


def test_entry_that_is_not_an_object(change_entries):
    def change(entries):
        entries[1] = "image"

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
        "use the pairs file",
    )


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b'[{"drone_img_dir": "drone/images",', "line 1 column 35"),
        (b"", "can't be read as JSON (Expecting value: line 1 column 1"),
        (b"\xff\xfe\x00", "line 1 is not text in UTF-16-LE"),
        (b"[" * 200_000, "can't be read as JSON"),
        (b"[" + b"9" * 5000 + b"]", "JSON"),
        (b"[]", "empty list"),
        (b'{"a": 1}', "JSON dict"),
    ],
)
def test_a_file_that_is_not_a_list_of_entries(gta_root, content, word):
    (gta_root / "train.json").write_bytes(content)
    one_line(gta_root, "train.json", word)


def test_missing_file_and_directory(gta_root):
    with pytest.raises(DataError, match=r"nothing\.json is missing"):
        read(gta_root, train_pairs="nothing.json")
    (gta_root / "satellite").rename(gta_root / "elsewhere")
    one_line(gta_root, "satellite is missing; expected the satellite tiles there")


def test_empty_tile_directory(gta_root):
    for path in (gta_root / "satellite").iterdir():
        path.unlink()
    one_line(gta_root, "satellite has no images")


KEYS = [*gta_entries()[0], "unknown"]
LISTS = [key for key in KEYS if key.endswith("_list")]
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner), max_leaves=6
)
# an entry, one of its keys, position in a list, and the new value
CHANGES = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(KEYS), st.integers(0, 2), JSON), min_size=1, max_size=3)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CHANGES)
def test_any_file_is_read_or_a_one_line_error(gta_root, changes):
    entries = gta_entries()
    for at, key, position, value in changes:
        entry = entries[at]
        if key in LISTS and position < 2 and isinstance(entry[key], list) and len(entry[key]) > position:
            entry[key][position] = value
        else:
            entry[key] = value
    (gta_root / "train.json").write_text(json.dumps(entries))
    try:
        split = read(gta_root)
    except DataError as error:
        assert "\n" not in str(error)
        return
    iou_E = split.semipositive.columns["iou"]
    assert ((iou_E >= 0) & (iou_E <= 1)).all() and len(iou_E) == len(split.semipositive) > 0
    assert np.isfinite(split.query.places.coordinate_N2).all()
    assert split.semipositive.reference.max() < len(split.reference)


def overlaps(split) -> dict[tuple[str, str], float]:
    files = (split.query.files, split.reference.files)
    names = [tuple(side[index] for side, index in zip(files, pair, strict=True)) for pair in split.semipositive.pairs()]
    return dict(zip(names, split.semipositive.columns["iou"].tolist(), strict=True))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(range(3)), st.randoms(use_true_random=False))
def test_the_order_of_entries_and_of_their_tiles_changes_no_overlap(gta_root, order, random):
    expected = overlaps(read_unchanged(gta_root))
    entries = [copy.deepcopy(gta_entries()[at]) for at in order]
    for entry in entries:
        for mode in ("pos", "pos_semipos"):
            keys = [f"pair_{mode}_sate_{what}_list" for what in ("img", "weight", "loc_x_y")]
            rows = list(zip(*(entry[key] for key in keys), strict=True))
            random.shuffle(rows)
            entry.update(zip(keys, map(list, zip(*rows, strict=True)) if rows else ([], [], []), strict=True))
    (gta_root / "train.json").write_text(json.dumps(entries))
    split = read(gta_root)
    assert overlaps(split) == expected
    assert [file[-6:-4] for file in split.query.files] == [f"0{at + 1}" for at in order]
    place_of = dict(zip(split.query.files, split.query.places.coordinate_N2.tolist(), strict=True))
    assert sorted(place_of.values()) == [[130, 120], [256, 128], [380, 130]]


def read_unchanged(root):
    (root / "train.json").write_text(json.dumps(gta_entries()))
    return read(root)
