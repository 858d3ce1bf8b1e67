"""The one door to the platform: which MindSpore, which device, which mode."""

import os
import platform
import tempfile
from dataclasses import dataclass
from importlib import metadata

from mindloc.errors import DeviceError

MINDSPORE_RANGE = ((2, 7, 2), (2, 11))  # first that has all we call, first not tried


@dataclass(frozen=True)
class Device:
    """The device that computes."""

    target: str  # "CPU", "GPU" or "Ascend"
    id: int
    description: str  # for logs and reports


def use_device(target: str = "auto", device_id: int = 0) -> Device:
    """Point this process at a device, in graph mode, with reproducible kernels.

    Args:
        target: "Ascend", "GPU", "CPU", or "auto": the first of these that works here.
        device_id: which card; ignored on CPU.

    Raises:
        DeviceError: MindSpore is missing or of another age, or the named target can't be used here. Never falls back.
    """
    check_mindspore()
    os.environ.setdefault("GLOG_v", "3")  # read when MindSpore is imported; its warnings would drown the console
    refused = os.path.join(tempfile.gettempdir(), f"mindspore-{os.getpid()}")
    os.environ.setdefault("MS_OM_PATH", refused)  # for graphs that did not compile; else in the working folder
    import mindspore as ms

    usable = usable_targets()
    chosen = next(name for name, works in usable.items() if works) if target == "auto" else target
    if not usable.get(chosen, False):
        raise DeviceError(
            f"device target {chosen} can't be used here: this MindSpore {ms.__version__} finds "
            f"{', '.join(name for name, works in usable.items() if works)}; "
            "check its driver and libraries, or leave run.device_target at auto"
        )
    if chosen != "CPU":
        ms.set_device(chosen, device_id)
    elif ms.get_context("device_target") != "CPU":  # MindSpore refuses to be told once it has computed
        ms.set_device("CPU")
    ms.set_context(mode=ms.GRAPH_MODE)
    if ms.get_context("deterministic") != "ON":  # a second call is an error to MindSpore
        ms.set_deterministic(True)
    description = f"{chosen}, {describe_machine()}, MindSpore {ms.__version__}"
    return Device(chosen, device_id if chosen != "CPU" else 0, description)


def usable_targets() -> dict[str, bool]:
    """Each target and whether this process can use it, best first."""
    import mindspore as ms

    return {
        "Ascend": ms.device_context.ascend.is_available(),
        "GPU": ms.device_context.gpu.is_available(),
        "CPU": True,
    }


def check_mindspore() -> None:
    """Say in one line what is wrong with the installed MindSpore, before it fails in its own words.

    Raises:
        DeviceError: MindSpore is not installed, too old, too new, or NumPy is 2.
    """
    first, beyond = MINDSPORE_RANGE
    wanted = f"{_dotted(first)} or newer, below {_dotted(beyond)}"
    version = _installed("mindspore")
    if version is None:
        raise DeviceError(
            f"MindSpore is not installed; mindloc needs {wanted}: "
            "pip install -r requirements.txt -c constraints-cpu.txt"
        )
    if not first <= _numbers(version) < beyond:
        raise DeviceError(f"MindSpore {version} is installed; mindloc needs {wanted}")
    numpy = _installed("numpy")
    if numpy is not None and _numbers(numpy) >= (2,):
        raise DeviceError(f"NumPy {numpy} is installed; MindSpore's tensors need NumPy 1: pip install 'numpy<2'")


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """(2, 8, 0) of "2.8.0rc1": the leading digits of each dotted part, up to the first part without any."""
    numbers = []
    for part in version.split(".")[:3]:
        digits = part[: next((i for i, char in enumerate(part) if not char.isdigit()), len(part))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


def describe_machine() -> str:
    """Processor, cores that this process may use, and system, in a few words."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor()}, {cores} cores, {platform.system()}"


def _processor() -> str:
    """The processor's own name where the system tells it (Linux), else its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
