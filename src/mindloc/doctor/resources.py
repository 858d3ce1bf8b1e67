"""Cores, memory and disk that this process may use; a container's limits count, not the machine's size."""

import re
import shutil
from pathlib import PurePosixPath

from mindloc.doctor.finding import Finding, good, wrong
from mindloc.doctor.machine import Machine

GIB = 2**30
# the quick start takes 1.4 GB of memory, 3.2 unless operators are fused; its two worlds and run folder 1 GB of disk
TRAINING_GIB = 4


def look_at_resources(machine: Machine) -> list[Finding]:
    """Nothing here blocks a target; what is scarce is said."""
    return [_cores(machine), _memory(machine), _disk(machine)]


def _cores(machine: Machine) -> Finding:
    quota = cgroup_cores(machine)
    if quota is None or quota >= machine.cores:
        return good("machine", "cores", f"{machine.cores} that this process may use")
    found = f"{machine.cores}, of which the cgroup grants the time of {quota:g}"
    way_out = (
        f"raise the container's limit, or set OMP_NUM_THREADS={max(1, int(quota))} so that threads don't wait in turn"
    )
    return wrong("machine", "cores", found, way_out, blocks=False)


def _memory(machine: Machine) -> Finding:
    sizes = dict(re.findall(r"^(\w+):\s+(\d+) kB", machine.read("/proc/meminfo"), re.MULTILINE))
    total, free = (int(sizes.get(key, 0)) * 1024 for key in ("MemTotal", "MemAvailable"))
    limit = cgroup_memory(machine)
    text = f"{free / GIB:.1f} GiB free of {total / GIB:.1f}"
    if limit is not None and limit < total:
        text += f", the cgroup grants {limit / GIB:.1f}"
        free = min(free, limit)
    if free < TRAINING_GIB * GIB:
        return wrong("machine", "memory", text, f"even the quick start takes {TRAINING_GIB} GiB", blocks=False)
    return good("machine", "memory", text)


def _disk(machine: Machine) -> Finding:
    free = shutil.disk_usage(machine.folder).free
    text = f"{free / GIB:.1f} GiB free in {machine.folder.resolve()}"
    if free < TRAINING_GIB * GIB:
        return wrong("machine", "disk", text, "free some space, or work in another folder", blocks=False)
    return good("machine", "disk", text)


def cgroup_cores(machine: Machine) -> float | None:
    """Cores' worth of time that the tightest cgroup above this process grants; None: no limit."""
    quotas = [line.split() for line in _cgroup_files(machine, "", "cpu.max")]
    quotas += zip(
        _cgroup_files(machine, "cpu", "cpu.cfs_quota_us"),
        _cgroup_files(machine, "cpu", "cpu.cfs_period_us"),
        strict=False,
    )
    shares = [int(quota) / int(period) for quota, period in quotas if quota not in ("max", "-1")]
    return min(shares, default=None)


def cgroup_memory(machine: Machine) -> int | None:
    """Bytes that the tightest cgroup above this process grants; None: no limit."""
    limits = [*_cgroup_files(machine, "", "memory.max"), *_cgroup_files(machine, "memory", "memory.limit_in_bytes")]
    return min((int(text) for text in limits if text != "max"), default=None)


def _cgroup_files(machine: Machine, controller: str, name: str) -> list[str]:
    """What a file says in the cgroup of this process and in those above it, of version 2 ("") or of one controller."""
    found = []
    for line in machine.read("/proc/self/cgroup").splitlines() or ["0::/"]:
        _, controllers, group = line.split(":", 2)
        if controller not in controllers.split(","):
            continue
        below = PurePosixPath("/sys/fs/cgroup", controller)
        place = PurePosixPath(group.lstrip("/"))
        texts = [machine.read(str(below / part / name)).strip() for part in (place, *place.parents)]
        found += [text for text in texts if text]
    return found
