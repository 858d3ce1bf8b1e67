"""ONNX Runtime: a second way to a GPU, for exported encoders. Nothing here blocks a target of MindSpore."""

import json
import sys
from pathlib import Path

from mindloc.doctor.findings import Finding, absent, good, wrong
from mindloc.doctor.machine import Machine, ask, last_line
from mindloc.doctor.provider_start import why_not_started

SECTION = "ONNX Runtime"
FOR_CARDS = (
    "pip uninstall -y onnxruntime onnxruntime-gpu; pip install 'onnxruntime-gpu[cuda,cudnn]' "
    "(where the driver is older than 580: 'onnxruntime-gpu[cuda,cudnn]<1.27'); docs/gpu.md"
)
QUESTION = """
import json, sys
sys.path.insert(0, {source!r})
import onnxruntime as ort
from mindloc.doctor.provider_start import ONE_RELU, preload_libraries
providers, used = ort.get_available_providers(), []
if "CUDAExecutionProvider" in providers:
    preload_libraries(ort)
    used = ort.InferenceSession(ONE_RELU, providers=["CUDAExecutionProvider"]).get_providers()
print(json.dumps([providers, used]))
"""


def look_at_onnx_runtime(machine: Machine, python: str = sys.executable) -> list[Finding]:
    """Which build is installed, what it can compute on, and whether it computes on a card when asked to."""
    names = [name for name in ("onnxruntime", "onnxruntime-gpu") if name in machine.versions]
    if not names:
        way_out = f"only needed for exported ONNX encoders: pip install onnxruntime; for NVIDIA cards: {FOR_CARDS}"
        return [absent(SECTION, "version", "not installed", way_out, blocks=False)]
    found = ", ".join(f"{name} {machine.versions[name]}" for name in names)
    if len(names) == 2:  # they share one folder, so the one installed last has overwritten half of the other
        return [wrong(SECTION, "version", f"{found} overwrite each other", FOR_CARDS, blocks=False)]
    answer = ask([python, "-c", QUESTION.format(source=str(Path(__file__).parents[2]))], machine.environ, 120)
    if answer.code != 0:
        way_out = f"pip install --force-reinstall {names[0]}"
        return [wrong(SECTION, "version", f"{found} fails: {last_line(answer.err)}", way_out, blocks=False)]
    providers, used = json.loads(answer.out.splitlines()[-1])
    return [good(SECTION, "version", found), _cuda_provider(providers, used, answer.err + answer.out)]


def _cuda_provider(providers: list[str], used: list[str], log: str) -> Finding:
    what = "CUDA provider"
    if "CUDAExecutionProvider" in used:
        return good(SECTION, what, "a test model ran through it")
    if "CUDAExecutionProvider" in providers:
        why = why_not_started(log)
        way_out = "see driver and card under GPU" if why.startswith("CUDA failure") else FOR_CARDS
        return wrong(SECTION, what, f"does not start: {why}", way_out, blocks=False)
    names = ", ".join(name.removesuffix("ExecutionProvider") for name in providers)
    return absent(SECTION, what, f"this build has {names} only", f"for NVIDIA cards: {FOR_CARDS}", blocks=False)
