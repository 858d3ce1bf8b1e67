"""MINDIR files: MindSpore runs the saved graph without our code, on any device it supports."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from mindloc.config.sections import RunConfig
from mindloc.errors import ExportError, first_line
from mindloc.inference.build import EngineRequest, Source
from mindloc.inference.exported import ExportedEngine, ExportedFile, RunFile
from mindloc.reading import regular_file
from mindloc.runtime.compilation import compiling
from mindloc.runtime.device import require_precision, use_device
from mindloc.runtime.process import native_messages
from mindloc.vocabulary import SideName

MODE = "AES-GCM"
KEY_BYTES = (16, 24, 32)


def start_mindir_engine(
    request: EngineRequest, source: Source, run: RunConfig, batch_size: int, say: Callable[[str], None]
) -> ExportedEngine:
    """Start the engine of MINDIR files.

    Raises:
        DeviceError: the device or the precision is not available here.
        ExportError: a file does not fit its card, or its key is missing or wrong.
    """
    device = use_device(run.device_target, run.device_ids[0], run.operator_fusion)
    say(f"device: {device.summary}")
    for file in source.files.values():
        require_precision(file.precision, device.target)
    engine = load_mindir_engine(source.files, batch_size, request.key)
    say(f"engine: {engine}")
    return engine


def load_mindir_engine(
    files: dict[SideName, ExportedFile], batch_size: int, key: bytes | None = None
) -> ExportedEngine:
    """Start the engine of MINDIR files on the device in use; for errors see ``start_mindir_engine``."""

    def open_file(file: ExportedFile) -> RunFile:
        file.require_intact()
        if file.encrypted and key is None:
            raise ExportError(f"{file.path} is encrypted; name the file with its key: --dec_key_file FILE")
        return open_mindir(file.path, key if file.encrypted else None)

    (precision,) = {file.precision for file in files.values()}
    return ExportedEngine("mindir", precision, files, open_file, batch_size)


def open_mindir(path: Path, key: bytes | None = None) -> RunFile:
    """Load the graph in a file on the device in use; returns the function that runs it.

    Raises:
        ExportError: MindSpore can't read the file, or the key is not the one that it was exported with.
    """
    import mindspore as ms
    from mindspore import nn

    secret: dict[str, Any] = {} if key is None else {"dec_key": key, "dec_mode": MODE}
    try:
        with native_messages():  # MindSpore writes pages to stderr before it raises
            graph = nn.GraphCell(ms.load(str(path), **secret))
    except (RuntimeError, ValueError, TypeError) as error:
        if key is not None:
            raise ExportError(f"{path} can't be decrypted with this key; give the one it was exported with") from error
        raise ExportError(f"MindSpore can't read {path}: {first_line(error)}; export again") from error

    compiled: set[tuple[int, ...]] = set()  # shapes

    def run(images: np.ndarray) -> list[np.ndarray]:
        batch = ms.Tensor(np.ascontiguousarray(images))
        # a loaded graph can't be compiled before its first run: that would compile again and find it empty (in 2.8.0)
        with nullcontext() if batch.shape in compiled else compiling():
            outputs = graph(batch)
        compiled.add(batch.shape)
        return [rows.asnumpy() for rows in (outputs if isinstance(outputs, tuple) else (outputs,))]

    return run


def read_key(path: Path) -> bytes:
    """Read a key, which is all bytes of a file.

    Raises:
        ExportError: the file can't be read, or is not 16, 24 or 32 bytes long. The key itself is never shown.
    """
    with regular_file(path, ExportError, "check the path", "key file") as file:
        key = file.read(max(KEY_BYTES) + 2)
    if len(key) not in KEY_BYTES:
        newline = " and ends in a newline, which counts" if key.endswith(b"\n") else ""
        long = f"over {max(KEY_BYTES)}" if len(key) > max(KEY_BYTES) else f"{len(key)}"
        raise ExportError(
            f"key file {path} has {long} bytes{newline}; an AES key has 16, 24 or 32: head -c 32 /dev/urandom > FILE"
        )
    return key
