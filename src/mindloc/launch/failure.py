"""Which rank failed first, how, and what its log says about it."""

import os
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mindloc.launch.plan import Plan
from mindloc.launch.process import Process

LAST_LINES = 15
_LAST_BYTES = 64 << 10
_OWN_NUMBER = re.compile(rb"process (\d+)\n")  # end of a log's first line, see rank_entry.py
_MSRUN_SAYS = re.compile(rb"Worker process (\d+) exit with exception\. Error code: (-?\d+)")


@dataclass(frozen=True)
class Failure:
    """The process that failed first."""

    name: str  # like "rank 1"
    code: int  # exit code; minus the signal's number for one that was killed
    log: Path

    @property
    def exit_code(self) -> int:
        """As a shell would give it: 128 + signal for a process that was killed."""
        return 128 - self.code if self.code < 0 else self.code


class FailureFinder:
    """Asks the processes of a plan again and again whether one has failed."""

    def __init__(self, plan: Plan):
        logs = {f"rank {rank}": plan.rank_log(rank) for rank in plan.ranks}
        self._logs = {**logs, "scheduler": plan.log_dir / "scheduler.log"}
        self._numbers: dict[str, int] = {}  # of the processes that have said theirs

    def failure_of(self, process: Process, started: subprocess.Popen) -> Failure | None:
        """The failure that a started process shows; None while it runs and after a good end."""
        if process.rank is None and (inner := self._failure_under_msrun(process.log)):
            return inner
        return Failure(process.name, started.returncode, process.log) if started.returncode else None

    def _failure_under_msrun(self, msrun_log: Path) -> Failure | None:
        """The first rank or scheduler that ended badly under msrun.

        msrun looks once a second and in the order of ranks, so that it may blame one that only fell over another; it
        also waits half a minute for its scheduler before it ends itself. The kernel knows at once: a process that has
        ended stays as a zombie with its exit code until msrun has looked. Only where msrun was quicker, its own words
        count.
        """
        for name, log in self._logs.items():
            if name not in self._numbers and (number := _own_number(log)):
                self._numbers[name] = number
        ended = {name: _zombie_code(number) for name, number in self._numbers.items()}
        said = _MSRUN_SAYS.search(msrun_log.read_bytes())
        if said:  # written before msrun kills the others, so these don't count any more
            name = next((name for name, number in self._numbers.items() if number == int(said[1])), "a rank")
            return Failure(name, int(said[2]), self._logs.get(name, msrun_log))
        return next((Failure(name, code, self._logs[name]) for name, code in ended.items() if code), None)


def explain(plan: Plan, failure: Failure) -> str:
    """The failure's own words from its log, then one line that names it."""
    how = f"was ended by {_signal_name(-failure.code)}" if failure.code < 0 else f"ended with exit code {failure.code}"
    lines = _last_lines(failure.log)
    own = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    reason = f": {own[-1]}" if own else ""
    quoted = "" if own else "".join(f"  {line}\n" for line in lines[-LAST_LINES:])
    among = f" of {plan.world_size}" if failure.name.startswith("rank") else ""
    stopped = "; the other ranks were stopped" if len(plan.ranks) > 1 else ""
    if plan.world_size > len(plan.ranks):
        stopped += "; look at the other servers too, where a rank may have failed first"
    return f"{quoted}error: {failure.name}{among} {how}{reason}{stopped}; its log: {failure.log}"


def _own_number(log: Path) -> int | None:
    """Number of the process that a log belongs to; None until it has said it."""
    if not log.exists():
        return None
    with open(log, "rb") as file:
        found = _OWN_NUMBER.search(file.readline())
    return int(found[1]) if found else None


def _zombie_code(number: int) -> int | None:
    """Exit code of a process that has ended and was not yet asked for it; None for any other. Linux alone."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return os.waitstatus_to_exitcode(int(fields[-1])) if fields[0] == "Z" else None


def _last_lines(log: Path) -> list[str]:
    """What a log ends with, without its first line, which is ours."""
    with open(log, "rb") as file:
        first = len(file.readline())
        size = file.seek(0, os.SEEK_END)
        file.seek(max(first, size - _LAST_BYTES))
        return [line for line in file.read().decode("utf-8", errors="replace").splitlines() if line.strip()]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
