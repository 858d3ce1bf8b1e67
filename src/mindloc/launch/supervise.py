"""Watch over a plan's processes: all run to the end, or the first that fails stops the rest and the reason is told.

Nothing stays behind. Every process of a launch carries its mark in the environment and is found by it, whoever its
parent is by then; and when the supervisor itself is killed, the kernel ends its processes (rank_entry.py).
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from mindloc.errors import LaunchError
from mindloc.launch.failure import Failure, FailureFinder, explain
from mindloc.launch.log_follower import LogFollower
from mindloc.launch.plan import Plan
from mindloc.launch.process import Process
from mindloc.launch.stopping import end_marked_processes, requests_to_stop_ignored
from mindloc.runtime.signals import answered

POLL_S = 0.2
GRACE_S = 5.0  # from the request to stop to the end by force


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
                end_marked_processes(mark, [started for _, started in running], launchers, GRACE_S)
                if failure is None:  # after a failure it would be what a rank says of being stopped
                    console.show_new(last=True)
    if failure is None:
        return 0
    print(explain(plan, failure), file=sys.stderr, flush=True)
    return failure.exit_code


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


def _watch(plan: Plan, running: list[tuple[Process, subprocess.Popen]], console: LogFollower) -> Failure | None:
    """Wait until all have ended well (None) or one has failed."""
    finder = FailureFinder(plan)
    while True:
        codes = [started.poll() for _, started in running]
        console.show_new()
        for process, started in running:
            if failure := finder.failure_of(process, started):
                return failure
        if None not in codes:
            return None
        time.sleep(POLL_S)


@contextmanager
def _hangup_as_interrupt() -> Iterator[None]:
    """A closed terminal stops a launch as Ctrl-C does, unless nohup asked to outlive it."""
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        yield
        return
    with answered(signal.default_int_handler, signal.SIGHUP):
        yield
