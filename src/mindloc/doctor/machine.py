"""The machine that the doctor examines, the programs that the doctor runs, and ``Finding``, the result of one check.

The machine is this one, or a directory that imitates one. The findings on cores, memory and disk are in this module;
they use a container's limits, not the machine's size.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from mindloc.runtime.packages import installed_versions
from mindloc.runtime.process import usable_cores

DEFAULT_DIRECTORIES = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib")
PACKAGES = ("mindspore", "numpy", "onnxruntime", "onnxruntime-gpu")
GIB = 2**30
# the quick start takes 1.4 GB of memory, 3.2 unless operators are fused; its two worlds and run directory 1 GB of disk
TRAINING_GIB = 4
CPU_WAY = "on this machine use --device_target CPU"
_SOURCE = str(Path(__file__).parents[2])


@dataclass(frozen=True)
class Finding:
    """One thing that was checked, what was found, and the way out if there is a problem."""

    section: str  # "MindSpore", "Ascend", "GPU", "ONNX Runtime" or "machine"
    what: str
    state: Literal["ok", "missing", "problem"]
    found: str
    way_out: str = ""
    blocks: bool = False  # True: the targets of this section can't be used


def good(section: str, what: str, found: str) -> Finding:
    return Finding(section, what, "ok", found)


def absent(section: str, what: str, found: str, way_out: str, blocks: bool = True) -> Finding:
    return Finding(section, what, "missing", found, way_out, blocks)


def wrong(section: str, what: str, found: str, way_out: str, blocks: bool = True) -> Finding:
    return Finding(section, what, "problem", found, way_out, blocks)


def obstacle(findings: Iterable[Finding], target: str) -> Finding | None:
    """The first finding that prevents the use of a target ("CPU", "GPU", "Ascend"), or None.

    A problem with MindSpore's own installation prevents the use of every target.
    """
    return next((each for each in findings if each.blocks and each.section in ("MindSpore", target)), None)


@dataclass(frozen=True)
class Machine:
    """The paths and variables of a machine. Nothing is read outside of them and the directories in ``environ``."""

    environ: Mapping[str, str]
    root: Path = Path("/")  # absolute paths of the system are looked up below it
    prefix: Path = Path(sys.prefix)  # of the Python environment
    versions: Mapping[str, str] = field(default_factory=dict)  # of the installed PACKAGES
    mindspore: Path | None = None  # directory of the installed package
    cores: int = 1  # that the process may run on
    directory: Path = Path()  # current directory

    def path(self, absolute: str) -> Path:
        return self.root / absolute.lstrip("/")

    def read(self, absolute: str) -> str:
        """Text of a system file, "" if it is missing or may not be read."""
        try:
            return self.path(absolute).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def library_directories(self) -> list[Path]:
        """Directories that the loader searches: LD_LIBRARY_PATH, those of ldconfig, the system's own."""
        named = [Path(text) for text in self.environ.get("LD_LIBRARY_PATH", "").split(":") if text]
        system = [self.path(text) for text in (*self._configured("/etc/ld.so.conf"), *DEFAULT_DIRECTORIES)]
        return list(dict.fromkeys([*named, *system]))

    def library(self, name: str, *more: Path) -> Path | None:
        """The file that the loader would take for ``name``, e.g. "libcuda.so.1"; ``more`` directories come first."""
        directories = [*more, *self.library_directories()]
        paths = (directory / name for directory in directories)
        return next(
            (path for path in paths if os.path.exists(path)), None
        )  # also False for a directory that may not be read

    def other_versions(self, name: str) -> list[Path]:
        """Files on the loader's path that differ from ``name`` only in the number after .so., e.g. libcudnn.so.9."""
        stem = name.partition(".so")[0]
        pattern = re.compile(re.escape(stem) + r"\.so\.\d+(\.\d+)?$")
        found = {path.name: path for directory in self.library_directories() for path in directory.glob(f"{stem}.so.*")}
        return [found[each] for each in sorted(found) if pattern.match(each) and each != name]

    def _configured(self, absolute: str, depth: int = 0) -> list[str]:
        """Directories in an ld.so.conf and the files that it includes."""
        directories = []
        for line in self.read(absolute).splitlines():
            words = line.partition("#")[0].split()
            if words[:1] == ["include"] and depth < 3:
                parent = str(Path(absolute).parent)
                for pattern in words[1:]:
                    below = pattern.lstrip("/") if pattern.startswith("/") else f"{parent}/{pattern}".lstrip("/")
                    for path in sorted(self.root.glob(below)):
                        directories += self._configured("/" + str(path.relative_to(self.root)), depth + 1)
            elif words:
                directories.append(words[0])
        return directories


def this_machine() -> Machine:
    """The machine and the environment that this process runs in; MindSpore is found but not imported."""
    spec = find_spec("mindspore")
    directory = Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
    versions = installed_versions(*PACKAGES)
    return Machine(dict(os.environ), versions=versions, mindspore=directory, cores=len(usable_cores()))


@dataclass(frozen=True)
class ProgramAnswer:
    """Exit code and output of a program."""

    code: int | None  # exit code, negative for a signal; None: it could not be started or did not end in time
    out: str
    err: str

    def value(self) -> Any:
        """What the program printed as JSON in its last line."""
        return json.loads(self.out.splitlines()[-1])


def run_program(command: Sequence[str], environ: Mapping[str, str], seconds: float) -> ProgramAnswer:
    """Run a program that may be absent, crash or hang, and return what it printed."""
    try:
        done = subprocess.run(command, env=dict(environ), capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return ProgramAnswer(None, "", f"no answer within {seconds:.0f} s")
    except OSError as reason:
        return ProgramAnswer(None, "", reason.strerror or str(reason))
    return ProgramAnswer(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def run_python(program: str, environ: Mapping[str, str], seconds: float, python: str = sys.executable) -> ProgramAnswer:
    """Run a few lines of Python in a separate process, so that a library that crashes does not end this one.

    Args:
        program: may import mindloc and use ``json``; its last line prints JSON, see ``ProgramAnswer.value``.
    """
    return run_program(
        [python, "-c", f"import json, sys\nsys.path.insert(0, {_SOURCE!r})\n{program}"], environ, seconds
    )


def last_line(text: str) -> str:
    """The last non-empty line of a traceback or a log, which states what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it ended without a message"


def look_at_resources(machine: Machine) -> list[Finding]:
    """Findings on cores, memory and disk; none of them blocks a target."""
    return [_cores(machine), _memory(machine), _disk(machine)]


def _cores(machine: Machine) -> Finding:
    quota = cgroup_cores(machine)
    if quota is None or quota >= machine.cores:
        return good("machine", "cores", f"{machine.cores} that this process may use")
    found = f"{machine.cores}, but the cgroup limits their time to that of {quota:g}"
    way_out = f"raise the container's limit, or set OMP_NUM_THREADS={max(1, int(quota))} to have no threads that wait"
    return wrong("machine", "cores", found, way_out, blocks=False)


def _memory(machine: Machine) -> Finding:
    sizes = dict(re.findall(r"^(\w+):\s+(\d+) kB", machine.read("/proc/meminfo"), re.MULTILINE))
    total, free = (int(sizes.get(key, 0)) * 1024 for key in ("MemTotal", "MemAvailable"))
    limit = cgroup_memory(machine)
    text = f"{free / GIB:.1f} GiB free of {total / GIB:.1f}"
    if limit is not None and limit < total:
        text += f", limited to {limit / GIB:.1f} by the cgroup"
        free = min(free, limit)
    if free < TRAINING_GIB * GIB:
        return wrong("machine", "memory", text, f"even the quick start takes {TRAINING_GIB} GiB", blocks=False)
    return good("machine", "memory", text)


def _disk(machine: Machine) -> Finding:
    free = shutil.disk_usage(machine.directory).free
    text = f"{free / GIB:.1f} GiB free in {machine.directory.resolve()}"
    if free < TRAINING_GIB * GIB:
        return wrong("machine", "disk", text, "free some space, or work in another directory", blocks=False)
    return good("machine", "disk", text)


def cgroup_cores(machine: Machine) -> float | None:
    """CPU time that the strictest cgroup of this process allows, as a number of cores; None: no limit."""
    quotas = [line.split() for line in _cgroup_files(machine, "", "cpu.max")]
    quotas += zip(
        _cgroup_files(machine, "cpu", "cpu.cfs_quota_us"),
        _cgroup_files(machine, "cpu", "cpu.cfs_period_us"),
        strict=False,
    )
    shares = [int(quota) / int(period) for quota, period in quotas if quota not in ("max", "-1")]
    return min(shares, default=None)


def cgroup_memory(machine: Machine) -> int | None:
    """Bytes of memory that the strictest cgroup of this process allows; None: no limit."""
    limits = [*_cgroup_files(machine, "", "memory.max"), *_cgroup_files(machine, "memory", "memory.limit_in_bytes")]
    return min((int(text) for text in limits if text != "max"), default=None)


def _cgroup_files(machine: Machine, controller: str, name: str) -> list[str]:
    """Contents of a file in the cgroup of this process and in those above it, for version 2 ("") or one controller."""
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
