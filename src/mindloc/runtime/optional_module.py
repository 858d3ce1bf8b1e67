"""Libraries that only some users need, and the requirements file that brings each."""

import importlib
import os
from typing import Any

from mindloc.errors import DeviceError

_ONNX = ("ONNX files need", "requirements-onnx.txt")
_MILVUS = ("libraries in Milvus need", "requirements-milvus.txt")
_OF_MILVUS = ("pymilvus", "milvus_lite", "grpc")


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
