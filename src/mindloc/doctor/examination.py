"""The whole examination: every section's findings in the order of a report."""

from dataclasses import replace

from mindloc.doctor.cann import look_at_cann, look_at_npu
from mindloc.doctor.cuda import look_at_cuda, look_at_driver
from mindloc.doctor.findings import (
    Finding,
    Told,
    absent,
    ask_mindspore,
    good,
    look_at_packages,
    look_at_resources,
    obstacle,
)
from mindloc.doctor.machine import Machine
from mindloc.doctor.onnx_runtime import look_at_onnx_runtime

HARDWARE = {"Ascend": look_at_npu, "GPU": look_at_driver}
SOFTWARE = {"Ascend": look_at_cann, "GPU": look_at_cuda}


def examine(machine: Machine) -> list[Finding]:
    """Everything, by section; what causes something else stands before it. Works without MindSpore."""
    findings = [*look_at_resources(machine), *look_at_packages(machine)]
    told = ask_mindspore(machine) if machine.mindspore else None
    if isinstance(told, Finding):
        findings.append(told)
        told = None
    elif told:
        findings.append(good("MindSpore", "import", "works"))
    for target in HARDWARE:
        findings += diagnose(machine, target, told)
    return [*findings, *look_at_onnx_runtime(machine)]


def diagnose(machine: Machine, target: str, told: Told | None) -> list[Finding]:
    """All that "Ascend" or "GPU" needs here: cards and driver, then software, then whether MindSpore loaded its plugin.

    Args:
        told: by MindSpore itself; None where it can't be asked.
    """
    hardware, software = HARDWARE[target](machine), SOFTWARE[target](machine)
    if told is None:
        return [*hardware, *software]
    if told.loaded[target]:  # then the loader has found its libraries, wherever they are
        software = [replace(finding, blocks=False) for finding in software]
        return [*hardware, *software, good(target, "plugin loads", "yes")]
    findings = [*hardware, *software]
    explained = obstacle(findings, target) is not None
    way_out = "follows from the above" if explained else "the loader's own words; the file named is missing or damaged"
    words = told.complaint(target) or "MindSpore did not try"
    return [*findings, absent(target, "plugin loads", f"no: {words}", way_out)]
