"""A simulated Ascend: the simulated CANN libraries are built once per session, graphs are compiled in own processes."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import stand_ins

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "src"
PEAK = re.compile(r"Actual peak memory usage \(with fragments\): (\d+)M")


@dataclass(frozen=True)
class Compilation:
    """The report of a process that compiled graphs."""

    graphs: dict[str, dict]  # graph -> {"weights": ..., "operators": {name: count}, "rank": ...}
    peak_mb: int | None  # peak of the planned device memory over all graphs; None if only the front end ran


@pytest.fixture(scope="session")
def ascend_environment(tmp_path_factory) -> dict[str, str]:
    if reason := stand_ins.obstacle():
        pytest.skip(reason)
    return stand_ins.build_stand_ins(tmp_path_factory.mktemp("cann"))


@pytest.fixture(scope="session")
def compile_graphs(ascend_environment, tmp_path_factory):
    """Function (level, graphs, environment variables) -> Compilation. A graph that fails is an AssertionError with the
    end of the log.
    """

    def run(level: int, *graphs: str, **variables: str) -> Compilation:
        directory = tmp_path_factory.mktemp("graphs")
        environment = {**os.environ, **ascend_environment, **variables}
        environment |= {"MS_SIMULATION_LEVEL": str(level), "GLOG_v": "2", "GLOG_logtostderr": "1"}
        environment |= {"MS_DEV_SAVE_GRAPHS": "1", "MS_DEV_SAVE_GRAPHS_PATH": str(directory)}
        environment["MS_DEV_DUMP_IR_PASSES"] = "validate"  # the last pass of the front end
        environment["PYTHONPATH"] = f"{SOURCE}:{environment['PYTHONPATH']}"
        command = [sys.executable, str(HERE / "graphs.py"), *graphs]
        done = subprocess.run(command, env=environment, cwd=directory, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"graph"')]
        peaks = PEAK.findall(done.stdout + done.stderr)
        return Compilation({row["graph"]: row for row in said}, int(peaks[-1]) if peaks else None)

    return run
