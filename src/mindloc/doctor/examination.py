"""All findings of the doctor in the order of its report, and the reason why one target can't be used."""

from dataclasses import replace

from mindloc.doctor.ascend import look_at_cann, look_at_npu
from mindloc.doctor.gpu import list_cards, look_at_cuda, look_at_driver
from mindloc.doctor.machine import Finding, Machine, absent, good, look_at_resources, obstacle, this_machine
from mindloc.doctor.packages import (
    MindSporeState,
    look_at_onnx_runtime,
    look_at_packages,
    mindspore_state,
    read_mindspore,
)

HARDWARE = {"Ascend": look_at_npu, "GPU": look_at_driver}
SOFTWARE = {"Ascend": look_at_cann, "GPU": look_at_cuda}


def examine(machine: Machine) -> list[Finding]:
    """All findings by section, causes before their effects. Works without MindSpore."""
    findings = [*look_at_resources(machine), *look_at_packages(machine)]
    state = read_mindspore(machine) if machine.mindspore else None
    if isinstance(state, Finding):
        findings.append(state)
        state = None
    elif state:
        findings.append(good("MindSpore", "import", "works"))
    for target in HARDWARE:
        findings += diagnose(machine, target, state)
    return [*findings, *look_at_onnx_runtime(machine)]


def diagnose(machine: Machine, target: str, state: MindSporeState | None) -> list[Finding]:
    """Findings on what "Ascend" or "GPU" needs: cards and driver, software, and whether MindSpore loaded its plugin.

    Args:
        state: MindSpore's state; None if MindSpore can't be imported.
    """
    hardware, software = HARDWARE[target](machine), SOFTWARE[target](machine)
    if state is None:
        return [*hardware, *software]
    if state.loaded[target]:  # so the loader has found the plugin's libraries, wherever they are
        software = [replace(finding, blocks=False) for finding in software]
        return [*hardware, *software, good(target, "plugin loads", "yes")]
    findings = [*hardware, *software]
    explained = obstacle(findings, target) is not None
    way_out = "follows from the above" if explained else "this is the loader's message; its file is missing or damaged"
    words = state.complaint(target) or "MindSpore did not try"
    return [*findings, absent(target, "plugin loads", f"no: {words}", way_out)]


def why_refused(target: str) -> str | None:
    """Why "Ascend" or "GPU" can't be used in this process, and the way out; None if no problem is found."""
    reason = obstacle(diagnose(this_machine(), target, mindspore_state()), target)
    return reason and f"{reason.found}; {reason.way_out}"


def gpus_here() -> list[str]:
    """A description of each GPU that the driver lists, in the order of their numbers."""
    return list_cards(look_at_driver(this_machine()))
