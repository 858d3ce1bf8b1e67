"""Installed packages: supported versions of MindSpore and NumPy, and optional libraries."""

import importlib
import os
import re
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from mindloc.errors import DeviceError

MINDSPORE_RANGE = ((2, 7, 2), (2, 11))  # oldest version with all functions used here, first untested version
SLOW_CONVOLUTIONS_FROM = (2, 9)  # on CPUs: 3x3, 64 channels, 56x56, batch 2 take 21 ms in 2.8.0, 4777 ms in 2.10.0
OLDEST_GPU = (6, 0)  # lowest compute capability that MindSpore's GPU plugin has kernels for, see docs/gpu.md
INSTALL = "pip install -r requirements.txt -c constraints-cpu.txt"

# a graph of one operator, y = relu(x) of one number, as an ONNX file of opset 11
ONE_RELU = bytes.fromhex(
    "08073a330a0c0a0178120179220452656c751201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a08080112040a02080142040a00100b"
)

_ONNX = ("ONNX files need", "requirements-onnx.txt")
_MILVUS = ("indexes in Milvus need", "requirements-milvus.txt")
_OF_MILVUS = ("pymilvus", "milvus_lite", "grpc")


def installed_versions(*packages: str) -> dict[str, str]:
    """The versions of those ``packages`` that are installed, without importing them."""
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def check_packages(versions: Mapping[str, str] | None = None) -> None:
    """Check the versions of MindSpore and NumPy, as an unsupported one would fail later with an obscure error.

    Args:
        versions: of "mindspore" and "numpy"; None: the installed ones.

    Raises:
        DeviceError: MindSpore or NumPy is not installed, MindSpore is too old or too new, or NumPy is 2.
    """
    versions = installed_versions("mindspore", "numpy") if versions is None else versions
    for problem, way_out in (mindspore_problem(versions.get("mindspore")), numpy_problem(versions.get("numpy"))):
        if problem:
            raise DeviceError(f"{problem}: {way_out}")


def mindspore_problem(version: str | None) -> tuple[str, str]:
    """(problem with a version of MindSpore, way out); both empty without a problem.

    Args:
        version: None if MindSpore is not installed.
    """
    first, beyond = MINDSPORE_RANGE
    wanted = f"mindloc needs {dotted(first)} or newer, below {dotted(beyond)}"
    if version is None:
        return f"MindSpore is not installed; {wanted}", INSTALL
    if not first <= version_numbers(version) < beyond:
        return f"MindSpore {version} is installed; {wanted}", INSTALL
    return "", ""


def numpy_problem(version: str | None) -> tuple[str, str]:
    """(problem with a version of NumPy, way out), with arguments like those of ``mindspore_problem``."""
    if version is None:
        return "NumPy is not installed", INSTALL
    if version_numbers(version) >= (2,):
        return f"NumPy {version} is installed; MindSpore's tensors need NumPy 1", "pip install 'numpy<2'"
    return "", ""


def slow_cpu_convolutions(version: str) -> str | None:
    """A warning about the speed of convolutions on a CPU with a version of MindSpore; None if they are fast.

    Only the backbones resnet50 and vgg16 use them.
    """
    if version_numbers(version) < SLOW_CONVOLUTIONS_FROM:
        return None
    limit = dotted(SLOW_CONVOLUTIONS_FROM)
    return f"MindSpore {version} convolves with kernels above 1x1 some 200 times slower than releases below {limit} do"


def version_numbers(version: str) -> tuple[int, ...]:
    """(2, 8, 0) of "2.8.0rc1": the leading digits of each of three dotted parts, up to the first part without any."""
    numbers: list[int] = []
    for part in version.split(".")[:3]:
        digits = re.match(r"\d+", part)
        if digits is None:
            break
        numbers.append(int(digits[0]))
    return tuple(numbers)


def dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


def optional_module(name: str) -> Any:
    """Import a module of one of the optional requirements files.

    MindSpore works only with protobuf's Python implementation. The first import of protobuf chooses the implementation
    for the process; onnx and pymilvus would choose a different one, and importing MindSpore after them would end the
    process. Without MindSpore, ``PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=upb`` adds tiles to Milvus ten times as fast
    (docs/scale.md).

    Raises:
        DeviceError: the module's package is not installed.
    """
    os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        if error.name != package:
            raise
        who, file = _MILVUS if package in _OF_MILVUS else _ONNX
        raise DeviceError(f"{package} is not installed, but {who} it: pip install -r {file}") from None


def preload_onnx_libraries(runtime: Any) -> None:
    """Load CUDA and cuDNN from PyPI's packages, if ONNX Runtime supports it (1.21 or newer)."""
    if hasattr(runtime, "preload_dlls"):
        runtime.preload_dlls(directory="")


def why_provider_missing(log: str) -> str:
    """Why ONNX Runtime did not start a provider, in a few words, from its console output.

    A session whose provider fails continues on the CPU and only logs the failure. To detect that, open ``ONE_RELU``
    with the provider and read the providers of the session.
    """
    missing = sorted(set(re.findall(r"(lib[\w.+-]+?\.so[.\d]*): cannot open", log)))
    if missing:
        return f"{', '.join(missing)} not found"
    said = re.search(r"CUDA failure \d+: [^;\n]*", log) or re.search(r"(?<=with error: ).*", log)
    return said[0].strip() if said else "ONNX Runtime states no reason"
