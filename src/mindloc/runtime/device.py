"""The device: chosen among those that MindSpore can use here, and checked for what it supports.

Availability comes from MindSpore itself. The doctor is imported only when a requested device is not available, to state
the reason and the way out.
"""

import os
import platform
import tempfile
from dataclasses import dataclass

from mindloc.errors import DeviceError, first_line
from mindloc.runtime.compilation import Fusion, fuse_operators, prepare_import
from mindloc.runtime.packages import INSTALL, OLDEST_GPU, check_packages, slow_cpu_convolutions
from mindloc.runtime.process import command_line, usable_cores

TARGETS = ("Ascend", "GPU", "CPU")  # best first

# Chips with fused attention and bf16. For Atlas A2, MindSpore and CANN document both; the first 910 has neither. That
# A3 (two dies of the A2's generation) has both is our assumption.
ATLAS_A2_AND_A3 = ("Ascend910B", "Ascend910_93")


@dataclass(frozen=True)
class Device:
    """The device that a process computes on."""

    target: str  # "CPU", "GPU" or "Ascend"
    id: int
    summary: str  # for the console
    description: str  # for logs: with processor and versions; with "auto" also why better targets are not used


def use_device(target: str = "auto", device_id: int = 0, operator_fusion: Fusion = "never") -> Device:
    """Set this process's device, graph mode and deterministic kernels.

    Args:
        target: "Ascend", "GPU", "CPU", or "auto": the first of these that is available here.
        device_id: card number; ignored on CPU.
        operator_fusion: on CPUs, see runtime/compilation.py.

    Raises:
        DeviceError: MindSpore is missing or of an unsupported version, or the requested device is not available. No
            other device is used instead.
    """
    check_packages()
    os.environ.setdefault("GLOG_v", "3")  # read at import: errors only, else many warnings
    failed = os.path.join(tempfile.gettempdir(), f"mindspore-{os.getpid()}")
    os.environ.setdefault("MS_OM_PATH", failed)  # graphs that failed to compile; else in the working directory
    prepare_import()
    import mindspore as ms

    chosen, passed_over = choose_target(target)
    if chosen == "GPU":  # for Ascend, set_device checks the number
        _require_gpu(device_id)
    if chosen != "CPU":
        ms.set_device(chosen, device_id)
    elif ms.get_context("device_target") != "CPU":  # set_device fails once MindSpore has computed something
        ms.set_device("CPU")
    ms.set_context(mode=ms.GRAPH_MODE)
    if ms.get_context("deterministic") != "ON":  # a second call is an error
        ms.set_deterministic(True)
    fused = fuse_operators(chosen, operator_fusion)
    description = f"{chosen}, {describe_machine()}, MindSpore {ms.__version__}{fused}{passed_over}"
    name = f"CPU, {len(usable_cores())} cores" if chosen == "CPU" else f"{chosen} {device_id}"
    summary = f"{name}{fused.removeprefix(', fused operators')}"  # only a lack of fusion is worth mentioning
    return Device(chosen, device_id if chosen != "CPU" else 0, summary, description)


def choose_target(target: str) -> tuple[str, str]:
    """The target, and why better ones are not used, for the log: "" or "; no Ascend: ..., no GPU: ...".

    Raises:
        DeviceError: the requested target is not available.
    """
    if target != "auto":
        if reason := why_unusable(target):
            raise _refusal(target, reason)
        return target, ""
    passed_over = []
    for name in TARGETS:
        reason = why_unusable(name)
        if reason is None:
            break
        passed_over.append(f"no {name}: {reason}")
    return name, f"; {', '.join(passed_over)}" if passed_over else ""


def why_unusable(target: str) -> str | None:
    """Why MindSpore can't use a target in this process, in a few words; None if it can.

    Args:
        target: "CPU", "GPU" or "Ascend".
    """
    if target == "CPU":
        return None
    import mindspore as ms

    cards = getattr(ms.device_context, target.lower())
    if not cards.is_available():
        return "its plugin is not loaded"
    if target == "Ascend" and "MS_SIMULATION_LEVEL" in os.environ:  # graphs compile without a card
        return None
    try:
        count = cards.device_count()
        if not count:
            return "no card"
        if target == "GPU" and all(ms.hal.get_device_capability(card, "GPU") < OLDEST_GPU for card in range(count)):
            return "no card of compute 6.0 or more"
    except RuntimeError as error:  # the plugin also loads without a card or a matching driver
        return f"no card ({first_line(error)})"
    return None


def describe_machine() -> str:
    """Processor, number of cores available to this process, and system, in a few words."""
    return f"{_processor()}, {len(usable_cores())} cores, {platform.system()}"


def has_fused_attention(precision: str) -> bool:
    """Whether this process's device has a fused attention kernel for a precision (ops.flash_attention_score).

    Call it after the device is chosen and before the network is built: the result becomes part of the graph.

    Args:
        precision: "fp32", "fp16" or "bf16"; the kernel supports only the latter two.
    """
    import mindspore as ms

    if precision == "fp32" or ms.get_context("device_target") != "Ascend":
        return False
    return ascend_chip().startswith(ATLAS_A2_AND_A3)


def require_precision(precision: str, target: str, training: bool = False) -> None:
    """Check that the device supports a precision, and in training that it is not slower than fp32.

    Args:
        precision: "fp32", "fp16" or "bf16".
        target: this process's device target, "CPU", "GPU" or "Ascend".

    Raises:
        DeviceError: bf16 on a CPU or on the first Ascend 910; training in fp16 on a CPU.
    """
    key = "train.precision=" if training else "--precision "
    if target == "Ascend" and precision == "bf16" and not has_bf16():
        raise DeviceError(f"the precision is bf16, which the chip {ascend_chip()} does not support: use {key}fp16")
    if target == "CPU" and precision == "bf16":
        raise DeviceError(f"the precision is bf16, in which MindSpore has no CPU matrix products: use {key}fp32")
    if target == "CPU" and precision == "fp16" and training:
        raise DeviceError(
            f"the precision is fp16, in which MindSpore trains at half the speed of fp32 on a CPU: use {key}fp32"
        )


def slow_convolutions(target: str) -> str | None:
    """A warning if the convolutions of this MindSpore are very slow on this target; None otherwise.

    Args:
        target: this process's device target, "CPU", "GPU" or "Ascend".
    """
    import mindspore as ms

    slow = slow_cpu_convolutions(ms.__version__)
    return f"on a CPU {slow}: {INSTALL}" if slow and target == "CPU" else None


def has_bf16() -> bool:
    """Whether the Ascend chip of this process supports bf16."""
    return ascend_chip().startswith(ATLAS_A2_AND_A3)


def ascend_chip() -> str:
    """Name of the Ascend chip, e.g. "Ascend910B1".

    In simulation (MS_SIMULATION_LEVEL) there is no chip: the variable SIMULATED_CHIP states its name, by default 910B1,
    which MindSpore compiles for.
    """
    if "MS_SIMULATION_LEVEL" in os.environ:
        return os.environ.get("SIMULATED_CHIP", "Ascend910B1")
    import mindspore as ms

    return ms.hal.get_device_name(0, "Ascend")  # all cards of a server have the same chip


def _require_gpu(device_id: int) -> None:
    """Check that the card exists; MindSpore itself would fail only at the first operator."""
    import mindspore as ms

    count = ms.device_context.gpu.device_count()
    if 0 <= device_id < count:
        return
    from mindloc.doctor.examination import gpus_here

    listed = "; ".join(f"{number}: {card}" for number, card in enumerate(gpus_here()))
    numbers = f"0 to {count - 1}" if count > 1 else "0"
    raise DeviceError(f"device_id {device_id} is not among this machine's {count} GPUs ({listed}); use {numbers}")


def _refusal(target: str, reason: str) -> DeviceError:
    """The error for an unusable target, with the doctor's reason and way out, else with ``reason``."""
    from mindloc.doctor.examination import why_refused

    return DeviceError(
        f"device target {target} can't be used here: {why_refused(target) or reason} "
        f"(details: {command_line('doctor', '--device_target', target)})"
    )


def _processor() -> str:
    """The model name of the processor on Linux; on other systems its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
