"""Strict readers of files from other programs: what each accepts, and a one-line error for all else."""

import hashlib
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindloc.errors import DataError
from mindloc.reading import file_sha256, read_array, read_csv, read_json, read_json_lines, read_lines, read_text

READERS = {
    "text": lambda path: read_text(path, DataError, "way out"),
    "lines": lambda path: read_lines(path, DataError, "way out"),
    "JSON": lambda path: read_json(path, DataError, "", "way out"),
    "JSON Lines": lambda path: list(read_json_lines(path, DataError, "way out")),
    "CSV": lambda path: list(read_csv(path, DataError, "way out")),
    "array": lambda path: read_array(path, DataError, "way out"),
    "hash": lambda path: file_sha256(path, DataError),
}
every_reader = pytest.mark.parametrize("reader", READERS.values(), ids=READERS)


def refusal(reader, path) -> str:
    with pytest.raises(DataError) as caught:
        reader(path)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 600
    return line


@every_reader
def test_only_regular_files_are_read(tmp_path, reader):
    os.mkfifo(tmp_path / "pipe")  # would wait for a writer for ever
    assert "pipe is a pipe, expected a file; " in refusal(reader, tmp_path / "pipe")
    assert "/dev/zero is a device, expected a file; " in refusal(reader, "/dev/zero")
    assert f"{tmp_path} is a directory, expected a file; " in refusal(reader, tmp_path)


@every_reader
def test_a_path_without_a_file_is_a_one_line_error(tmp_path, reader):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "none can't be read: No such file" in refusal(reader, tmp_path / "none")
    assert "loop can't be read: Too many levels" in refusal(reader, tmp_path / "loop")
    assert "can't be read: File name too long; " in refusal(reader, tmp_path / ("x" * 300))
    assert "can't be read: " in refusal(reader, "a\0b")


@every_reader
@given(data=st.binary(max_size=300))
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path_factory, reader, data):
    path = tmp_path_factory.getbasetemp() / "any bytes"
    path.write_bytes(data)
    try:
        reader(path)
    except DataError as error:
        assert "\n" not in str(error) and len(str(error)) < 600


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])  # the last two write a byte order mark
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_of_other_programs_are_read(tmp_path, encoding, end):
    (tmp_path / "names").write_bytes(end.join(["4_0_1_2.png", "", "东方 \u2028x.png", ""]).encode(encoding))
    assert read_lines(tmp_path / "names", DataError, "") == ["4_0_1_2.png", "", "东方 \u2028x.png"]


def test_another_encoding_is_refused_with_the_line_number(tmp_path):
    (tmp_path / "names").write_bytes(b"a\nb\n" + "东方".encode("gbk"))
    line = refusal(READERS["lines"], tmp_path / "names")
    assert line == f"{tmp_path / 'names'} line 3 is not text in UTF-8; save the file as UTF-8; way out"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_is_read_by_the_delimiter_of_its_header(tmp_path, delimiter):
    rows = [["name", "lat", "lon"], [" a ", '"3, 1; x"', "4"], ["", "", ""], ["b", "5", "6"]]
    (tmp_path / "t.csv").write_bytes("\r\n".join(map(delimiter.join, rows)).encode("utf-8-sig"))
    found = list(read_csv(tmp_path / "t.csv", DataError, "way out"))
    assert [row for _, row in found] == [["name", "lat", "lon"], ["a", "3, 1; x", "4"], ["b", "5", "6"]]
    assert [where.rpartition(" ")[2] for where, _ in found] == ["1", "2", "4"]


def test_a_table_with_an_open_quote_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text('a,b\n"c,d\n')
    assert "line 2 is not CSV: unexpected end of data; way out" in refusal(READERS["CSV"], tmp_path / "t.csv")


@pytest.mark.parametrize("memory_map", [True, False])
@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3), np.zeros((0, 4), np.float32), np.arange(4) > 1])
def test_an_array_is_read_back(tmp_path, array, memory_map):
    np.save(tmp_path / "a.npy", array)
    found = read_array(tmp_path / "a.npy", DataError, "", memory_map)
    assert found.dtype == array.dtype and found.shape == array.shape and (found == array).all()
    np.save(tmp_path / "f.npy", np.asfortranarray(array))
    assert (read_array(tmp_path / "f.npy", DataError, "", memory_map) == array).all()


def test_arrays_that_are_not_plain_numbers_of_their_size_are_refused(tmp_path):
    array = READERS["array"]
    np.savez(tmp_path / "a.npz", np.ones(3))
    assert "is not a .npy file" in refusal(array, tmp_path / "a.npz")
    np.save(tmp_path / "o.npy", np.array([object()]), allow_pickle=True)
    assert "contains Python objects, expected numbers" in refusal(array, tmp_path / "o.npy")
    np.save(tmp_path / "a.npy", np.ones(3, np.float32))
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(whole[:-1])
    assert "has 11 bytes of data, but its header says 12" in refusal(array, tmp_path / "a.npy")
    # the text of a dict that never ends
    (tmp_path / "a.npy").write_bytes(whole.replace(b"}", b" "))
    assert "is not a .npy file" in refusal(array, tmp_path / "a.npy")
    # no memory is reserved for a petabyte that the file does not contain
    (tmp_path / "a.npy").write_bytes(whole.replace(b"(3,), }" + b" " * 15, b"(1000000000000000,), }"))
    assert "has 12 bytes of data, but its header says 4000000000000000" in refusal(array, tmp_path / "a.npy")


def test_the_content_of_a_json_file_is_returned(tmp_path):
    (tmp_path / "card.json").write_text('{"name": "tür"}', encoding="utf-8")
    assert read_json(tmp_path / "card.json", DataError, "card", "write it again") == {"name": "tür"}
    (tmp_path / "names.json").write_text("[1, 2]")
    assert read_json(tmp_path / "names.json", DataError, "", "write it again", kind=list) == [1, 2]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "can't be read: No such file or directory"),
        (b"", "can't be read as JSON (Expecting value: line 1 column 1 (char 0))"),
        (
            b'["a",\n :]',
            "can't be read as JSON (Expecting value: line 2 column 2 (char 7))",
        ),
        (b"\xff\xfe\x00", "line 1 is not text in UTF-16-LE; save the file as UTF-8"),
        (b"[" * 100_000, "can't be read as JSON ("),
        (b'{"a": ' + b"9" * 5000 + b"}", "can't be read as JSON ("),
        (b"[1]", "contains a JSON list, expected an object"),
        (b" " * 200_001, "has 200001 bytes; expected at most 200000"),
    ],
)
def test_a_file_that_is_not_json_is_a_one_line_error(tmp_path, content, says):
    path = tmp_path / "card.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_json(path, DataError, "card", "write it again", most_bytes=200_000)
    line = str(caught.value)
    assert line.startswith(f"card {path} {says}") and line.endswith("; write it again") and "\n" not in line


@pytest.mark.parametrize("size", [0, 1, 4096, 4097])  # nothing, a part of a page, a page, and one more byte
def test_a_hash_covers_all_bytes_in_order(tmp_path, size):
    content = bytes(number % 251 for number in range(size))
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file", DataError) == hashlib.sha256(content).hexdigest()


def test_the_hash_of_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="file can't be read: No such file or directory; check the path"):
        file_sha256(tmp_path / "file", DataError)
