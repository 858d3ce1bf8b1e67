"""Data is copied once per server, and a copy that looks complete is complete."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mindloc.errors import StoreError
from mindloc.modelarts.incoming import bring_directory, bring_file, start_id
from mindloc.modelarts.stores import Unavailable, build_store

PROCESS = Path(__file__).with_name("copying_process.py")
URL = "obs://bucket/data"
FILES = {f"deep/{i}.bin": bytes([i]) * (i + 1) for i in range(6)}


@pytest.fixture
def data(bucket) -> Path:
    for name, content in FILES.items():
        path = bucket / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return bucket / "data"


@pytest.fixture
def scratch(tmp_path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def bring(scratch: Path, start: str = "first") -> Path:
    return bring_directory(build_store(URL), URL, scratch, start)


def assert_whole(directory: Path) -> None:
    assert {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*.bin")} == FILES


def calls(bucket: Path, function: str) -> int:
    notes = bucket.parent / "calls.txt"
    return notes.read_text().count(f"{function} ") if notes.exists() else 0


def test_a_copy_is_whole_and_used_again_by_the_same_start(data, bucket, scratch):
    directory = bring(scratch)
    assert_whole(directory)
    (data / "late.bin").write_bytes(b"late")  # what another process of this start sees must not change under it
    assert bring(scratch) == directory
    assert_whole(directory)
    assert calls(bucket, "copy_parallel") == 1


def test_a_later_start_uses_the_copy_again_if_its_size_is_unchanged(data, bucket, scratch, capsys):
    directory = bring(scratch)
    assert bring(scratch, "second") == directory
    assert calls(bucket, "copy_parallel") == 1
    assert "used again" in capsys.readouterr().out
    (data / "deep" / "0.bin").write_bytes(b"longer")
    assert (bring(scratch, "third") / "deep" / "0.bin").read_bytes() == b"longer"


def test_an_interrupted_copy_is_completed(data, scratch, monkeypatch, without_pauses):
    monkeypatch.setenv("FAKE_OBS_FAILS", '{"copy_parallel": [1, 2]}')
    assert_whole(bring(scratch))


def test_an_unfinished_copy_does_not_look_complete(data, scratch, monkeypatch, without_pauses):
    monkeypatch.setenv("FAKE_OBS_FAILS", '{"copy_parallel": [1, 2, 3, 4]}')
    with pytest.raises(StoreError, match="connection reset"):
        bring(scratch)
    assert not list(scratch.glob("data_*[0-9a-f]"))
    assert_whole(bring(scratch))  # the fifth call works


def test_a_file_that_is_lost_in_transfer_is_noticed(data, scratch, monkeypatch, without_pauses):
    store = build_store(URL)
    right = store._file.copy_parallel

    def lossy(source, target):
        right(source, target)
        (Path(target) / "deep" / "5.bin").unlink()

    monkeypatch.setattr(store._file, "copy_parallel", lossy)
    with pytest.raises(Unavailable, match="has 21 bytes, but 15 arrived"):  # 1 + 2 + ... + 6, without the last
        bring_directory(store, URL, scratch, "first")


def test_a_disk_that_is_too_small_is_reported_before_copying(data, bucket, scratch, monkeypatch):
    monkeypatch.setattr("mindloc.modelarts.incoming.shutil.disk_usage", lambda path: _Usage())
    with pytest.raises(StoreError, match="set --scratch to a larger disk"):
        bring(scratch)
    assert calls(bucket, "copy_parallel") == 0


class _Usage:
    free = 20


def test_an_empty_url_is_refused(bucket, scratch):
    with pytest.raises(StoreError, match="is empty; give the directory"):
        bring_directory(build_store(URL), "obs://bucket/typo", scratch, "first")


def test_a_path_is_read_in_place(tmp_path, scratch):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "w.safetensors").write_bytes(b"w")
    assert bring_directory(build_store(""), str(tmp_path / "own"), scratch, "first") == tmp_path / "own"
    file = str(tmp_path / "own" / "w.safetensors")
    assert bring_file(build_store(""), file, scratch, "first") == Path(file)
    with pytest.raises(StoreError, match="is not a directory"):
        bring_directory(build_store(""), str(tmp_path / "typo"), scratch, "first")


def test_a_single_file_keeps_its_name(data, scratch):
    url = f"{URL}/deep/3.bin"
    path = bring_file(build_store(url), url, scratch, "first")
    assert path.name == "3.bin" and path.read_bytes() == FILES["deep/3.bin"]


def test_all_processes_of_a_start_share_its_name(monkeypatch):
    program = (
        f"import sys; sys.path[:0] = {sys.path!r}; from mindloc.modelarts.incoming import start_id; print(start_id())"
    )
    names = {subprocess.check_output([sys.executable, "-c", program], text=True) for _ in range(2)}
    assert len(names) == 1 and names.pop().startswith(f"{os.getpid()}-")
    monkeypatch.setattr(os, "getppid", lambda: 0)  # a parent outside this container
    assert start_id() == "0-0.00"


def start_process(scratch: Path, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(PROCESS), URL, str(scratch)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_copying(bucket: Path, copier: subprocess.Popen) -> None:
    while calls(bucket, "copy_parallel") == 0:
        assert copier.poll() is None, copier.stderr.read()
        time.sleep(0.02)


def wait_for_waiting(process: subprocess.Popen) -> None:
    assert any(re.match("waiting: copy of .* is being written by process", line) for line in process.stderr)


def test_processes_of_one_server_copy_once(data, bucket, scratch, tmp_path):
    gate = tmp_path / "gate"
    copier = start_process(scratch, FAKE_OBS_GATE=str(gate))
    wait_for_copying(bucket, copier)
    waiters = [start_process(scratch) for _ in range(2)]
    for waiter in waiters:
        wait_for_waiting(waiter)
    gate.touch()
    directories = {process.communicate()[0].splitlines()[-1] for process in (copier, *waiters)}
    assert len(directories) == 1
    assert_whole(Path(directories.pop()))
    assert calls(bucket, "copy_parallel") == 1


@pytest.mark.parametrize("how", ["fails", "is killed"])
def test_a_process_that_waits_for_a_copier_reports_its_early_end(data, bucket, scratch, tmp_path, how):
    gate = tmp_path / "gate"
    copier = start_process(scratch, FAKE_OBS_GATE=str(gate), FAKE_OBS_FAILS='{"copy_parallel": [1, 2]}')
    wait_for_copying(bucket, copier)
    waiter = start_process(scratch)
    wait_for_waiting(waiter)
    copier.kill() if how == "is killed" else gate.touch()
    copier.communicate()
    assert copier.returncode != 0
    _, error = waiter.communicate()
    assert waiter.returncode == 1
    assert "ended before it was done" in error
    assert_whole(bring(scratch, "next start"))
