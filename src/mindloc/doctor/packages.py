"""Findings on Python packages: which MindSpore, NumPy and ONNX Runtime are installed, and whether they work."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from mindloc.doctor.machine import Finding, Machine, absent, good, last_line, run_python, wrong
from mindloc.runtime.packages import (
    INSTALL,
    MINDSPORE_RANGE,
    dotted,
    mindspore_problem,
    numpy_problem,
    slow_cpu_convolutions,
    why_provider_missing,
)

PLUGIN_FILES = {"Ascend": "libmindspore_ascend.so", "GPU": "libmindspore_gpu.so"}
ONNX_RUNTIME = "ONNX Runtime"
FOR_CARDS = (
    "pip uninstall -y onnxruntime onnxruntime-gpu; pip install 'onnxruntime-gpu[cuda,cudnn]' "
    "(where the driver is older than 580: 'onnxruntime-gpu[cuda,cudnn]<1.27'); docs/gpu.md"
)
_ASK_MINDSPORE = """
from mindloc.doctor.packages import mindspore_state
print(json.dumps(vars(mindspore_state())))
"""
_ASK_ONNX_RUNTIME = """
import onnxruntime as ort
from mindloc.runtime.packages import ONE_RELU, preload_onnx_libraries
providers, used = ort.get_available_providers(), []
if "CUDAExecutionProvider" in providers:
    preload_onnx_libraries(ort)
    used = ort.InferenceSession(ONE_RELU, providers=["CUDAExecutionProvider"]).get_providers()
print(json.dumps([providers, used]))
"""


def look_at_packages(machine: Machine) -> list[Finding]:
    """Findings on the versions of MindSpore and NumPy, without importing them."""
    mindspore, numpy = machine.versions.get("mindspore"), machine.versions.get("numpy")
    first, beyond = MINDSPORE_RANGE
    taken = f"{mindspore} (mindloc takes {dotted(first)} or newer, below {dotted(beyond)})"
    findings = [
        _version("version", mindspore, taken, *mindspore_problem(mindspore)),
        _version("NumPy", numpy, str(numpy), *numpy_problem(numpy)),
    ]
    return findings if mindspore is None else [*findings, convolutions_on_cpu(mindspore)]


def _version(what: str, version: str | None, taken: str, problem: str, way_out: str) -> Finding:
    if not problem:
        return good("MindSpore", what, taken)
    return (absent if version is None else wrong)("MindSpore", what, problem, way_out)


def convolutions_on_cpu(version: str) -> Finding:
    """Whether this version of MindSpore has fast convolutions on a CPU, which only resnet50 and vgg16 need."""
    what, slow = "convolutions on a CPU", slow_cpu_convolutions(version)
    if slow is None:
        return good("MindSpore", what, f"fast in {version}")
    way_out = f"only for model.backbone resnet50 and vgg16, only on a CPU: {INSTALL}"
    return wrong("MindSpore", what, slow, way_out, blocks=False)


@dataclass(frozen=True)
class MindSporeState:
    """MindSpore's own report on its plugins."""

    loaded: Mapping[str, bool]  # target -> whether its plugin is loaded
    error: str  # messages of the system's loader about the plugins that it could not load

    def complaint(self, target: str) -> str:
        """The loader's message about the plugin of one target, "" if there is none."""
        lines = [line for line in self.error.splitlines() if PLUGIN_FILES[target] in line]
        return lines[0].partition("failed. ")[2].strip() or lines[0] if lines else ""


def mindspore_state() -> MindSporeState:
    """The state of MindSpore in this process, which imports it if necessary."""
    import mindspore as ms
    from mindspore._c_expression import MSContext

    context = ms.device_context
    loaded = {"Ascend": context.ascend.is_available(), "GPU": context.gpu.is_available()}
    return MindSporeState(loaded, MSContext.get_instance().load_plugin_error())


def read_mindspore(machine: Machine) -> MindSporeState | Finding:
    """MindSpore's state in a separate process (some seconds, 0.4 GB), or a finding on why the import failed."""
    answer = run_python(_ASK_MINDSPORE, {"GLOG_v": "3", **machine.environ}, 120)
    if answer.code != 0:
        return wrong("MindSpore", "import", f"import mindspore fails: {last_line(answer.err)}", f"reinstall: {INSTALL}")
    return MindSporeState(**answer.value())


def look_at_onnx_runtime(machine: Machine, python: str = sys.executable) -> list[Finding]:
    """Findings on ONNX Runtime: the installed build, its providers, and whether a test model runs on a GPU.

    ONNX Runtime is a second way to use a GPU, for exported encoders; no finding here blocks a target of MindSpore.
    """
    names = [name for name in ("onnxruntime", "onnxruntime-gpu") if name in machine.versions]
    if not names:
        way_out = f"only needed for exported ONNX encoders: pip install onnxruntime; for NVIDIA cards: {FOR_CARDS}"
        return [absent(ONNX_RUNTIME, "version", "not installed", way_out, blocks=False)]
    found = ", ".join(f"{name} {machine.versions[name]}" for name in names)
    if len(names) == 2:  # they share one directory, so the one installed last has overwritten half of the other
        return [wrong(ONNX_RUNTIME, "version", f"{found} overwrite each other", FOR_CARDS, blocks=False)]
    answer = run_python(_ASK_ONNX_RUNTIME, machine.environ, 120, python)
    if answer.code != 0:
        way_out = f"pip install --force-reinstall {names[0]}"
        return [wrong(ONNX_RUNTIME, "version", f"{found} fails: {last_line(answer.err)}", way_out, blocks=False)]
    providers, used = answer.value()
    return [good(ONNX_RUNTIME, "version", found), _cuda_provider(providers, used, answer.err + answer.out)]


def _cuda_provider(providers: list[str], used: list[str], log: str) -> Finding:
    what = "CUDA provider"
    if "CUDAExecutionProvider" in used:
        return good(ONNX_RUNTIME, what, "a test model ran through it")
    if "CUDAExecutionProvider" in providers:
        why = why_provider_missing(log)
        way_out = "see driver and card under GPU" if why.startswith("CUDA failure") else FOR_CARDS
        return wrong(ONNX_RUNTIME, what, f"does not start: {why}", way_out, blocks=False)
    names = ", ".join(name.removesuffix("ExecutionProvider") for name in providers)
    return absent(ONNX_RUNTIME, what, f"this build has {names} only", f"for NVIDIA cards: {FOR_CARDS}", blocks=False)
