"""First step of every process: log the launcher and its reason, bind to cores, end with the launcher, run the command.

Run as a file, ``python rank_entry.py COMMAND...``, by the supervisor and by msrun alike, so that both ways of starting
give the same logs. The command replaces this program by exec, so the process id stays the same. Only the standard
library is used.

Environment: MINDLOC_LAUNCH_LINE, first line of the log. MINDLOC_LAUNCH_PARENT, id of the process that must be the
parent. MINDLOC_RANK_CORES, cores of this rank, like "0,1"; under msrun those of all its ranks, like "0,1;2,3".
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
# the scheduler only connects the ranks, which needs neither data set nor device
_SCHEDULER = "from mindspore.communication import init; init()"


def main(command: list[str]) -> None:
    die_with_parent()
    print(first_line(command[0]), flush=True)
    if os.environ.get("MS_ROLE") == "MS_SCHED":
        command = [sys.executable, "-c", _SCHEDULER]
    elif "RANK_ID" in os.environ:
        take_cores()
    os.execvp(command[0], command)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, for whatever reason. Linux only."""
    parent = os.environ.get("MINDLOC_LAUNCH_PARENT")
    os.environ["MINDLOC_LAUNCH_PARENT"] = str(os.getpid())  # read by msrun's own children
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):  # it ended before the kernel call
        sys.exit(f"the launcher, process {parent}, is gone")


def first_line(program: str) -> str:
    """First line of the log, like ``launcher: msrun, because ...; rank 1 of 2, process 2034``."""
    who = f"rank {os.environ['RANK_ID']} of {os.environ['RANK_SIZE']}" if "RANK_ID" in os.environ else program
    if os.environ.get("MS_ROLE") == "MS_SCHED":
        who = "scheduler"
    return f"{os.environ.get('MINDLOC_LAUNCH_LINE', 'launcher: none')}; {who}, process {os.getpid()}"


def take_cores() -> None:
    """Bind this process to its rank's share of the cores. Under msrun, DEVICE_ID is the rank's number on its server."""
    shares = os.environ.get("MINDLOC_RANK_CORES", "").split(";")
    own = shares[int(os.environ["DEVICE_ID"])] if len(shares) > 1 else shares[0]
    if own and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core) for core in own.split(",")})


if __name__ == "__main__":
    main(sys.argv[1:])
