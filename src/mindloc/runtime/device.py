"""The device that computes: which one MindSpore can use here, and what it is good at.

MindSpore itself is asked. Only when it refuses what was named, the doctor is imported to say why and what to do.
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

# Atlas A2, for which MindSpore and CANN document both: attention in one kernel, and bf16. The first 910 has neither.
# That A3, two dies of the A2's generation, has them too is our assumption.
ATLAS_A2_AND_A3 = ("Ascend910B", "Ascend910_93")


@dataclass(frozen=True)
class Device:
    """The device that computes."""

    target: str  # "CPU", "GPU" or "Ascend"
    id: int
    description: str  # one line for logs and reports; after "auto" also which better ones don't work


def use_device(target: str = "auto", device_id: int = 0, operator_fusion: Fusion = "never") -> Device:
    """Point this process at a device, in graph mode, with reproducible kernels.

    Args:
        target: "Ascend", "GPU", "CPU", or "auto": the first of these that works here.
        device_id: which card; ignored on CPU.
        operator_fusion: whether graphs are compiled with fused operators; see runtime/compilation.py.

    Raises:
        DeviceError: MindSpore is missing or of another age, or what is named can't be used here. Never falls back.
    """
    check_packages()
    os.environ.setdefault("GLOG_v", "3")  # read when MindSpore is imported; its warnings would drown the console
    refused = os.path.join(tempfile.gettempdir(), f"mindspore-{os.getpid()}")
    os.environ.setdefault("MS_OM_PATH", refused)  # for graphs that did not compile; else in the working directory
    prepare_import()
    import mindspore as ms

    chosen, passed_over = choose_target(target)
    if chosen == "GPU":  # of Ascend cards MindSpore itself knows best
        _require_gpu(device_id)
    if chosen != "CPU":
        ms.set_device(chosen, device_id)
    elif ms.get_context("device_target") != "CPU":  # MindSpore refuses to be told once it has computed
        ms.set_device("CPU")
    ms.set_context(mode=ms.GRAPH_MODE)
    if ms.get_context("deterministic") != "ON":  # a second call is an error to MindSpore
        ms.set_deterministic(True)
    fused = fuse_operators(chosen, operator_fusion)
    description = f"{chosen}, {describe_machine()}, MindSpore {ms.__version__}{fused}{passed_over}"
    return Device(chosen, device_id if chosen != "CPU" else 0, description)


def choose_target(target: str) -> tuple[str, str]:
    """The target, and for the log why it is none of the better ones: "" or "; no Ascend: ..., no GPU: ...".

    Raises:
        DeviceError: the one that was named can't be used.
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
    """What MindSpore says against a target in this process, in a few words; None where it can be used.

    Args:
        target: "CPU", "GPU" or "Ascend".
    """
    if target == "CPU":
        return None
    import mindspore as ms

    cards = getattr(ms.device_context, target.lower())
    if not cards.is_available():
        return "its plugin is not loaded"
    if target == "Ascend" and "MS_SIMULATION_LEVEL" in os.environ:  # graphs compile, and there is no card to count
        return None
    try:
        count = cards.device_count()
        if not count:
            return "no card"
        if target == "GPU" and all(ms.hal.get_device_capability(card, "GPU") < OLDEST_GPU for card in range(count)):
            return "no card of compute 6.0 or more"
    except RuntimeError as error:  # the plugin loads without a card or a driver that fits
        return f"no card ({first_line(error)})"
    return None


def describe_machine() -> str:
    """Processor, cores that this process may use, and system, in a few words."""
    return f"{_processor()}, {len(usable_cores())} cores, {platform.system()}"


def has_fused_attention(precision: str) -> bool:
    """Whether this process's device computes attention of that precision in one kernel (ops.flash_attention_score).

    Ask once the device is chosen and before the network is built: the answer becomes part of the graph.

    Args:
        precision: "fp32", "fp16" or "bf16"; the kernel knows only the latter two.
    """
    import mindspore as ms

    if precision == "fp32" or ms.get_context("device_target") != "Ascend":
        return False
    return ascend_chip().startswith(ATLAS_A2_AND_A3)


def require_precision(precision: str, target: str, training: bool = False) -> None:
    """Refuse what the device lacks, or would train slower in, instead of falling back without a word.

    Args:
        precision: "fp32", "fp16" or "bf16".
        target: "CPU", "GPU" or "Ascend", this process's.

    Raises:
        DeviceError: bf16 on a CPU or on the first Ascend 910; training in fp16 on a CPU.
    """
    key = "train.precision=" if training else "--precision "
    if target == "Ascend" and precision == "bf16" and not has_bf16():
        raise DeviceError(f"the precision is bf16 and the chip is {ascend_chip()}, which has none: take {key}fp16")
    if target == "CPU" and precision == "bf16":
        raise DeviceError(f"the precision is bf16, in which MindSpore has no products on a CPU: take {key}fp32")
    if target == "CPU" and precision == "fp16" and training:
        raise DeviceError(
            f"the precision is fp16, in which MindSpore's CPU kernels train at half the speed of fp32: take {key}fp32"
        )


def slow_convolutions(target: str) -> str | None:
    """A sentence for the log where this MindSpore's convolutions are too slow to work with; None elsewhere.

    Args:
        target: "CPU", "GPU" or "Ascend", this process's.
    """
    import mindspore as ms

    slow = slow_cpu_convolutions(ms.__version__)
    return f"on a CPU {slow}: {INSTALL}" if slow and target == "CPU" else None


def has_bf16() -> bool:
    """Whether the Ascend chip of this process computes in bf16."""
    return ascend_chip().startswith(ATLAS_A2_AND_A3)


def ascend_chip() -> str:
    """Name of the Ascend chip, e.g. "Ascend910B1".

    Where MindSpore only simulates one (MS_SIMULATION_LEVEL) there is none to ask: SIMULATED_CHIP names it, or it is a
    910B1, which is what MindSpore compiles for then.
    """
    if "MS_SIMULATION_LEVEL" in os.environ:
        return os.environ.get("SIMULATED_CHIP", "Ascend910B1")
    import mindspore as ms

    return ms.hal.get_device_name(0, "Ascend")  # all cards of a server are alike


def _require_gpu(device_id: int) -> None:
    """Refuse a card that is not there, which MindSpore would tell only at the first operator."""
    import mindspore as ms

    count = ms.device_context.gpu.device_count()
    if 0 <= device_id < count:
        return
    from mindloc.doctor.examination import gpus_here

    listed = "; ".join(f"{number}: {card}" for number, card in enumerate(gpus_here()))
    numbers = f"0 to {count - 1}" if count > 1 else "0"
    raise DeviceError(f"device_id {device_id} is not among this machine's {count} GPUs ({listed}); take {numbers}")


def _refusal(target: str, reason: str) -> DeviceError:
    """The doctor's reason and way out, or MindSpore's own words where the doctor finds nothing wrong."""
    from mindloc.doctor.examination import why_refused

    return DeviceError(
        f"device target {target} can't be used here: {why_refused(target) or reason} "
        f"({command_line('doctor', '--device_target', target)} says more)"
    )


def _processor() -> str:
    """The processor's own name where the system tells it (Linux), else its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
