"""A sealed folder is read whole or not at all, whatever other processes do beside it."""

import errno
import os
import shutil
import time
from pathlib import Path

import pytest

from mindloc.runtime import sealed_folder
from mindloc.runtime.sealed_folder import copy_sealed, private_folder, put_sealed, remove_oldest


def sealed(place: Path, text: str = "content") -> Path:
    private = private_folder(place.parent)
    (private / "below").mkdir()
    (private / "graph").write_text(text)
    (private / "below" / "loop").write_text(text)
    put_sealed(private, place)
    return place


def texts(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "files.json")
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def copied(place: Path) -> tuple[bool, dict[str, str]]:
    private = private_folder(place.parent)
    return copy_sealed(place, private), texts(private)


def test_what_was_put_is_copied(tmp_path):
    assert copied(sealed(tmp_path / "a")) == (True, {"graph": "content", "below/loop": "content"})


def test_what_is_absent_is_not_copied(tmp_path):
    assert copied(tmp_path / "a") == (False, {})


@pytest.mark.parametrize("name", ["graph", "below/loop", "files.json"])
@pytest.mark.parametrize("damage", ["changed", "gone", "empty"])
def test_what_is_damaged_is_not_copied(tmp_path, name, damage):
    file = sealed(tmp_path / "a") / name
    if damage == "gone":
        file.unlink()
    else:
        file.write_text("c0ntent" if damage == "changed" else "")
    assert copied(tmp_path / "a") == (False, {})


def test_a_folder_removed_while_it_is_copied_is_not_copied(tmp_path, monkeypatch):
    place, copytree = sealed(tmp_path / "a"), shutil.copytree

    def overtaken(source, *arguments, **options):
        shutil.rmtree(Path(source) / "below")
        return copytree(source, *arguments, **options)

    monkeypatch.setattr(sealed_folder.shutil, "copytree", overtaken)
    assert copied(place) == (False, {})


def test_a_copy_is_nobody_elses_and_no_leftover(tmp_path):
    place = sealed(tmp_path / "a")
    os.utime(place, (1000, 1000))
    private = private_folder(tmp_path)
    assert copy_sealed(place, private)
    remove_oldest(tmp_path, kept=0)
    assert not place.exists()
    assert texts(private) == {"graph": "content", "below/loop": "content"}
    assert private.stat().st_mode & 0o777 == 0o700


def test_copying_is_using(tmp_path):
    for name in ("a", "b"):
        os.utime(sealed(tmp_path / name) / "files.json", (1000, 1000))
    copied(tmp_path / "a")
    remove_oldest(tmp_path, kept=1)
    assert (tmp_path / "a").exists() and not (tmp_path / "b").exists()


def test_who_was_faster_keeps_his_place(tmp_path):
    sealed(tmp_path / "a", "first")
    sealed(tmp_path / "a", "second")
    assert copied(tmp_path / "a") == (True, {"graph": "first", "below/loop": "first"})


def test_a_damaged_folder_is_replaced(tmp_path):
    (sealed(tmp_path / "a", "first") / "graph").write_text("fir5t")
    sealed(tmp_path / "a", "second")
    assert copied(tmp_path / "a") == (True, {"graph": "second", "below/loop": "second"})


def test_a_disk_that_refuses_is_told(tmp_path, monkeypatch):
    def full(source, place):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sealed_folder.os, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        sealed(tmp_path / "a")


def test_the_folders_used_last_are_kept(tmp_path):
    for age, name in enumerate(["a", "b", "c", "d"]):
        os.utime(sealed(tmp_path / name) / "files.json", (1000 - age, 1000 - age))
    for name, age_s in ((".writing-now", 0), (".writing-killed", 2 * 86400)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age_s, time.time() - age_s))
    (tmp_path / "notes.txt").write_text("the user's")
    remove_oldest(tmp_path, kept=2)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", ".writing-now", "notes.txt"}
