"""Supervision of a plan's processes: if one fails, the others are stopped and the reason is printed.

No process is left behind. Every process of a launch has the launch's mark in its environment and is found by it, even
if its parent has ended. If the supervisor itself is killed, the kernel ends its processes (rank_entry.py).
"""

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from mindloc.errors import LaunchError
from mindloc.launch.plan import Plan
from mindloc.launch.processes import Process
from mindloc.runtime.files import dated_directory
from mindloc.runtime.process import answered

POLL_S = 0.2
GRACE_S = 5.0  # between the request to stop (SIGTERM) and SIGKILL
LAST_LINES = 15
_KILL_S = 10.0  # a process that hangs in its driver outlives even SIGKILL for a while
_LAST_BYTES = 64 << 10
# lines that the supervisor prints itself, with the rank's name, and MindSpore's messages about its network
_NOT_SHOWN = re.compile(rb"error: |\[(INFO|WARNING|ERROR)\] [A-Z_]+\(\d+,")
_OWN_NUMBER = re.compile(rb"process (\d+)\n")  # end of a log's first line, see rank_entry.py
_MSRUN_SAYS = re.compile(rb"Worker process (\d+) exit with exception\. Error code: (-?\d+)")


def run_plan(plan: Plan) -> int:
    """Run a plan's processes to their end.

    Standard output and standard error of each process go to its log; the console shows the log of this server's first
    rank.

    Returns:
        Exit code: 0, or that of the rank that failed first (128 + signal if it was killed).

    Raises:
        LaunchError: a process can't be started or a log can't be written.
        KeyboardInterrupt: stopped by Ctrl-C, SIGTERM or SIGHUP; all processes are gone by then.
    """
    print(f"{plan.first_line}\nlogs: {plan.log_dir}", flush=True)
    mark = uuid.uuid4().hex
    console = LogFollower(plan.rank_log(plan.ranks[0]), skip_lines=1)
    running: list[tuple[Process, subprocess.Popen]] = []
    failure = None
    with _hangup_as_interrupt():
        try:
            for process in plan.processes:
                running.append((process, _start(process, mark)))
            failure = _watch(plan, running, console)
        finally:
            with requests_to_stop_ignored():
                launchers = [started.pid for process, started in running if process.rank is None]
                _end_marked_processes(mark, [started for _, started in running], launchers, GRACE_S)
                if failure is None:  # after a failure the rest of the log is about being stopped
                    console.show_new(last=True)
    if failure is None:
        return 0
    print(_explain(plan, failure), file=sys.stderr, flush=True)
    return failure.exit_code


@contextmanager
def requests_to_stop_ignored() -> Iterator[None]:
    """Context in which further Ctrl-C, SIGTERM and SIGHUP are ignored, so that they don't interrupt the clean-up."""
    with answered(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def _hangup_as_interrupt() -> Iterator[None]:
    """Context in which closing the terminal stops a launch as Ctrl-C does, except under nohup."""
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        yield
        return
    with answered(signal.default_int_handler, signal.SIGHUP):
        yield


def _start(process: Process, mark: str) -> subprocess.Popen:
    environment = {**process.environment, "MINDLOC_LAUNCH_ID": mark, "MINDLOC_LAUNCH_PARENT": str(os.getpid())}
    try:
        process.log.parent.mkdir(parents=True, exist_ok=True)
        with open(process.log, "wb") as log:
            return subprocess.Popen(
                process.command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        what = f"{process.log} can't be written" if error.filename == str(process.log) else "can't be started"
        raise LaunchError(f"{process.name}: {what}: {error.strerror}; free some space or processes") from None


def _watch(plan: Plan, running: list[tuple[Process, subprocess.Popen]], console: "LogFollower") -> "Failure | None":
    """Wait until a process has failed, and return its failure, or until all have succeeded, and return None."""
    finder = _FailureFinder(plan)
    while True:
        codes = [started.poll() for _, started in running]
        console.show_new()
        for process, started in running:
            if failure := finder.failure_of(process, started):
                return failure
        if None not in codes:
            return None
        time.sleep(POLL_S)


@dataclass(frozen=True)
class Failure:
    """The process that failed first."""

    name: str  # like "rank 1"
    code: int  # exit code; minus the signal's number if it was killed
    log: Path

    @property
    def exit_code(self) -> int:
        """The exit code that a shell would give: 128 + signal for a process that was killed."""
        return 128 - self.code if self.code < 0 else self.code


class _FailureFinder:
    """Polls the processes of a plan for failures."""

    def __init__(self, plan: Plan):
        logs = {f"rank {rank}": plan.rank_log(rank) for rank in plan.ranks}
        self._logs = {**logs, "scheduler": plan.log_dir / "scheduler.log"}
        self._numbers: dict[str, int] = {}  # name -> process id, once it is in the log

    def failure_of(self, process: Process, started: subprocess.Popen) -> Failure | None:
        """The failure of a started process; None while it runs and if it has succeeded."""
        if process.rank is None and (inner := self._failure_under_msrun(process.log)):
            return inner
        return Failure(process.name, started.returncode, process.log) if started.returncode else None

    def _failure_under_msrun(self, msrun_log: Path) -> Failure | None:
        """The first rank or scheduler that failed under msrun, or None.

        msrun checks its processes once a second, in the order of ranks, so it may report a rank that failed only
        because another one did. It also waits half a minute for its scheduler before it ends. The kernel is faster: a
        process that has ended remains as a zombie with its exit code until msrun has checked it. msrun's own message is
        used only if msrun was quicker.
        """
        for name, log in self._logs.items():
            if name not in self._numbers and (number := _own_number(log)):
                self._numbers[name] = number
        ended = {name: _zombie_code(number) for name, number in self._numbers.items()}
        said = _MSRUN_SAYS.search(msrun_log.read_bytes())
        if said:  # written before msrun kills the others, whose exit codes mean nothing then
            name = next((name for name, number in self._numbers.items() if number == int(said[1])), "a rank")
            return Failure(name, int(said[2]), self._logs.get(name, msrun_log))
        return next((Failure(name, code, self._logs[name]) for name, code in ended.items() if code), None)


def _own_number(log: Path) -> int | None:
    """Id of the process that a log belongs to, from its first line; None until that line is written."""
    if not log.exists():
        return None
    with open(log, "rb") as file:
        found = _OWN_NUMBER.search(file.readline())
    return int(found[1]) if found else None


def _zombie_code(number: int) -> int | None:
    """Exit code of a process that has ended and was not yet waited for; None for any other process. Linux only.

    psutil detects that a process is a zombie, but can't read its exit code if it is the child of another process.
    """
    try:
        fields = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return os.waitstatus_to_exitcode(int(fields[-1])) if fields[0] == "Z" else None


def _explain(plan: Plan, failure: Failure) -> str:
    """The last lines of the failed process's log, unless it ends in an error message; then one line on the failure."""
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


def _last_lines(log: Path) -> list[str]:
    """The last lines of a log, without its first line, which rank_entry.py wrote."""
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


def _end_marked_processes(
    mark: str, started: Sequence[subprocess.Popen], launchers: Collection[int], grace_s: float
) -> None:
    """Send SIGTERM to every process of a launch, and SIGKILL to those that are left after ``grace_s`` seconds.

    Args:
        mark: value of MINDLOC_LAUNCH_ID in the processes' environments.
        started: processes that this process started itself; they are waited for.
        launchers: ids of processes that supervise others. Such a process kills the others as soon as one ends, so it
            is suspended until all others have ended.
    """

    def ranks() -> list[psutil.Process]:
        return [process for process in _living(mark, started) if process.pid not in launchers]

    for process in _living(mark, started):
        if process.pid in launchers:
            _signal(process, signal.SIGSTOP)
    for process in ranks():
        _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while ranks() and time.monotonic() < deadline:
        time.sleep(POLL_S / 4)
    deadline = time.monotonic() + _KILL_S
    while (
        left := _living(mark, started)
    ) and time.monotonic() < deadline:  # again for processes that were started meanwhile
        for process in left:
            _signal(process, signal.SIGKILL)
        time.sleep(POLL_S / 4)


def _living(mark: str, started: Sequence[subprocess.Popen]) -> list[psutil.Process]:
    """The launch's processes that have not ended, including those whose parent has ended."""
    own = {process.pid for process in started if process.poll() is None}
    return [
        process
        for process in psutil.process_iter(["environ"])  # None where it has ended meanwhile or is another user's
        if process.pid in own or (process.info["environ"] or {}).get("MINDLOC_LAUNCH_ID") == mark
    ]


def _signal(process: psutil.Process, number: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


class LogFollower:
    """Prints the lines that were added to a log since the last call, except error lines and an unfinished line."""

    def __init__(self, path: Path, skip_lines: int = 0):
        """Args: skip_lines: number of lines at the start that are not printed."""
        self._path, self._skip, self._offset, self._rest = path, skip_lines, 0, b""

    def show_new(self, last: bool = False) -> None:
        """Print the new lines; ``last``: nothing more will be written, so an unfinished line is printed too."""
        if not self._path.exists():  # its process has not written it yet
            return
        with open(self._path, "rb") as log:
            log.seek(self._offset)
            data = log.read()
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if last and self._rest:
            lines, self._rest = [*lines, self._rest], b""
        shown, self._skip = lines[self._skip :], max(0, self._skip - len(lines))
        for line in shown:
            if _NOT_SHOWN.match(line):
                continue
            print(line.decode("utf-8", errors="replace"), flush=True)


def new_log_directory(output: Path) -> Path:
    """Create ``output/logs/MMDDhhmmss``; further launches in the same second get _2, _3, ...

    Raises:
        LaunchError: the directory can't be created.
    """
    parent = output / "logs"
    try:
        return dated_directory(parent)
    except OSError as error:
        raise LaunchError(f"can't create {parent}: {error.strerror}; choose a different output directory") from None


def remove_log_directory(directory: Path) -> None:
    """Remove an empty log directory, and the two directories above it if they contain nothing else."""
    with suppress(OSError):  # a directory that is not empty is kept
        directory.rmdir()
        directory.parent.rmdir()
        directory.parent.parent.rmdir()
