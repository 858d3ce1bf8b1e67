"""Two commands that write to one place at once, and commands killed while they write: results whole, nothing left."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import wait_for
from small_world import PROJECT, finish, save_untrained, set_words, start, world_words

from mindloc.cli import main
from mindloc.descriptors.sets import load_descriptor_sets
from mindloc.evaluation.rescore import rescore
from mindloc.inference.exported import read_card
from mindloc.world import dataset

slow = pytest.mark.slow
TWO_STAGE = {"head.name": "two_stage", "head.channels": 16, "head.nodes": 3, "loss.phi": "weighted_infonce"}
WORLD = world_words(drones=48)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_world) -> Path:
    path = tmp_path_factory.mktemp("weights") / "one.safetensors"
    save_untrained(path, **{"data.root": tiny_world})
    return path


@pytest.fixture(scope="module")
def two_stage(tmp_path_factory, tiny_world) -> Path:
    path = tmp_path_factory.mktemp("weights") / "two.safetensors"
    save_untrained(path, **TWO_STAGE, **{"data.root": tiny_world})
    return path


def begin(*words: str | Path, fault: str = "") -> subprocess.Popen:
    return start([sys.executable, "-m", "mindloc", *words], fault, env={"PYTHONPATH": str(PROJECT / "src")})


def begin_and_own(place: Path, *words: str | Path) -> subprocess.Popen:
    """Start a command and stop it (SIGSTOP) as soon as it has the lock of the place."""
    process, lock = begin(*words), place.with_name(f".{place.name}.lock")
    while not lock.exists() or not lock.stat().st_size:
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    process.send_signal(signal.SIGSTOP)
    assert lock.exists(), "it had ended before"
    return process


def own_line(process: subprocess.Popen, what: str, place: Path, doing: str) -> str:
    return f"{what} {place} is being {doing} by process {process.pid} on host {os.uname().nodename}"


def assert_waits_and_succeeds(first: subprocess.Popen, second: subprocess.Popen, line: str) -> None:
    """``second`` waits for the stopped ``first``, and says so; both end well."""
    assert second.stderr.readline() == f"waiting: {line}\n"
    first.send_signal(signal.SIGCONT)
    for process in (first, second):
        done = finish(process)
        assert done.returncode == 0, done.stderr


def hidden(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if path.name.startswith(".")]


@slow
def test_evaluations_and_scores_of_one_directory_wait_for_each_other(checkpoint, tmp_path):
    place = tmp_path / "report"
    words = ("eval", "--checkpoint", checkpoint, "--out", place, "--device_target", "CPU")
    first = begin_and_own(place, *words)
    assert_waits_and_succeeds(first, begin(*words), own_line(first, "evaluation", place, "written"))
    report = (place / "report.json").read_text()

    first = begin_and_own(place, "score", place)
    assert_waits_and_succeeds(first, begin("score", place), own_line(first, "evaluation", place, "written"))
    assert (place / "report.json").read_text() == report
    assert json.loads(report)["methods"] == rescore(place, figures=False)["methods"]
    assert not hidden(tmp_path) and not hidden(place)


@slow
def test_exports_to_one_file_wait_for_each_other(checkpoint, tmp_path):
    place = tmp_path / "encoder.mindir"
    words = ("export", "--checkpoint", checkpoint, "--out", tmp_path)
    first = begin_and_own(place, *words)
    assert_waits_and_succeeds(first, begin(*words), own_line(first, "exported file", place, "written"))
    read_card(place).require_intact()
    assert not hidden(tmp_path)


@slow
def test_a_second_world_in_one_place_is_refused_and_nobody_reads_half_of_the_first(tmp_path):
    place = tmp_path / "world"
    first = begin_and_own(place, "world", place, *WORLD)
    done = finish(begin("world", place, *WORLD))
    said = own_line(first, "world", place, "made")
    assert (done.returncode, done.stderr) == (2, f"error: {said}; wait until it ends, or stop it\n")
    assert finish(begin("check-data", place)).returncode == 1 and not place.exists()
    first.send_signal(signal.SIGCONT)
    assert finish(first).returncode == 0
    scale = set_words({"data.map_px": 1024, "data.m_per_px": 0.3})
    assert finish(begin("check-data", place, "--lists_only", *scale)).returncode == 0
    done = finish(begin("world", place, *WORLD))
    assert done.returncode == 2 and "is not empty; a world needs a new directory" in done.stderr
    assert os.listdir(tmp_path) == ["world"]


@slow
def test_the_next_world_removes_what_a_killed_one_left(tmp_path, tiny_world):
    place = tmp_path / "world"
    killed = begin("world", place, *WORLD)
    wait_for(lambda: any(tmp_path.glob(".world.*.partial/*.json")))
    killed.kill()
    finish(killed)
    assert len(hidden(tmp_path)) == 2 and not place.exists()  # the lock, which is free, and the half world
    assert finish(begin("world", place, *WORLD)).returncode == 0
    assert os.listdir(tmp_path) == ["world"]
    assert [path.name for path in place.rglob("*")] == [path.name for path in tiny_world.rglob("*")]


def test_a_world_for_which_the_disk_is_full_leaves_nothing(tmp_path, monkeypatch, capsys):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset, "write_card", full_disk)
    place = tmp_path / "new" / "world"
    assert main(["world", str(place), *WORLD, "--json_only"]) == 2
    says = f"error: can't write the world {place}: No space left on device; free some space or choose another directory"
    assert capsys.readouterr().err == f"{says}\n" and not list(place.parent.iterdir())


@slow
@pytest.mark.parametrize("fault", ["export.before_write", "export.before_rename"])
@pytest.mark.parametrize("file_format", ["MINDIR", "PTH"])
def test_the_next_export_removes_what_a_killed_one_left(checkpoint, tmp_path, file_format, fault):
    words = ("export", "--checkpoint", checkpoint, "--out", tmp_path, "--file_format", file_format)
    assert finish(begin(*words, fault=fault)).returncode == -signal.SIGKILL
    assert hidden(tmp_path) == os.listdir(tmp_path) != []
    assert finish(begin(*words)).returncode == 0
    assert not hidden(tmp_path)


@slow
def test_an_interrupted_extraction_leaves_nothing_and_a_killed_one_nothing_for_long(two_stage, tiny_world, tmp_path):
    place = tmp_path / "tiles"
    words = ("extract", tiny_world / "satellite", "--checkpoint", two_stage, "--out", place, "--device_target", "CPU")
    first = begin_and_own(place, *words)
    first.send_signal(signal.SIGTERM)  # while it compiles
    first.send_signal(signal.SIGCONT)
    done = finish(first)
    assert done.returncode == 130 and not os.listdir(tmp_path), done.stderr

    assert finish(begin(*words, fault="extract.mid:2")).returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 2  # the lock, which is free, and half of an extraction
    done = finish(begin(*words))
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path) == ["tiles"] and set(load_descriptor_sets(place)) == {"omega", "phi"}
