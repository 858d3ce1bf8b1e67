"""What libraries write to the console from C++, past Python: kept from it, and readable afterwards.

A MINDIR file, opened: MindSpore runs the saved graph without our code.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from mindloc.errors import ExportError, first_line
from mindloc.inference.exported import RunFile
from mindloc.runtime.compilation import compiling


class Messages:
    """The text, once the block is left."""

    text = ""


@contextmanager
def native_messages() -> Iterator[Messages]:
    """Take standard error, and what Python prints, out of the console's sight while the block runs.

    For calls that write pages before they raise or go on; what matters of it is said by the caller in one line.
    """
    messages = Messages()
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file, os.fdopen(os.dup(file.fileno()), "w", errors="replace") as printed:
        try:
            os.dup2(file.fileno(), 2)
            with redirect_stdout(printed):
                yield messages
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            printed.flush()
            file.seek(0)
            messages.text = file.read().decode("utf-8", "replace")


MODE = "AES-GCM"
KEY_BYTES = (16, 24, 32)


def read_key(path: Path) -> bytes:
    """The key in a file: its bytes, all of them.

    Raises:
        ExportError: the file can't be read, or is not 16, 24 or 32 bytes long. The key itself is never shown.
    """
    try:
        with path.open("rb") as file:
            key = file.read(max(KEY_BYTES) + 2)
    except OSError as error:
        raise ExportError(f"key file {path} can't be read: {error.strerror or error}; check the path") from None
    if len(key) not in KEY_BYTES:
        newline = " and ends in a newline, which counts" if key.endswith(b"\n") else ""
        long = f"over {max(KEY_BYTES)}" if len(key) > max(KEY_BYTES) else f"{len(key)}"
        raise ExportError(
            f"key file {path} holds {long} bytes{newline}; an AES key has 16, 24 or 32: head -c 32 /dev/urandom > FILE"
        )
    return key


def open_mindir(path: Path, key: bytes | None = None) -> RunFile:
    """The graph in a file, on the device that was chosen.

    Raises:
        ExportError: MindSpore can't read it, or the key is not the one it was written with.
    """
    import mindspore as ms
    from mindspore import nn

    secret: dict[str, Any] = {} if key is None else {"dec_key": key, "dec_mode": MODE}
    try:
        with native_messages():  # it writes pages before it raises
            graph = nn.GraphCell(ms.load(str(path), **secret))
    except (RuntimeError, ValueError, TypeError) as error:
        if key is not None:
            raise ExportError(f"{path} can't be decrypted with this key; give the one it was exported with") from error
        raise ExportError(f"MindSpore can't read {path}: {first_line(error)}; export again") from error

    compiled: set[tuple[int, ...]] = set()  # shapes

    def run(images: np.ndarray) -> list[np.ndarray]:
        pictures = ms.Tensor(np.ascontiguousarray(images))
        # a loaded graph can't be compiled before its first run: that compiles again and finds it empty (seen in 2.8.0)
        with nullcontext() if pictures.shape in compiled else compiling():
            outputs = graph(pictures)
        compiled.add(pictures.shape)
        return [rows.asnumpy() for rows in (outputs if isinstance(outputs, tuple) else (outputs,))]

    return run
