"""What it takes to see whether ONNX Runtime starts a provider, and why it did not.

A session that is refused a provider goes on with the CPU's and only logs it. So a graph of one operator is opened on
it, the session is asked what it uses, and its log why.
"""

import re
from typing import Any

ONE_RELU = bytes.fromhex(  # y = relu(x) of one number, as an ONNX file of opset 11
    "08073a330a0c0a0178120179220452656c751201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a08080112040a02080142040a00100b"
)


def preload_libraries(runtime: Any) -> None:
    """Load CUDA and cuDNN from PyPI's packages, where this ONNX Runtime can (1.21 or newer)."""
    if hasattr(runtime, "preload_dlls"):
        runtime.preload_dlls(directory="")


def why_not_started(log: str) -> str:
    """The cause in a few words, from all that ONNX Runtime wrote to the console."""
    missing = sorted(set(re.findall(r"(lib[\w.+-]+?\.so[.\d]*): cannot open", log)))
    if missing:
        return f"{', '.join(missing)} not found"
    said = re.search(r"CUDA failure \d+: [^;\n]*", log) or re.search(r"(?<=with error: ).*", log)
    return said[0].strip() if said else "ONNX Runtime does not say why"
