"""What a device computes in and how well: precisions, an Ascend chip's own kernels, a CPU's convolutions."""

import os
from typing import Literal

from mindloc.doctor.packages import INSTALL, convolutions_on_cpu
from mindloc.errors import DeviceError

# Atlas A2, for which MindSpore and CANN document both: attention in one kernel, and bf16. The first 910 has neither.
# That A3, two dies of the A2's generation, has them too is our assumption.
ATLAS_A2_AND_A3 = ("Ascend910B", "Ascend910_93")


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


def encoder_form(precision: str) -> Literal["plain", "kernel", "products"]:
    """The form of the encoder's layers (models/form.py) that this process's device is fast in.

    Ask once the device is chosen and before the network is built.

    Args:
        precision: "fp32", "fp16" or "bf16".
    """
    import mindspore as ms

    if has_fused_attention(precision):
        return "kernel"
    return "products" if precision == "fp32" and ms.get_context("device_target") == "CPU" else "plain"


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

    finding = convolutions_on_cpu(ms.__version__)
    if target != "CPU" or finding.state == "ok":
        return None
    return f"on a CPU {finding.found}: {INSTALL}"


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
