"""Libraries that only ONNX files need."""

import importlib
import os
from typing import Any

from mindloc.errors import DeviceError


def optional_module(name: str) -> Any:
    """A module of requirements-onnx.txt.

    MindSpore's own messages are read by protobuf's Python implementation alone; the first import of protobuf decides
    for the whole process, and onnx would decide otherwise.

    Raises:
        DeviceError: it is not installed.
    """
    os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        raise DeviceError(
            f"{error.name} is not installed, which ONNX files need: pip install -r requirements-onnx.txt"
        ) from None
