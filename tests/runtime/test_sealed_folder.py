"""A sealed folder is read whole or not at all, whatever other processes do beside it."""

import errno
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mindloc.runtime import sealed_folder
from mindloc.runtime.sealed_folder import (
    copy_sealed,
    private_folder,
    put_sealed,
    remove_left_behind,
    remove_oldest,
    renew_private,
)

LETTER = re.compile("[a-z]")
DAY_S = 24 * 3600


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
    remove_oldest(tmp_path, 0, LETTER)
    assert not place.exists()
    assert texts(private) == {"graph": "content", "below/loop": "content"}
    assert private.stat().st_mode & 0o777 == 0o700
    assert time.time() - private.stat().st_mtime < 60


def test_copying_is_using(tmp_path):
    for name in ("a", "b"):
        os.utime(sealed(tmp_path / name) / "files.json", (1000, 1000))
    copied(tmp_path / "a")
    remove_oldest(tmp_path, 1, LETTER)
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
    (tmp_path / "n").write_text("the user's")
    (tmp_path / "f").mkdir()
    remove_oldest(tmp_path, 2, LETTER)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "n", "f"}


def test_folders_of_other_names_are_not_ours_to_remove(tmp_path):
    for name in ("website", "ab", "a"):  # "ab" begins as one of ours
        sealed(tmp_path / name)
    remove_oldest(tmp_path, 0, LETTER)
    assert {path.name for path in tmp_path.iterdir()} == {"website", "ab"}


def aged(path: Path, age_s: float) -> Path:
    os.utime(path, (time.time() - age_s, time.time() - age_s))
    return path


def test_what_killed_processes_left_is_removed_a_day_later(tmp_path):
    for name, age_s in ((".writing-now", 0), (".writing-killed", 2 * DAY_S), ("website", 2 * DAY_S)):
        (tmp_path / name / "below").mkdir(parents=True)
        aged(tmp_path / name, age_s)
    remove_left_behind(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".writing-now", "website"}


HOLDING = """
import sys
from pathlib import Path
from mindloc.runtime.sealed_folder import {0}
print({1}, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("made", ["first", "again"])
def test_a_folder_is_held_as_long_as_its_process_lives(tmp_path, made):
    if made == "first":
        code = HOLDING.format("private_folder", f"private_folder(Path({str(tmp_path)!r}))")
    else:  # the folder of another process: its hold is not the one that counts
        code = HOLDING.format("renew_private", f"renew_private(Path({str(tmp_path / '.writing-again')!r}))")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", code], **pipes, env=environment)
    try:
        process.stdout.readline()
        (private,) = tmp_path.iterdir()
        aged(private, 30 * DAY_S)
        remove_left_behind(tmp_path)
        assert private.exists()
    finally:
        process.kill()
        process.communicate()
    remove_left_behind(tmp_path)
    assert not private.exists()


def test_a_disk_without_locks_has_the_age_alone(tmp_path, monkeypatch):
    def unsupported(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(sealed_folder.fcntl, "flock", unsupported)
    young, old = private_folder(tmp_path), aged(private_folder(tmp_path), 2 * DAY_S)
    remove_left_behind(tmp_path)
    assert young.exists() and not old.exists()


def test_a_private_folder_made_again_is_empty_and_private(tmp_path):
    private = private_folder(tmp_path)
    (private / "graph").write_text("half")
    renew_private(private)
    assert list(private.iterdir()) == [] and private.stat().st_mode & 0o777 == 0o700


def test_what_another_user_could_have_written_is_refused(tmp_path):
    place, private = sealed(tmp_path / "a"), private_folder(tmp_path)
    for mode in (0o770, 0o702):
        place.chmod(mode)
        with pytest.raises(PermissionError, match="others may write there"):
            copy_sealed(place, private)
    place.chmod(0o755)  # reading is no harm
    assert copy_sealed(place, private)


def test_a_sealed_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    place, private, user = sealed(tmp_path / "a"), private_folder(tmp_path), os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    with pytest.raises(PermissionError, match="it belongs to another user") as refusal:
        copy_sealed(place, private)
    assert refusal.value.filename == str(place) and texts(private) == {}


def test_nobody_works_where_another_user_could_write(tmp_path, monkeypatch):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(PermissionError, match="others may write there"):
        private_folder(tmp_path / "open")
    monkeypatch.setattr(os, "getuid", lambda: -1)
    with pytest.raises(PermissionError, match="it belongs to another user"):
        private_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["open"] and not any((tmp_path / "open").iterdir())


def test_the_shared_folder_is_made_for_this_user_alone(tmp_path):
    mask = os.umask(0o002)  # a common one, with which the group may write
    try:
        private_folder(tmp_path / "new" / "graphs")
    finally:
        os.umask(mask)
    assert (tmp_path / "new" / "graphs").stat().st_mode & 0o777 == 0o700
