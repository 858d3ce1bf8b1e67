"""Descriptor sets: a round trip returns the same rows, broken sets are named, no partial set remains."""

import json
import shutil
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mindloc.descriptors.sets import (
    DescriptorWriter,
    load_descriptor_set,
    load_descriptor_sets,
    make_rows,
    save_descriptor_set,
)
from mindloc.errors import DataError

CARD = {"view": "satellite", "place_unit": "plane_m", "checkpoint_sha256": None}


@pytest.fixture
def saved(tmp_path):
    """A sound set of five rows in ``tmp_path/set``."""
    descriptor_ND = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    rows = make_rows([f"satellite/{i}.png" for i in range(5)], np.arange(10.0).reshape(5, 2))
    save_descriptor_set(tmp_path / "set", descriptor_ND, rows, CARD)
    return tmp_path / "set", descriptor_ND, rows


def edit_json(path, **facts):
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


finite = st.floats(-1e9, 1e9)
names = st.text(st.characters(codec="utf-8") | st.sampled_from("\n\r\x1c\x85\u2028"), min_size=1)  # line ends
places = st.none() | st.tuples(finite, finite).map(list)
rows_of_any_set = st.lists(
    st.fixed_dictionaries(
        {"name": names, "place": places},
        optional={"bounds": st.lists(finite, min_size=4, max_size=4)},
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda row: row["name"],
)


@given(rows=rows_of_any_set, data=st.data(), memory_map=st.booleans())
def test_a_round_trip_returns_the_same_set(rows, data, memory_map):
    shape = (len(rows), data.draw(st.integers(1, 4)))
    descriptor_ND = data.draw(arrays(np.float32, shape, elements=st.floats(-1e6, 1e6, width=32)))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(rows)))) | {0, len(rows)})
    with TemporaryDirectory() as directory:
        with DescriptorWriter(Path(directory) / "set", {"global": CARD}) as writer:
            for start, end in pairwise(cuts):
                writer.append({"global": descriptor_ND[start:end]}, rows[start:end])
        loaded = load_descriptor_set(Path(directory) / "set", memory_map)
        np.testing.assert_array_equal(loaded.descriptor_ND, descriptor_ND)
        assert isinstance(loaded.descriptor_ND, np.memmap) is memory_map
    assert loaded.rows == rows and loaded.count == len(rows)
    assert loaded.names == [row["name"] for row in rows]
    nowhere = [np.nan, np.nan]
    np.testing.assert_array_equal(loaded.place_N2(), [row["place"] or nowhere for row in rows])
    np.testing.assert_array_equal(loaded.bounds_N4(), [row.get("bounds") or nowhere * 2 for row in rows])
    assert {**loaded.card, **CARD} == loaded.card and loaded.card["dimension"] == shape[1]
    length_N = np.linalg.norm(descriptor_ND.astype(np.float64), axis=1)
    assert loaded.card["normalized"] is bool(np.all(np.abs(length_N - 1) < 1e-3))


def test_plain_numpy_reads_the_matrix(saved):
    np.testing.assert_array_equal(np.load(saved[0] / "descriptors.npy", allow_pickle=False), saved[1])


def test_batches_and_one_write_give_the_same_bytes(saved, tmp_path):
    directory, descriptor_ND, rows = saved
    with DescriptorWriter(tmp_path / "streamed", {"global": CARD}) as writer:
        for start in (0, 2, 4):
            writer.append({"global": descriptor_ND[start : start + 2]}, rows[start : start + 2])
    for name in ("descriptors.npy", "rows.jsonl", "card.json"):
        assert (tmp_path / "streamed" / name).read_bytes() == (directory / name).read_bytes()


def test_the_card_says_whether_rows_have_unit_length(tmp_path):
    save_descriptor_set(tmp_path / "unit", np.eye(3, dtype=np.float32), make_rows("abc", None), CARD)
    assert load_descriptor_set(tmp_path / "unit").card["normalized"] is True


def test_a_directory_with_any_other_file_is_never_replaced(tmp_path):
    image = tmp_path / "images" / "a.png"
    image.parent.mkdir()
    image.write_bytes(b"mine")
    rows = make_rows("a", None)
    for directory, message in ((image.parent, "contains a.png"), (image, "is a file")):
        with pytest.raises(DataError, match=message):
            save_descriptor_set(directory, np.ones((1, 3), np.float32), rows, CARD)
    assert image.read_bytes() == b"mine"


def test_a_failed_write_leaves_the_older_set_and_nothing_else(saved):
    directory, descriptor_ND, _ = saved
    with pytest.raises(RuntimeError, match="power cut"), DescriptorWriter(directory, {"global": CARD}) as writer:
        writer.append({"global": np.ones((1, 9), np.float32)}, make_rows(["x"], None))
        raise RuntimeError("power cut")
    np.testing.assert_array_equal(load_descriptor_set(directory).descriptor_ND, descriptor_ND)
    assert [path.name for path in directory.parent.iterdir()] == ["set"]


def test_a_new_set_replaces_the_older_one(saved):
    directory = saved[0]
    save_descriptor_set(directory, np.ones((2, 4), np.float32), make_rows("ab", None), CARD)
    assert load_descriptor_set(directory).descriptor_ND.shape == (2, 4)
    assert [path.name for path in directory.parent.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("descriptor_BD", "names", "message"),
    [
        (np.full((1, 3), np.nan), ["x"], "the descriptor of x contains NaN"),
        (np.ones((2, 3)), ["x"], r"descriptors of 1 rows have shape \(2, 3\)"),
        (np.ones((1, 3)), ["first"], "first appears twice in"),
        (np.ones((2, 3)), ["x", "x"], "x appears twice in"),
        (np.ones((1, 4)), ["x"], "have dimension 4, but the set has 3"),
        (np.ones((1, 3)), ["\udcff.png"], "is not valid Unicode; rename the file"),
    ],
)
def test_the_writer_raises(tmp_path, descriptor_BD, names, message):
    with pytest.raises(DataError, match=message), DescriptorWriter(tmp_path / "bad", {"global": CARD}) as writer:
        writer.append({"global": np.ones((1, 3))}, make_rows(["first"], None))
        writer.append({"global": descriptor_BD}, make_rows(names, None))
    assert list(tmp_path.iterdir()) == []


def test_an_empty_set_raises(tmp_path):
    with pytest.raises(DataError, match="would be empty"), DescriptorWriter(tmp_path / "bad", {"global": CARD}):
        pass


def break_rows(text):
    return lambda directory: (directory / "rows.jsonl").write_text(text)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda directory: (directory / "card.json").unlink(), "contains no descriptor set; write one with"),
        (lambda directory: (directory / "card.json").write_text("{"), "card.json can't be read"),
        (lambda directory: (directory / "card.json").write_text("[]"), "contains a JSON list, expected an object"),
        (lambda directory: edit_json(directory / "card.json", version=9), "has version 9, this program reads 2"),
        (lambda directory: edit_json(directory / "card.json", view=""), "has view ''"),
        (lambda directory: edit_json(directory / "card.json", count=4), "contradicts itself"),
        (lambda directory: edit_json(directory / "card.json", dimension=4), "contradicts itself"),
        (lambda directory: (directory / "rows.jsonl").unlink(), "rows.jsonl can't be read"),
        (break_rows("{}\n"), "rows.jsonl line 1 is {}, expected"),
        (break_rows("nonsense\n"), "line 1 is not JSON"),
        (break_rows('{"name": "a", "place": [1]}\n'), "line 1"),
        (break_rows('{"name": "a", "place": [1, NaN]}\n'), "line 1"),
        (break_rows('{"name": "a", "place": null}\n' * 2), "the name a is used twice; names must be unique: extract"),
        (
            lambda directory: (directory / "descriptors.npy").write_bytes(b"no array"),
            "is not a .npy file",
        ),
        (lambda directory: np.save(directory / "descriptors.npy", np.ones((5, 3))), "contains float64"),
        (
            lambda directory: np.save(directory / "descriptors.npy", np.array([object()]), allow_pickle=True),
            "contains Python objects, expected numbers",
        ),
        (
            lambda directory: np.save(directory / "descriptors.npy", np.full((5, 3), np.inf, np.float32)),
            "was changed or damaged",
        ),
    ],
)
def test_a_broken_set_is_named_on_loading(saved, damage, message):
    damage(saved[0])
    with pytest.raises(DataError, match=message) as caught:
        load_descriptor_set(saved[0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(30))
def test_a_flipped_bit_is_noticed(saved, seed):
    file = saved[0] / ("descriptors.npy", "rows.jsonl", "card.json")[seed % 3]
    data = bytearray(file.read_bytes())
    place = np.random.default_rng(seed).integers(8 * len(data))
    data[place // 8] ^= 1 << place % 8
    file.write_bytes(data)
    with pytest.raises(DataError):
        load_descriptor_set(saved[0])


def test_files_of_two_sets_do_not_form_one(saved, tmp_path):
    save_descriptor_set(tmp_path / "other", 2 * saved[1], saved[2], CARD)
    shutil.copy(tmp_path / "other" / "descriptors.npy", saved[0] / "descriptors.npy")
    with pytest.raises(DataError, match="was changed or damaged"):
        load_descriptor_set(saved[0])


def test_a_cut_off_matrix_is_named(saved):
    matrix = saved[0] / "descriptors.npy"
    matrix.write_bytes(matrix.read_bytes()[:-4])
    for memory_map in (True, False):
        with pytest.raises(DataError, match="has 56 bytes of data, but its header says 60"):
            load_descriptor_set(saved[0], memory_map)


def test_a_missing_set_names_the_command(tmp_path):
    with pytest.raises(DataError, match="write one with: .* -m mindloc extract"):
        load_descriptor_set(tmp_path / "nowhere")


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mindloc.runtime.files.os.fsync", refuse)
    with pytest.raises(DataError, match="No space left on device; free some space"):
        save_descriptor_set(tmp_path / "set", np.ones((1, 2)), make_rows("a", None), CARD)
    assert list(tmp_path.iterdir()) == []


def write_sets(directory, descriptors=("omega", "phi"), count=3, **facts):
    """One set per descriptor, as an extraction writes them."""
    for width, name in enumerate(descriptors, 2):
        card = {"view": "satellite", "place_unit": None, "checkpoint_sha256": "abc", "extraction": "one"}
        rows = make_rows([f"{row}.png" for row in range(count)], None)
        save_descriptor_set(directory / name, np.ones((count, width)), rows, {**card, "descriptor": name, **facts})


def test_the_sets_of_an_extraction_are_read_together(tmp_path):
    write_sets(tmp_path, ("omega", "phi", "centroids"))
    sets = load_descriptor_sets(tmp_path)
    assert {name: one.descriptor_ND.shape for name, one in sets.items()} == {
        "omega": (3, 2),
        "phi": (3, 3),
        "centroids": (3, 4),
    }
    assert list(load_descriptor_sets(tmp_path / "phi")) == ["phi"]  # one set, as of an encoder with one descriptor


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 2}, "omega and phi come from different extractions"),
        ({"checkpoint_sha256": "def"}, "omega and phi come from different extractions"),
        ({"extraction": "two"}, "omega and phi come from different extractions"),
        ({"descriptor": "omega"}, "phi contains omega descriptors"),
    ],
)
def test_sets_of_different_extractions_raise(tmp_path, change, message):
    write_sets(tmp_path, ("omega",))
    write_sets(tmp_path, ("phi",), **change)
    with pytest.raises(DataError, match=message):
        load_descriptor_sets(tmp_path)


def test_half_an_extraction_is_named(tmp_path):
    write_sets(tmp_path, ("omega",))
    with pytest.raises(DataError, match="contains omega, expected both omega and phi"):
        load_descriptor_sets(tmp_path)


def test_an_extraction_replaces_the_sets_of_an_older_one_together(tmp_path):
    write_sets(tmp_path / "tiles", ("omega", "phi", "centroids"))
    cards = {name: {**CARD, "descriptor": name} for name in ("omega", "phi")}
    with DescriptorWriter(tmp_path / "tiles", cards) as writer:
        writer.append({"omega": np.ones((1, 2)), "phi": np.ones((1, 3))}, make_rows("a", None))
        assert load_descriptor_sets(tmp_path / "tiles")["phi"].count == 3
    sets = load_descriptor_sets(tmp_path / "tiles")
    assert {name: one.descriptor_ND.shape for name, one in sets.items()} == {"omega": (1, 2), "phi": (1, 3)}
    assert [path.name for path in tmp_path.iterdir()] == ["tiles"]


def test_what_is_not_a_set_is_not_replaced(tmp_path):
    write_sets(tmp_path / "tiles", ("omega", "phi"))
    (tmp_path / "tiles" / "phi" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"phi contains notes.txt, so it is not a descriptor set to replace"):
        save_descriptor_set(tmp_path / "tiles", np.ones((1, 2)), make_rows("a", None), CARD)
    assert (tmp_path / "tiles" / "phi" / "notes.txt").exists()


def test_rows_have_bounds_if_they_are_known(tmp_path):
    rows = make_rows(["a", "b"], np.array([[1.0, 2.0], [3.0, 4.0]]), np.arange(8.0).reshape(2, 4))
    del rows[1]["bounds"]
    save_descriptor_set(tmp_path / "set", np.ones((2, 3)), rows, {"view": "satellite", "place_unit": "plane_m"})
    loaded = load_descriptor_set(tmp_path / "set")
    np.testing.assert_array_equal(loaded.bounds_N4(), [[0, 1, 2, 3], [np.nan] * 4])
    for bounds in ([1, 2, 3], [1, 2, 3, None], [1, 2, 3, 10**400], "1234"):
        rows[0]["bounds"] = bounds
        with pytest.raises(DataError, match="optionally bounds"):
            save_descriptor_set(tmp_path / "other", np.ones((2, 3)), rows, {"view": "satellite", "place_unit": None})


@pytest.mark.parametrize("fact", ["descriptor", "checkpoint_sha256", "nodes", "config", "place_unit"])
def test_a_fact_of_a_wrong_type_is_an_error(saved, fact):
    _, descriptor_ND, rows = saved
    directory = saved[0].with_name("other")
    save_descriptor_set(directory, descriptor_ND, rows, {**CARD, fact: [2.5]})  # with the right checksum
    with pytest.raises(DataError, match=f"card.json has {fact} .*2.5.*, of a wrong type; extract"):
        load_descriptor_set(directory)
