"""The cores that this process may use, which may be fewer than the machine has.

Named places where a test can kill the process, to prove that a run survives a kill there.

``MINDLOC_FAULT=weights.before_rename`` kills at the first passage, ``weights.before_rename:3`` at the third. Without
the variable a fault point costs one dictionary lookup.

How this process answers signals, for a while.

Libraries that only some users need, and the requirements file that brings each.
"""

import collections
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from mindloc.errors import DeviceError


def usable_cores() -> list[int]:
    """Their numbers, in order."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


FAULT_VARIABLE = "MINDLOC_FAULT"

# every name that a training or extraction passes; the kill tests go through this list
FAULT_POINTS = (
    *[
        f"{what}.{where}"
        for what in ("weights", "best", "state", "end")
        for where in ("before_write", "mid_write", "before_rename", "after_rename")
    ],
    "checkpoint.between_weights_and_state",
    "checkpoint.before_prune",
    "metrics.before_append",
    "metrics.mid_append",
    "epoch.mid",
    "extract.mid",
)

# and those that saving a library of tiles passes
INDEX_FAULT_POINTS = ("index.before_write", "index.mid_write", "index.before_swap", "index.mid_swap")

MILVUS_FAULT_POINT = "milvus.mid_add"  # between two messages to Milvus

_passages: collections.Counter[str] = collections.Counter()


def fault_point(name: str) -> None:
    """Kill this process, as ``kill -9`` would, when the environment names this place; else do nothing."""
    wanted = os.environ.get(FAULT_VARIABLE)
    if not wanted:
        return
    wanted_name, _, count = wanted.partition(":")
    if name != wanted_name:
        return
    _passages[name] += 1
    if _passages[name] == int(count or 1):
        os.kill(os.getpid(), signal.SIGKILL)


_last_words: list[str] = []


@contextmanager
def answered(handler: Any, *signals: int) -> Iterator[None]:
    """Answer these signals by ``handler`` (as ``signal.signal`` takes it), and as before afterwards.

    Only in the main thread, as Python allows it nowhere else.
    """
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def leaving_at_once(words: str) -> Iterator[None]:
    """Let a SIGTERM end a command on the spot, with one line; for work in which nothing is lost.

    MindSpore answers a ``KeyboardInterrupt`` inside its compiler with pages of its own. Only our commands take SIGTERM
    for Ctrl-C, so whoever else calls this keeps what he has; and while MindSpore reads data, Ctrl-C comes as a SIGTERM.
    Other threads than the main one get no signals.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.default_int_handler:
        yield
        return

    def leave(number: int, frame: Any) -> None:
        with suppress(RuntimeError):  # the signal came in the middle of a print
            sys.stdout.flush()
        os.write(2, "".join(f"{line}\n" for line in [words, *_last_words]).encode())
        os._exit(130)

    with answered(leave, signal.SIGTERM):
        yield


@contextmanager
def last_words(line: str) -> Iterator[None]:
    """Inside, ``leaving_at_once`` says this line too: what a command would say if it were only interrupted."""
    _last_words.append(line)
    try:
        yield
    finally:
        _last_words.remove(line)


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
