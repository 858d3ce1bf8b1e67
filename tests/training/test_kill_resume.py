"""A run killed at any moment and resumed ends bit-identical to one that was not."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import fault_points
import numpy as np
import pytest

from mindloc.runtime.checkpoint import complete_checkpoints, load_state, load_weights
from mindloc.training.reporting import CLOCK_KEYS, read_metrics

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[2] / "src"
RANDOM_KILLS = int(os.environ.get("MINDLOC_RANDOM_KILLS", "5"))
SECONDS = float(os.environ.get("MINDLOC_CONCURRENT_S", "8"))  # duration of the competition for a run
CAPTURED = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


class Server:
    """Runs small trainings in forked processes that can be killed; see small_run.py."""

    def __init__(self, directory: Path, script: str = "small_run.py"):
        self.directory = directory
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name(script))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=directory,
            env={"PYTHONPATH": str(SOURCE), "GLOG_v": "3", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        )

    def run(self, name: str, **job) -> int:
        """Start or resume the training in directory ``name``; returns 0, or minus the signal that ended it."""
        (status,) = self.compete(name, **job)
        return status

    def compete(self, name: str, **job) -> list[int]:
        """Start or resume the run in ``rivals`` processes at once."""
        job |= {"directory": str(self.directory / name), "output": str(self.directory / f"{name}.txt")}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("runs"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def whole(server) -> tuple[Path, float]:
    """(directory of a run that was not killed, its duration in seconds)."""
    assert server.run("whole") == 0, (server.directory / "whole.txt").read_text()
    started = time.monotonic()
    assert server.run("twin") == 0
    return server.directory / "whole", time.monotonic() - started


def records(run: Path) -> list[dict]:
    return [{k: v for k, v in record.items() if k not in CLOCK_KEYS} for record in read_metrics(run / "metrics.jsonl")]


def assert_same_bits(arrays: dict, expected: dict) -> None:
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def assert_same_run(run: Path, whole: Path) -> None:
    """Check that files, weights, moments, counters and log are the same, and that no temporary files are left."""
    names = {path.name for path in (whole / "checkpoints").iterdir()}
    assert {path.name for path in (run / "checkpoints").iterdir()} == names
    for name in sorted(name for name in names if not name.endswith(".state.safetensors")):
        weights, expected = load_weights(run / "checkpoints" / name), load_weights(whole / "checkpoints" / name)
        assert_same_bits(weights.arrays, expected.arrays)
        assert weights.sha256 == expected.sha256
    for path in complete_checkpoints(whole / "checkpoints"):
        state, expected = load_state(load_weights(run / "checkpoints" / path.name)), load_state(load_weights(path))
        assert_same_bits(state.arrays, expected.arrays)
        assert state.facts == expected.facts
    assert records(run) == records(whole)


def passages(point: str) -> int:
    """Number of the call of a fault point to kill at: the second if there are several."""
    if point.startswith("end."):
        return 1
    return 7 if point.startswith("metrics.") else 2


def test_two_runs_are_bit_identical(server, whole):
    assert_same_run(server.directory / "twin", whole[0])


# for a kill in an extraction see cli/test_stopped_job.py
@pytest.mark.parametrize("point", [point for point in fault_points.TRAINING if point != "extract.mid"])
def test_a_run_killed_at_a_named_point_ends_bit_identical(server, whole, point):
    name = point.replace(".", "_")
    assert server.run(name, environment={"MINDLOC_FAULT": f"{point}:{passages(point)}"}) == -9
    assert server.run(name) == 0, (server.directory / f"{name}.txt").read_text()
    assert_same_run(server.directory / name, whole[0])


@pytest.mark.parametrize("moment", range(RANDOM_KILLS))  # seed of the moment
def test_a_run_killed_at_a_random_moment_ends_bit_identical(server, whole, moment):
    directory, seconds = whole
    after_s = random.Random(moment).uniform(0.1, 0.9) * seconds
    name = f"random{moment}"
    while server.run(name, kill_after_s=after_s) != -9:  # it had ended before
        shutil.rmtree(server.directory / name)
        after_s *= 0.8
    assert server.run(name) == 0, f"killed after {after_s:.3f} s: {(server.directory / f'{name}.txt').read_text()}"
    assert_same_run(server.directory / name, directory)


def test_a_run_can_be_killed_repeatedly(server, whole):
    for point in ("weights.mid_write", "epoch.mid:2", "state.before_rename", "metrics.mid_append:4"):
        assert server.run("often", environment={"MINDLOC_FAULT": point}) == -9
    assert server.run("often") == 0
    assert_same_run(server.directory / "often", whole[0])


READ = """
import sys
import time
from pathlib import Path
from mindloc.runtime.checkpoint import load_weights, resolve_checkpoint
from mindloc.runtime.run_directory import RunDirectory
from mindloc.training.reporting import read_metrics
from mindloc.training.resume import find_resume_point
run, reads = RunDirectory(sys.argv[1]), 0
while not (run.path / "stop").exists():
    if any(run.checkpoints.glob("weights_best*")):
        load_weights(resolve_checkpoint(run.path))
    point = find_resume_point(run)
    records = read_metrics(run.metrics_path)
    assert point is None or len(records) >= point.state.facts["lines"]
    reads += 1
    time.sleep(0.05)
print(reads)
"""


def test_only_one_of_several_processes_that_resume_a_run_trains(server, whole):
    """Four processes at a time, of which the one that trains is killed; four others read the run meanwhile."""
    chance, ends = random.Random(0), time.monotonic() + SECONDS
    counts: Counter[str] = Counter()
    while not counts["runs"] or time.monotonic() < ends:
        name = f"rivals{counts['runs']}"
        run = server.directory / name
        server.run(name, environment={"MINDLOC_FAULT": "metrics.before_append"})  # the directory is there
        readers = [
            subprocess.Popen([sys.executable, "-c", READ, run], env={"PYTHONPATH": str(SOURCE)}, **CAPTURED)
            for _ in range(4)
        ]
        for kill in (*[{"kill_after_s": chance.uniform(0.2, 1) * whole[1]} for _ in range(4)], {}):
            ended = server.compete(name, rivals=4, **kill)
            counts.update({0: "finished", 1: "refused", -9: "killed"}[status] for status in ended)
        (run / "stop").touch()
        for reader in readers:
            output, error = reader.communicate()
            assert reader.returncode == 0, error
            counts["reads"] += int(output)
        assert_same_run(run, whole[0])
        counts["runs"] += 1
    print(dict(counts))
    assert counts["refused"] and counts["killed"] and counts["reads"]
    said = (server.directory / "rivals0.txt").read_text()
    others = [line for line in said.splitlines() if line.startswith("mindloc.errors.")]
    assert all(" is being trained by " in line or "changed meanwhile" in line for line in others), others
