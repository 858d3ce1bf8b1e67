"""The installed packages: which MindSpore and NumPy mindloc takes, and libraries that only some users need."""

import importlib
import os
import re
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from mindloc.errors import DeviceError

MINDSPORE_RANGE = ((2, 7, 2), (2, 11))  # first that has all we call, first not tried
SLOW_CONVOLUTIONS_FROM = (2, 9)  # on CPUs: 3x3, 64 channels, 56x56, batch 2 take 21 ms in 2.8.0, 4777 ms in 2.10.0
OLDEST_GPU = (6, 0)  # compute capability from which on its GPU plugin has kernels, see docs/gpu.md
INSTALL = "pip install -r requirements.txt -c constraints-cpu.txt"

# a graph of one operator, y = relu(x) of one number, as an ONNX file of opset 11
ONE_RELU = bytes.fromhex(
    "08073a330a0c0a0178120179220452656c751201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a08080112040a02080142040a00100b"
)

_ONNX = ("ONNX files need", "requirements-onnx.txt")
_MILVUS = ("libraries in Milvus need", "requirements-milvus.txt")
_OF_MILVUS = ("pymilvus", "milvus_lite", "grpc")


def installed_versions(*packages: str) -> dict[str, str]:
    """Versions of those that are installed, told without importing them."""
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def check_packages(versions: Mapping[str, str] | None = None) -> None:
    """Say in one line what is wrong with the installed MindSpore or NumPy, before they fail in their own words.

    Args:
        versions: of "mindspore" and "numpy"; None asks this Python.

    Raises:
        DeviceError: MindSpore or NumPy is not installed, MindSpore is too old or too new, or NumPy is 2.
    """
    versions = installed_versions("mindspore", "numpy") if versions is None else versions
    for problem, way_out in (mindspore_problem(versions.get("mindspore")), numpy_problem(versions.get("numpy"))):
        if problem:
            raise DeviceError(f"{problem}: {way_out}")


def mindspore_problem(version: str | None) -> tuple[str, str]:
    """(what is wrong with that MindSpore, the way out); the former is empty where nothing is.

    Args:
        version: None: it is not installed.
    """
    first, beyond = MINDSPORE_RANGE
    wanted = f"mindloc needs {dotted(first)} or newer, below {dotted(beyond)}"
    if version is None:
        return f"MindSpore is not installed; {wanted}", INSTALL
    if not first <= version_numbers(version) < beyond:
        return f"MindSpore {version} is installed; {wanted}", INSTALL
    return "", ""


def numpy_problem(version: str | None) -> tuple[str, str]:
    """As ``mindspore_problem``, of NumPy."""
    if version is None:
        return "NumPy is not installed", INSTALL
    if version_numbers(version) >= (2,):
        return f"NumPy {version} is installed; MindSpore's tensors need NumPy 1", "pip install 'numpy<2'"
    return "", ""


def slow_cpu_convolutions(version: str) -> str | None:
    """What to say of that MindSpore's convolutions on a CPU; None where they are fast.

    Only the backbones resnet50 and vgg16 need them.
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
    """A module of one of the optional requirements files.

    MindSpore's own messages are read by protobuf's Python implementation alone; the first import of protobuf decides
    for the whole process, and onnx and pymilvus would decide otherwise: MindSpore, imported behind them, would end the
    process. Whoever is sure to do without MindSpore can set ``PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=upb``, with which
    Milvus takes tiles in ten times as fast (docs/scale.md).

    Raises:
        DeviceError: it is not installed.
    """
    os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        if error.name != package:
            raise
        who, file = _MILVUS if package in _OF_MILVUS else _ONNX
        raise DeviceError(f"{package} is not installed, which {who}: pip install -r {file}") from None


def preload_onnx_libraries(runtime: Any) -> None:
    """Load CUDA and cuDNN from PyPI's packages, where this ONNX Runtime can (1.21 or newer)."""
    if hasattr(runtime, "preload_dlls"):
        runtime.preload_dlls(directory="")


def why_provider_missing(log: str) -> str:
    """Why ONNX Runtime did not start a provider, in a few words, from all that it wrote to the console.

    A session that is refused a provider continues with the CPU's and only logs it. To see it, open ``ONE_RELU`` on the
    provider and ask the session what it uses.
    """
    missing = sorted(set(re.findall(r"(lib[\w.+-]+?\.so[.\d]*): cannot open", log)))
    if missing:
        return f"{', '.join(missing)} not found"
    said = re.search(r"CUDA failure \d+: [^;\n]*", log) or re.search(r"(?<=with error: ).*", log)
    return said[0].strip() if said else "ONNX Runtime does not say why"
