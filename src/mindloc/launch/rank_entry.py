"""First step of every process: say who started it and why, take its cores, die with its launcher, become the command.

Run as a file, ``python rank_entry.py COMMAND...``, by the supervisor and by msrun alike, so that both ways of starting
give the same logs. It becomes the command by exec, so the process keeps its number. Standard library alone.

Environment: MINDLOC_LAUNCH_LINE, first line of the log. MINDLOC_LAUNCH_PARENT, process that must be the parent.
MINDLOC_RANK_CORES, cores of this rank, like "0,1"; under msrun of all its ranks, like "0,1;2,3".
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
# it only lets the ranks meet, and needs neither data set nor device for that
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
    """Have the kernel kill this process once its parent is gone, however that ended. Linux only."""
    parent = os.environ.get("MINDLOC_LAUNCH_PARENT")
    os.environ["MINDLOC_LAUNCH_PARENT"] = str(os.getpid())  # read by msrun's own children
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):  # gone before the kernel call
        sys.exit(f"the launcher, process {parent}, is gone")


def first_line(program: str) -> str:
    """Like ``launcher: msrun, because ...; rank 1 of 2, process 2034``."""
    who = f"rank {os.environ['RANK_ID']} of {os.environ['RANK_SIZE']}" if "RANK_ID" in os.environ else program
    if os.environ.get("MS_ROLE") == "MS_SCHED":
        who = "scheduler"
    return f"{os.environ.get('MINDLOC_LAUNCH_LINE', 'launcher: none')}; {who}, process {os.getpid()}"


def take_cores() -> None:
    """Bind this process to its rank's share of the cores. Under msrun DEVICE_ID is the rank's number on its server."""
    shares = os.environ.get("MINDLOC_RANK_CORES", "").split(";")
    own = shares[int(os.environ["DEVICE_ID"])] if len(shares) > 1 else shares[0]
    if own and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core) for core in own.split(",")})


if __name__ == "__main__":
    main(sys.argv[1:])
