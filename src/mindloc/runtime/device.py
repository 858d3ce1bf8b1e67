"""The one door to the platform: which MindSpore, which device, which mode."""

import os
import platform
import tempfile
from dataclasses import dataclass

from mindloc.cores import usable_cores
from mindloc.doctor.examination import HARDWARE, diagnose
from mindloc.doctor.finding import Finding, obstacle
from mindloc.doctor.machine import Machine, this_machine
from mindloc.doctor.mindspore_plugins import told_by_mindspore
from mindloc.doctor.packages import look_at_packages
from mindloc.errors import DeviceError


@dataclass(frozen=True)
class Device:
    """The device that computes."""

    target: str  # "CPU", "GPU" or "Ascend"
    id: int
    description: str  # for logs and reports; where the choice was ours, with why


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

    obstacles = find_obstacles()
    chosen = next(name for name, reason in obstacles.items() if reason is None) if target == "auto" else target
    _refuse(chosen, obstacles[chosen])
    if chosen != "CPU":
        _require_card(chosen, device_id)
        ms.set_device(chosen, device_id)
    elif ms.get_context("device_target") != "CPU":  # MindSpore refuses to be told once it has computed
        ms.set_device("CPU")
    ms.set_context(mode=ms.GRAPH_MODE)
    if ms.get_context("deterministic") != "ON":  # a second call is an error to MindSpore
        ms.set_deterministic(True)
    description = f"{chosen}, {describe_machine()}, MindSpore {ms.__version__}"
    if target == "auto":
        description += _why(chosen, obstacles)
    return Device(chosen, device_id if chosen != "CPU" else 0, description)


def find_obstacles(machine: Machine | None = None) -> dict[str, Finding | None]:
    """Each target, best first, and what keeps this process from using it, None where nothing does."""
    machine, told = machine or this_machine(), told_by_mindspore()
    return {target: obstacle(diagnose(machine, target, told), target) for target in HARDWARE} | {"CPU": None}


def usable_targets() -> dict[str, bool]:
    """Each target and whether this process can use it, best first."""
    return {target: reason is None for target, reason in find_obstacles().items()}


def check_mindspore(machine: Machine | None = None) -> None:
    """Say in one line what is wrong with the installed MindSpore, before it fails in its own words.

    Raises:
        DeviceError: MindSpore is not installed, too old, too new, or NumPy is 2.
    """
    reason = obstacle(look_at_packages(machine or this_machine()), "CPU")
    if reason:
        raise DeviceError(f"{reason.found}: {reason.way_out}")


def _refuse(target: str, reason: Finding | None) -> None:
    if reason:
        raise DeviceError(
            f"device target {target} can't be used here: {reason.found}; {reason.way_out} "
            f"(python -m mindloc doctor --device_target {target} says more)"
        )


def _require_card(target: str, device_id: int, machine: Machine | None = None) -> None:
    """Refuse a GPU beyond those that the driver counts; of Ascend cards MindSpore itself knows best."""
    if target != "GPU":
        return
    cards = [each.found for each in HARDWARE["GPU"](machine or this_machine()) if each.what.startswith("card ")]
    if device_id >= len(cards):
        listed = "; ".join(f"{number}: {card}" for number, card in enumerate(cards))
        raise DeviceError(f"device_id {device_id} is not among this machine's {len(cards)} GPUs ({listed})")


def _why(chosen: str, obstacles: dict[str, Finding | None]) -> str:
    """What kept better targets from being chosen, as the end of a line: "; no Ascend: ...; no GPU: ..."."""
    better = list(obstacles)[: list(obstacles).index(chosen)]
    return "".join(f"; no {name}: {obstacles[name].found}" for name in better)


def describe_machine() -> str:
    """Processor, cores that this process may use, and system, in a few words."""
    return f"{_processor()}, {len(usable_cores())} cores, {platform.system()}"


def _processor() -> str:
    """The processor's own name where the system tells it (Linux), else its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
