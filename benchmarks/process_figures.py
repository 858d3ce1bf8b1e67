"""Processor time and memory of processes, as Linux counts them; nothing but Python's own library, so that a peer's
interpreter can read it too.
"""

import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path


def peak_mib() -> float:
    """Most memory that this process ever held."""
    peak = _kilobytes("/proc/self/status").get("VmHWM")
    return (peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024


def memory_mib(children: Sequence[int] = ()) -> float:
    """Memory that this process and ``children`` hold now. What they share counts once, libraries too, whoever else on
    the machine may have them loaded.
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
    except OSError:  # no Linux
        return {}
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith(" kB")}
