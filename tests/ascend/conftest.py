"""A simulated Ascend for the whole session: stand-ins built once, graphs compiled in processes of their own."""

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
    """What a process that compiled some graphs said."""

    graphs: dict[str, dict]  # graph -> {"weights": ..., "operators": {name: count}, "rank": ...}
    peak_mb: int | None  # of the planned device memory over all of them; None from the front end alone


@pytest.fixture(scope="session")
def ascend_environment(tmp_path_factory) -> dict[str, str]:
    if reason := stand_ins.obstacle():
        pytest.skip(reason)
    return stand_ins.build_stand_ins(tmp_path_factory.mktemp("cann"))


@pytest.fixture(scope="session")
def compile_graphs(ascend_environment, tmp_path_factory):
    """(level, graphs, environment variables) -> Compilation; AssertionError with the end of the log where one fails."""

    def run(level: int, *graphs: str, **variables: str) -> Compilation:
        directory = tmp_path_factory.mktemp("graphs")
        environment = {**os.environ, **ascend_environment, **variables}
        environment |= {"MS_SIMULATION_LEVEL": str(level), "GLOG_v": "2", "GLOG_logtostderr": "1"}
        environment |= {"MS_DEV_SAVE_GRAPHS": "1", "MS_DEV_SAVE_GRAPHS_PATH": str(directory)}
        environment["MS_DEV_DUMP_IR_PASSES"] = "validate"  # the last of the front end
        environment["PYTHONPATH"] = f"{SOURCE}:{environment['PYTHONPATH']}"
        command = [sys.executable, str(HERE / "graphs.py"), *graphs]
        done = subprocess.run(command, env=environment, cwd=directory, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"graph"')]
        peaks = PEAK.findall(done.stdout + done.stderr)
        return Compilation({row["graph"]: row for row in said}, int(peaks[-1]) if peaks else None)

    return run
