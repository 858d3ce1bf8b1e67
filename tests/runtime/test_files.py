"""Atomic files and directories."""

import os
import subprocess
import sys

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
    """The operating system fails the write, as on a full disk."""
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


def test_a_link_replaces_a_file_and_stays_when_the_source_changes(tmp_path):
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
