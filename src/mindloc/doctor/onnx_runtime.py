"""ONNX Runtime: a second way to a GPU, for exported encoders. Nothing here blocks a target of MindSpore."""

import json
import re
import sys

from mindloc.doctor.finding import Finding, absent, good, wrong
from mindloc.doctor.machine import Machine
from mindloc.doctor.program import ask, last_line

SECTION = "ONNX Runtime"
FOR_CARDS = (
    "pip uninstall -y onnxruntime onnxruntime-gpu; pip install 'onnxruntime-gpu[cuda,cudnn]' "
    "(where the driver is older than 580: 'onnxruntime-gpu[cuda,cudnn]<1.27'); docs/gpu.md"
)
RELU = (  # y = relu(x) of one number, as an ONNX file of opset 11
    "08073a330a0c0a0178120179220452656c751201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a08080112040a02080142040a00100b"
)
# a session that is refused the CUDA provider goes on with the CPU's and only logs it
QUESTION = """
import json
import onnxruntime as ort
providers, used = ort.get_available_providers(), []
if "CUDAExecutionProvider" in providers:
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls(directory="")
    model = bytes.fromhex("MODEL")
    used = ort.InferenceSession(model, providers=["CUDAExecutionProvider"]).get_providers()
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
    answer = ask([python, "-c", QUESTION.replace("MODEL", RELU)], machine.environ, 120)
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
        missing = re.search(r"with error: (.*)", log)
        if missing:
            return wrong(SECTION, what, f"does not load: {missing[1].strip()}", FOR_CARDS, blocks=False)
        failure = re.search(r"CUDA failure \d+: [^;]*", log)
        said = failure[0].strip() if failure else "a session asked for it came back without it"
        return wrong(SECTION, what, f"loads, but: {said}", "see driver and card under GPU", blocks=False)
    names = ", ".join(name.removesuffix("ExecutionProvider") for name in providers)
    return absent(SECTION, what, f"this build has {names} only", f"for NVIDIA cards: {FOR_CARDS}", blocks=False)
