"""Names of the pictures in a folder: which, in which order, and those that are no text."""

import os

import pytest

from mindloc.data.images import picture_names
from mindloc.errors import DataError


def test_pictures_of_all_subfolders_are_sorted_and_relative(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("b/1.JPG", "c.png", "a.jpeg", "é.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert picture_names(tmp_path) == ["a.jpeg", "b/1.JPG", "c.png", "é.png"]


def test_a_name_that_is_no_text_is_refused(tmp_path):
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")  # Latin-1
    except OSError:
        pytest.skip("this file system takes no such name")
    with pytest.raises(DataError, match=r"'caf\\udce9.png' is no UTF-8 text; rename the picture"):
        picture_names(tmp_path)


def test_nothing_to_name_is_one_line(tmp_path):
    with pytest.raises(DataError, match="holds no picture"):
        picture_names(tmp_path)
    with pytest.raises(DataError, match="is no folder"):
        picture_names(tmp_path / "nowhere")
