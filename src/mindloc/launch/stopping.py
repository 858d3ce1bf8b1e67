"""The end of all processes of one launch, politely first, and undisturbed."""

import os
import signal
import subprocess
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mindloc.runtime.signals import answered

_POLL_S = 0.05
_KILL_S = 10.0  # a process that hangs in its driver outlives even SIGKILL for a while


def end_marked_processes(
    mark: str, started: Sequence[subprocess.Popen], launchers: Collection[int], grace_s: float
) -> None:
    """Ask every process of a launch to stop, and kill what is left after ``grace_s`` seconds.

    Args:
        mark: value of MINDLOC_LAUNCH_ID in their environments.
        started: those that this process started itself; they are waited for.
        launchers: numbers of those that watch over others. Such a one would answer the first end by killing the rest
            at once, so it stands still until they are through.
    """
    for pid in launchers:
        _signal(pid, signal.SIGSTOP)
    ranks = [pid for pid in _living(mark, started) if pid not in launchers]
    for pid in ranks:
        _signal(pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while set(_living(mark, started)).difference(launchers) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    deadline = time.monotonic() + _KILL_S
    while (left := _living(mark, started)) and time.monotonic() < deadline:  # again for what was born meanwhile
        for pid in left:
            _signal(pid, signal.SIGKILL)
        time.sleep(_POLL_S)


@contextmanager
def requests_to_stop_ignored() -> Iterator[None]:
    """Who asked to stop has been heard: Ctrl-C, SIGTERM or SIGHUP don't interrupt what the stopping still has to do."""
    with answered(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield


def _living(mark: str, started: Sequence[subprocess.Popen]) -> list[int]:
    """Numbers of the launch's processes that have not ended, also of those whose parent is gone."""
    own = {process.pid for process in started if process.poll() is None}
    wanted = f"MINDLOC_LAUNCH_ID={mark}".encode()
    for entry in Path("/proc").glob("[0-9]*"):  # empty off Linux: there the started ones are all that is known
        with suppress(OSError):  # ended while we looked, or another user's
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                own.add(int(entry.name))
    return sorted(own)


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
