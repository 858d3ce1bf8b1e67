"""Python packages: which MindSpore, which NumPy, and ONNX Runtime with its providers."""

import json
import sys

from mindloc.runtime.doctor.finding import Finding, absent, good, wrong
from mindloc.runtime.doctor.machine import Machine, ask

MINDSPORE_RANGE = ((2, 7, 2), (2, 11))  # first that has all we call, first not tried
INSTALL = "pip install -r requirements.txt -c constraints-cpu.txt"


def look_at_packages(machine: Machine) -> list[Finding]:
    """MindSpore's version and NumPy's, as far as they can be told without importing them."""
    return [_mindspore(machine), *_numpy(machine)]


def _mindspore(machine: Machine) -> Finding:
    first, beyond = MINDSPORE_RANGE
    wanted = f"mindloc needs {_dotted(first)} or newer, below {_dotted(beyond)}"
    version = machine.versions.get("mindspore")
    if version is None:
        return absent("MindSpore", "version", f"MindSpore is not installed; {wanted}", INSTALL)
    if not first <= numbers(version) < beyond:
        return wrong("MindSpore", "version", f"MindSpore {version} is installed; {wanted}", INSTALL)
    return good("MindSpore", "version", f"{version} (mindloc takes {_dotted(first)} or newer, below {_dotted(beyond)})")


def _numpy(machine: Machine) -> list[Finding]:
    version = machine.versions.get("numpy")
    if version is None:
        return [absent("MindSpore", "NumPy", "NumPy is not installed", INSTALL)]
    if numbers(version) >= (2,):
        text = f"NumPy {version} is installed; MindSpore's tensors need NumPy 1"
        return [wrong("MindSpore", "NumPy", text, "pip install 'numpy<2'")]
    return [good("MindSpore", "NumPy", version)]


PROVIDERS_QUESTION = "import json, onnxruntime; print(json.dumps(onnxruntime.get_available_providers()))"


def look_at_onnx_runtime(machine: Machine, python: str = sys.executable) -> list[Finding]:
    """ONNX Runtime and what it can compute on; it is a second way to a GPU, so nothing here blocks a target."""
    section = "ONNX Runtime"
    names = [name for name in ("onnxruntime", "onnxruntime-gpu") if name in machine.versions]
    if not names:
        way_out = "only needed for exported ONNX encoders: pip install onnxruntime, or onnxruntime-gpu for NVIDIA cards"
        return [absent(section, "version", "not installed", way_out, blocks=False)]
    found = ", ".join(f"{name} {machine.versions[name]}" for name in names)
    if len(names) == 2:  # they share one folder, so the one installed last has overwritten half of the other
        way_out = "pip uninstall -y onnxruntime onnxruntime-gpu, then install one of them"
        return [wrong(section, "version", f"{found} overwrite each other", way_out, blocks=False)]
    answer = ask([python, "-c", PROVIDERS_QUESTION], machine.environ, 60)
    if answer.code != 0:
        said = last_line(answer.err)
        way_out = f"pip install --force-reinstall {names[0]}"
        return [wrong(section, "version", f"{found} can't be imported: {said}", way_out, blocks=False)]
    providers = json.loads(answer.out.splitlines()[-1])
    return [good(section, "version", found), _cuda_provider(providers)]


def _cuda_provider(providers: list[str]) -> Finding:
    found = ", ".join(name.removesuffix("ExecutionProvider") for name in providers)
    if "CUDAExecutionProvider" in providers:
        return good("ONNX Runtime", "providers", f"{found} (whether the card's libraries load shows when it is used)")
    way_out = "for NVIDIA cards: pip uninstall -y onnxruntime; pip install 'onnxruntime-gpu[cuda,cudnn]'"
    return absent("ONNX Runtime", "CUDA provider", f"this build has {found}", way_out, blocks=False)


def last_line(text: str) -> str:
    """The last line of a traceback or a log: what went wrong, without where."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it ended without a word"


def numbers(version: str) -> tuple[int, ...]:
    """(2, 8, 0) of "2.8.0rc1": the leading digits of each dotted part, up to the first part without any."""
    parts = []
    for part in version.split(".")[:3]:
        digits = part[: next((i for i, char in enumerate(part) if not char.isdigit()), len(part))]
        if not digits:
            break
        parts.append(int(digits))
    return tuple(parts)


def _dotted(parts: tuple[int, ...]) -> str:
    return ".".join(map(str, parts))
