"""Watch over a plan's processes: all run to the end, or the first that fails stops the rest and the reason is printed.

Nothing stays behind. Every process of a launch carries its mark in the environment and is found by it, whatever its
parent is by then; and when the supervisor itself is killed, the kernel ends its processes (rank_entry.py).
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
GRACE_S = 5.0  # from the request to stop to the end by force
LAST_LINES = 15
_KILL_S = 10.0  # a process that hangs in its driver outlives even SIGKILL for a while
_LAST_BYTES = 64 << 10
# printed by the supervisor, with the rank's name, or MindSpore's own talk of its network
_NOT_SHOWN = re.compile(rb"error: |\[(INFO|WARNING|ERROR)\] [A-Z_]+\(\d+,")
_OWN_NUMBER = re.compile(rb"process (\d+)\n")  # end of a log's first line, see rank_entry.py
_MSRUN_SAYS = re.compile(rb"Worker process (\d+) exit with exception\. Error code: (-?\d+)")


def run_plan(plan: Plan) -> int:
    """Run a plan's processes to their end.

    Both outputs of each go to its log; the log of this server's first rank is followed on the console.

    Returns:
        Exit code: 0, or that of the rank that failed first (128 + signal for one that was killed).

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
                if failure is None:  # after a failure it would be what a rank says of being stopped
                    console.show_new(last=True)
    if failure is None:
        return 0
    print(_explain(plan, failure), file=sys.stderr, flush=True)
    return failure.exit_code


@contextmanager
def requests_to_stop_ignored() -> Iterator[None]:
    """Once stopping, further Ctrl-C, SIGTERM or SIGHUP don't interrupt what is still to be done."""
    with answered(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def _hangup_as_interrupt() -> Iterator[None]:
    """A closed terminal stops a launch as Ctrl-C does, except under nohup."""
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
    """Wait until all have ended well (None) or one has failed."""
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
    code: int  # exit code; minus the signal's number for one that was killed
    log: Path

    @property
    def exit_code(self) -> int:
        """As a shell would give it: 128 + signal for a process that was killed."""
        return 128 - self.code if self.code < 0 else self.code


class _FailureFinder:
    """Polls the processes of a plan for failures."""

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


def _own_number(log: Path) -> int | None:
    """Number of the process that a log belongs to; None until it has said it."""
    if not log.exists():
        return None
    with open(log, "rb") as file:
        found = _OWN_NUMBER.search(file.readline())
    return int(found[1]) if found else None


def _zombie_code(number: int) -> int | None:
    """Exit code of a process that has ended and was not yet waited for; None for any other. Linux alone.

    psutil knows that it is a zombie, but not the code of one whose parent is another process.
    """
    try:
        fields = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return os.waitstatus_to_exitcode(int(fields[-1])) if fields[0] == "Z" else None


def _explain(plan: Plan, failure: Failure) -> str:
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


def _end_marked_processes(
    mark: str, started: Sequence[subprocess.Popen], launchers: Collection[int], grace_s: float
) -> None:
    """Ask every process of a launch to stop, and kill what is left after ``grace_s`` seconds.

    Args:
        mark: value of MINDLOC_LAUNCH_ID in their environments.
        started: those that this process started itself; they are waited for.
        launchers: numbers of those that watch over others. Such a one would answer the first end by killing the rest
            at once, so it is stopped until they have ended.
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
    while (left := _living(mark, started)) and time.monotonic() < deadline:  # again for what was born meanwhile
        for process in left:
            _signal(process, signal.SIGKILL)
        time.sleep(POLL_S / 4)


def _living(mark: str, started: Sequence[subprocess.Popen]) -> list[psutil.Process]:
    """The launch's processes that have not ended, also those whose parent is gone."""
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
    """Prints what a log has gained since the last call, but for errors; whole lines while it grows."""

    def __init__(self, path: Path, skip_lines: int = 0):
        """Args: skip_lines: how many at the start are not shown."""
        self._path, self._skip, self._offset, self._rest = path, skip_lines, 0, b""

    def show_new(self, last: bool = False) -> None:
        """Args: last: nothing is written any more, so that a line without an end is shown too."""
        if not self._path.exists():  # its process has not come so far
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
    """``output/logs/MMDDhhmmss``, new; launches of the same second get _2, _3, ...

    Raises:
        LaunchError: it can't be made.
    """
    parent = output / "logs"
    try:
        return dated_directory(parent)
    except OSError as error:
        raise LaunchError(f"can't make {parent}: {error.strerror}; choose another output directory") from None


def remove_log_directory(directory: Path) -> None:
    """Take back an empty one, and the directories above it that contain nothing else."""
    with suppress(OSError):  # not empty: then it stays
        directory.rmdir()
        directory.parent.rmdir()
        directory.parent.parent.rmdir()
