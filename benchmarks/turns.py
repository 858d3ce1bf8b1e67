"""Run two programs that do the same work in turn (A B A B), each run in a process of its own, and compare run by run.

Other load of the machine affects both programs, so the ratio of two consecutive runs is more reliable than either
figure alone. Processor time and memory of a process are read from Linux. Only Python's standard library is imported, so
that a peer's interpreter can use this file too.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PEER = Path(__file__).resolve().parent / "peer"
WAY_OUT = (
    "create a separate environment for the peer (python -m venv PEER; PEER/bin/pip install -r requirements-peer.txt) "
    "and give its interpreter: --peer PEER/bin/python"
)


@dataclass(frozen=True)
class Comparison:
    """One figure of both programs over all rounds; a ratio is our value divided by the peer's of the same round."""

    ours: list[float]
    peer: list[float]
    loads: list[float]  # of the machine, before each run, A B A B

    @property
    def ratios(self) -> list[float]:
        return [our / other for our, other in zip(self.ours, self.peer, strict=True)]

    @property
    def summary(self) -> dict[str, Any]:
        """Medians of both programs and of the ratios, lowest and highest ratio, and the values of every run."""
        ratios = self.ratios
        return {
            "ours_median": statistics.median(self.ours),
            "peer_median": statistics.median(self.peer),
            "ratio_median": statistics.median(ratios),
            "ratio_least": min(ratios),
            "ratio_most": max(ratios),
            **asdict(self),
        }


def add_peer_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--peer",
        nargs="?",
        const=sys.executable,
        metavar="PYTHON",
        help="do the same work in PyTorch too, in turn. PYTHON is an interpreter with the packages of "
        "requirements-peer.txt; the default is this interpreter. These packages need NumPy 2 and MindSpore needs "
        "NumPy 1, so " + WAY_OUT,
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of one run each, in turn (default %(default)s)")


def require_peer(python: str | None, modules: Sequence[str]) -> None:
    """End the process with one line if the peer's interpreter can't be run or lacks one of ``modules``."""
    if python is None:
        return
    question = f"import importlib.util as u; print([m for m in {list(modules)!r} if not u.find_spec(m)])"
    try:
        done = subprocess.run([python, "-c", question], capture_output=True, text=True)
    except OSError as error:
        sys.exit(f"--peer {python} can't be run ({error.strerror}); {WAY_OUT}")
    if done.returncode or done.stdout.strip() != "[]":
        sys.exit(f"--peer {python} lacks {done.stdout.strip() or done.stderr.strip()[-200:]}; {WAY_OUT}")


def run_case(command: Sequence[str], environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Run a process and return its report: the JSON object in the last line that it prints. If the process fails, this
    process ends too, with the end of its error output.
    """
    done = subprocess.run(list(command), env=dict(environment), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)[:300]} failed:\n{(done.stderr or done.stdout)[-1500:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def fastest(commands: Mapping[str, Sequence[str]]) -> str:
    """Name of the command whose process reports the lowest median of ``seconds``; a single command is not run."""
    if len(commands) == 1:
        return next(iter(commands))
    medians = {name: statistics.median(run_case(command)["seconds"]) for name, command in commands.items()}
    return min(medians, key=medians.__getitem__)


def take_turns(commands: Sequence[Sequence[str]], rounds: int) -> tuple[list[list[dict[str, Any]]], list[float]]:
    """(for each command the results of its runs, load of the machine before each run)."""
    results: list[list[dict[str, Any]]] = [[] for _ in commands]
    loads = []
    for _ in range(rounds):
        for command, found in zip(commands, results, strict=True):
            loads.append(round(os.getloadavg()[0], 2))
            found.append(run_case(command))
    return results, loads


def compare(ours: Sequence[dict], peer: Sequence[dict], figure: str, loads: Sequence[float]) -> dict[str, Any]:
    """The summary of one figure over the runs of both programs."""
    return Comparison([run[figure] for run in ours], [run[figure] for run in peer], list(loads)).summary


def ratio_cells(found: dict[str, Any], digits: int = 2) -> list[str]:
    """Three cells of a table: ours, the peer's, the ratio with its spread."""
    spread = f"{found['ratio_least']:.2f} to {found['ratio_most']:.2f}"
    sides = [f"{found[side]:.{digits}f}" for side in ("ours_median", "peer_median")]
    return [*sides, f"{found['ratio_median']:.2f} ({spread})"]


def peak_mib() -> float:
    """Peak memory of this process, MiB."""
    peak = _kilobytes("/proc/self/status").get("VmHWM")
    return (peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024


def memory_mib(children: Sequence[int] = ()) -> float:
    """Memory in use by this process and ``children``, MiB. Memory that they share is counted once. Loaded libraries are
    counted in full, even if other processes of the machine use them too.
    """
    own, files = 0, []
    for pid in (os.getpid(), *children):
        rollup = _kilobytes(f"/proc/{pid}/smaps_rollup")
        own += rollup.get("Pss_Anon", 0) + rollup.get("Pss_Shmem", 0)
        files.append(_kilobytes(f"/proc/{pid}/status").get("RssFile", 0))
    return (own + max(files)) / 1024


def cpu_s(children: Sequence[int] = ()) -> float:
    """Processor seconds of this process and of ``children`` so far, all threads together."""
    ticks = 0
    for pid in children:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # utime and stime, fields 14 and 15 of proc(5)
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def _kilobytes(path: str) -> dict[str, int]:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:  # not Linux
        return {}
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith(" kB")}
