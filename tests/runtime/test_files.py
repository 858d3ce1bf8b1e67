"""Atomic files and directories."""

import errno
import json
import os
import platform
import re
import subprocess
import sys
import threading
import time

import pytest

from mindloc.errors import CheckpointError, MindlocError
from mindloc.runtime.files import (
    atomic_directory,
    atomic_link,
    atomic_write,
    atomic_write_text,
    remove_temporaries,
    synced,
)
from mindloc.runtime.lock import locked


def test_a_link_is_followed_and_kept(tmp_path):
    (tmp_path / "link.txt").symlink_to("file.txt")
    atomic_write_text(tmp_path / "link.txt", "one")
    assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "file.txt").read_text() == "one"
    (tmp_path / "set").mkdir()
    (tmp_path / "link").symlink_to("set")
    with atomic_directory(tmp_path / "link") as partial:
        (partial / "a").touch()
    assert (tmp_path / "link").is_symlink() and os.listdir(tmp_path / "set") == ["a"]


def test_devices_pipes_and_directories_are_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, kind in (
        (tmp_path / "pipe", "a device or a pipe"),
        ("/dev/null", "a device or a pipe"),
        (tmp_path, "a di"),
    ):
        with pytest.raises(MindlocError, match=f"is {kind}.*; give the path of a file"):
            atomic_write_text(path, "x")


OWNER = (
    "import sys, time; from pathlib import Path; from mindloc.errors import MindlocError; "
    "from mindloc.runtime.lock import locked\n"
    "with locked(Path(sys.argv[1]), 'set', MindlocError, 'written'): print('has it', flush=True); time.sleep(60)"
)


def test_a_lock_of_another_process_is_refused_with_its_name_until_it_ends(tmp_path):
    owner = subprocess.Popen([sys.executable, "-c", OWNER, tmp_path / "a"], stdout=subprocess.PIPE, text=True)
    assert owner.stdout.readline() == "has it\n"
    says = f"set {tmp_path / 'a'} is being written by process {owner.pid} on host {platform.node()}; wait until it ends"
    with (
        pytest.raises(MindlocError, match=re.escape(says)),
        locked(tmp_path / "a", "set", MindlocError, "written", False),
    ):
        pass
    with locked(tmp_path / "b", "set", MindlocError):  # another path is free
        pass
    owner.kill()
    owner.wait()
    with locked(tmp_path / "a", "set", MindlocError, waits=False):
        pass
    assert os.listdir(tmp_path) == []


def test_one_process_at_a_time_gets_the_lock(tmp_path):
    inside, most = [], []

    def change() -> None:
        for _ in range(20):
            with locked(tmp_path / "a", "set", MindlocError):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=change) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 80 and os.listdir(tmp_path) == []


def test_a_thread_may_take_a_lock_that_it_has(tmp_path):
    with locked(tmp_path / "a", "set", MindlocError, waits=False):
        with locked(tmp_path / "a", "set", MindlocError, waits=False) as waited:
            assert not waited
        assert os.listdir(tmp_path) == [".a.lock"]  # only leaving the outer context releases it
    with locked(tmp_path / "a", "set", MindlocError, waits=False, inside=True):
        assert os.listdir(tmp_path / "a") == [".lock"]


def test_a_disk_without_locks_is_noted(tmp_path, monkeypatch, capsys):
    def refuse(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with locked(tmp_path / "a", "set", MindlocError):
        pass
    says = f"note: {tmp_path} can't be locked (No locks available); use one writer at a time\n"
    assert capsys.readouterr().err == says


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    (tmp_path / ".set.123-0123abcd.partial").mkdir()
    (tmp_path / ".set.123-0123abcd.partial" / "half").touch()
    (tmp_path / ".set.45-89abcdef.tmp").touch()
    of_others = [".set.2.123-0123abcd.partial", ".set.json.123-0123abcd.tmp", ".set.mine.partial"]
    for name in of_others:
        (tmp_path / name).mkdir()
    with atomic_directory(tmp_path / "set"):
        pass
    assert sorted(os.listdir(tmp_path)) == sorted([*of_others, "set"])


def test_two_directories_of_similar_names_are_written_at_once(tmp_path):
    with atomic_directory(tmp_path / "set.2") as other, atomic_directory(tmp_path / "set"):
        assert other.is_dir()
    assert sorted(os.listdir(tmp_path)) == ["set", "set.2"]


def test_a_write_replaces_the_file_and_creates_its_directory(tmp_path):
    path = tmp_path / "new" / "file.txt"
    for text in ("one", "tür"):
        atomic_write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert os.listdir(path.parent) == ["file.txt"]


def test_a_file_appears_only_when_complete(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_of_the_writer_is_raised_and_keeps_the_old_file(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_write(path) as file:
        file.write(b"half")
        raise error
    assert os.listdir(tmp_path) == ["file"] and path.read_bytes() == b"old"


def test_a_full_disk_keeps_the_old_file(tmp_path):
    """The operating system reports an error for the write, as on a full disk."""
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"old")
    code = (
        "import resource, signal, sys, numpy as np\n"
        "from mindloc.runtime.checkpoint import save_weights\n"
        "from mindloc.errors import CheckpointError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    save_weights(sys.argv[1], {'w': np.zeros(100_000, np.float32)}, {})\n"
        "except CheckpointError as error:\n"
        "    print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(path)]
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert answer.stdout.count("\n") == 1 and f"can't write {path}: File too large; free some space" in answer.stdout
    assert os.listdir(tmp_path) == [path.name] and path.read_bytes() == b"old"


def test_a_file_in_the_place_of_the_directory_is_a_one_line_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match=r"^can't write [^\n]*$"):
        atomic_write_text(tmp_path / "file" / "below", "x", CheckpointError)


def test_a_hard_link_replaces_a_file_and_keeps_its_content_when_the_source_is_replaced(tmp_path):
    source, other, name = tmp_path / "source", tmp_path / "other", tmp_path / "name"
    source.write_text("one")
    other.write_text("two")
    atomic_link(source, name)
    atomic_link(other, name)
    assert name.read_text() == "two" and source.read_text() == "one"
    other.unlink()
    assert name.read_text() == "two"


def test_a_disk_without_links_gets_a_copy(tmp_path, monkeypatch):
    def refuse(source, destination):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("mindloc.runtime.files.os.link", refuse)
    (tmp_path / "source").write_text("one")
    atomic_link(tmp_path / "source", tmp_path / "name")
    assert (tmp_path / "name").read_text() == "one"
    with pytest.raises(MindlocError, match="can't write"):
        atomic_link(tmp_path / "absent", tmp_path / "name")


def test_temporary_files_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / ".weights.safetensors.123.tmp").write_text("half")
    (tmp_path / "kept.tmp").write_text("not ours")
    remove_temporaries(tmp_path)
    assert os.listdir(tmp_path) == ["kept.tmp"]


def test_a_directory_appears_only_when_complete(tmp_path):
    directory = tmp_path / "set"
    for content in ("one", "two"):
        with atomic_directory(directory) as partial:
            atomic_write_text(partial / "file", content)
            assert not directory.exists() or (directory / "file").read_text() == "one"
        assert (directory / "file").read_text() == content
    assert os.listdir(tmp_path) == ["set"]


def test_an_interrupted_directory_keeps_the_old_one(tmp_path):
    directory = tmp_path / "set"
    with atomic_directory(directory) as partial, synced(partial / "file") as file:
        file.write(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_directory(directory) as partial:
        (partial / "file").write_bytes(b"half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["set"] and (directory / "file").read_bytes() == b"old"


def test_json_with_a_name_that_is_not_unicode_comes_back(tmp_path):
    atomic_write_text(tmp_path / "f.json", json.dumps({"root": "\udc80é"}, ensure_ascii=False))
    assert json.loads((tmp_path / "f.json").read_text(encoding="utf-8")) == {"root": "\udc80é"}
