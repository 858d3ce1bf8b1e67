"""What an Ascend chip computes beyond what all of them do."""

import os

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
