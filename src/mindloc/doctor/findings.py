"""One line of the doctor: something looked for, what was found, and the way out where it is not as it should be.

Python packages: which MindSpore, which NumPy.

Cores, memory and disk that this process may use; a container's limits count, not the machine's size.
"""

import json
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from mindloc.doctor.machine import Machine, ask, last_line


@dataclass(frozen=True)
class Finding:
    """What one probe says."""

    section: str  # "MindSpore", "Ascend", "GPU", "ONNX Runtime" or "machine"
    what: str
    state: Literal["ok", "missing", "problem"]
    found: str
    way_out: str = ""
    blocks: bool = False  # the targets of this section can't be used as things are


def good(section: str, what: str, found: str) -> Finding:
    return Finding(section, what, "ok", found)


def absent(section: str, what: str, found: str, way_out: str, blocks: bool = True) -> Finding:
    return Finding(section, what, "missing", found, way_out, blocks)


def wrong(section: str, what: str, found: str, way_out: str, blocks: bool = True) -> Finding:
    return Finding(section, what, "problem", found, way_out, blocks)


def obstacle(findings: Iterable[Finding], target: str) -> Finding | None:
    """The first thing that keeps a target ("CPU", "GPU", "Ascend") from being used, or None.

    What is wrong with MindSpore's own installation keeps all of them.
    """
    return next((each for each in findings if each.blocks and each.section in ("MindSpore", target)), None)


MINDSPORE_RANGE = ((2, 7, 2), (2, 11))  # first that has all we call, first not tried
SLOW_CONVOLUTIONS_FROM = (2, 9)  # on CPUs
INSTALL = "pip install -r requirements.txt -c constraints-cpu.txt"


def look_at_packages(machine: Machine) -> list[Finding]:
    """MindSpore's version and NumPy's, as far as they can be told without importing them."""
    findings = [_mindspore(machine), *_numpy(machine)]
    version = machine.versions.get("mindspore")
    return findings if version is None else [*findings, convolutions_on_cpu(version)]


def _mindspore(machine: Machine) -> Finding:
    first, beyond = MINDSPORE_RANGE
    wanted = f"mindloc needs {_dotted(first)} or newer, below {_dotted(beyond)}"
    version = machine.versions.get("mindspore")
    if version is None:
        return absent("MindSpore", "version", f"MindSpore is not installed; {wanted}", INSTALL)
    if not first <= numbers(version) < beyond:
        return wrong("MindSpore", "version", f"MindSpore {version} is installed; {wanted}", INSTALL)
    return good("MindSpore", "version", f"{version} (mindloc takes {_dotted(first)} or newer, below {_dotted(beyond)})")


def _numpy(machine: Machine) -> list[Finding]:
    version = machine.versions.get("numpy")
    if version is None:
        return [absent("MindSpore", "NumPy", "NumPy is not installed", INSTALL)]
    if numbers(version) >= (2,):
        text = f"NumPy {version} is installed; MindSpore's tensors need NumPy 1"
        return [wrong("MindSpore", "NumPy", text, "pip install 'numpy<2'")]
    return [good("MindSpore", "NumPy", version)]


def convolutions_on_cpu(version: str) -> Finding:
    """Whether that MindSpore has fast convolutions on a CPU; only the backbones resnet50 and vgg16 need them.

    Seen with 64 channels, 3x3, 56x56, batch 2 on one machine: 21 ms in 2.8.0, 4777 ms in 2.10.0.
    """
    what, limit = "convolutions on a CPU", _dotted(SLOW_CONVOLUTIONS_FROM)
    if numbers(version) < SLOW_CONVOLUTIONS_FROM:
        return good("MindSpore", what, f"fast in {version}")
    found = f"MindSpore {version} convolves with kernels above 1x1 some 200 times slower than releases below {limit} do"
    way_out = f"only for model.backbone resnet50 and vgg16, only on a CPU: {INSTALL}"
    return wrong("MindSpore", what, found, way_out, blocks=False)


def numbers(version: str) -> tuple[int, ...]:
    """(2, 8, 0) of "2.8.0rc1": the leading digits of each dotted part, up to the first part without any."""
    parts = []
    for part in version.split(".")[:3]:
        digits = part[: next((i for i, char in enumerate(part) if not char.isdigit()), len(part))]
        if not digits:
            break
        parts.append(int(digits))
    return tuple(parts)


def _dotted(parts: tuple[int, ...]) -> str:
    return ".".join(map(str, parts))


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


PLUGIN_FILES = {"Ascend": "libmindspore_ascend.so", "GPU": "libmindspore_gpu.so"}


QUESTION = """
import json, sys
sys.path.insert(0, {source!r})
print(json.dumps(vars(told_by_mindspore())))
"""


@dataclass(frozen=True)
class Told:
    """MindSpore's own word on its plugins."""

    loaded: Mapping[str, bool]  # by target
    error: str  # what the system's loader said of those that it could not load, all lines together

    def complaint(self, target: str) -> str:
        """The loader's words on the plugin of one target, "" if there are none."""
        lines = [line for line in self.error.splitlines() if PLUGIN_FILES[target] in line]
        return lines[0].partition("failed. ")[2].strip() or lines[0] if lines else ""


def told_by_mindspore() -> Told:
    """Imports MindSpore into this process, where it has not been."""
    import mindspore as ms
    from mindspore._c_expression import MSContext

    context = ms.device_context
    loaded = {"Ascend": context.ascend.is_available(), "GPU": context.gpu.is_available()}
    return Told(loaded, MSContext.get_instance().load_plugin_error())


def ask_mindspore(machine: Machine) -> Told | Finding:
    """Import MindSpore in a process of its own (some seconds, 0.4 GB): what it told, or why it could not be asked."""
    environ = {"GLOG_v": "3", **machine.environ}
    answer = ask([sys.executable, "-c", QUESTION.format(source=str(Path(__file__).parents[2]))], environ, 120)
    if answer.code != 0:
        return wrong("MindSpore", "import", f"import mindspore fails: {last_line(answer.err)}", f"reinstall: {INSTALL}")
    return Told(**json.loads(answer.out.splitlines()[-1]))
