"""Compilation of graphs: operator fusion on CPUs, its cache and its errors.

Operator fusion, which MindSpore calls graph kernel fusion, turns consecutive elementwise operators into one loop. AKG
compiles each loop (some 0.2 s) and caches it on disk for later processes. A damaged loop in the cache is compiled again
(seen in 2.8.0).
"""

import contextlib
import functools
import importlib.util
import os
import platform
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from mindloc.errors import DeviceError
from mindloc.runtime.console import status_line
from mindloc.runtime.process import leaving_at_once

Fusion = Literal["auto", "always", "never"]  # "auto": where supported

_FLAGS = "--disable_cluster_ops=Exp"  # its error is up to 3e-4 fused (seen in 2.8.0), 6e-6 alone
_COMPILING = "compiling the graph: seconds for a small encoder, a minute for a large one"
_SERVER_ENDED = "Response is empty"
_LEFT_BY_AKG = "dsa_transfrom.log"  # (sic) always written to the working directory
_KERNELS = "akg_kernel_meta"  # MindSpore's name for the directory of loops, below its compiler cache

_compiled_s = 0.0


def prepare_import() -> None:
    """Set the variables that MindSpore's libraries read on loading; call it before MindSpore is imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # else threads spin after each loop and slow matrix products


def fuse_operators(target: str, fusion: Fusion) -> str:
    """Switch operator fusion on or off for all graphs compiled from now on.

    Args:
        target: the chosen device.

    Returns:
        Text to append to the device's description; empty with "never" and on devices that are not CPUs. If compiled
        loops can't be cached for the next start, it states the directory and the reason.

    Raises:
        DeviceError: ``fusion`` is "always" and fusion is not supported here.
    """
    obstacle = why_not_fused(target)
    if fusion == "always" and obstacle is not None:
        raise DeviceError(f"run.operator_fusion is always, but {obstacle}; otherwise set run.operator_fusion=auto")
    fuses = fusion != "never" and obstacle is None
    remark = ""
    import mindspore as ms

    if fuses:
        os.environ.setdefault("AKG_WHITE_LIST_PATH", str(_akg()))  # else each compilation prints a warning
        remark = _choose_cache_directory(ms.__version__)
    if fuses != is_fused():
        ms.set_context(enable_graph_kernel=fuses, graph_kernel_flags=_FLAGS if fuses else "")
    if fusion == "never" or target != "CPU":
        return ""
    return f", fused operators{remark}" if fuses else f", operators not fused ({obstacle})"


def why_not_fused(target: str) -> str | None:
    """Why operators can't be fused here, as a part of a sentence; None if they can.

    Args:
        target: "CPU", "GPU" or "Ascend".
    """
    if target != "CPU":
        return f"operator fusion is supported on CPUs only and the target is {target}"
    if importlib.util.find_spec("decorator") is None:
        return "operator fusion needs the package decorator, which is not installed: pip install decorator"
    return None if _akg().is_dir() else f"this MindSpore lacks AKG, which fuses operators ({_akg()} is missing)"


def is_fused() -> bool:
    """Whether this process compiles graphs with fused operators."""
    import mindspore as ms

    return bool(ms.get_context("enable_graph_kernel"))


def kernel_place() -> Path:
    """The cache directory of fused operators of this process."""
    return Path(os.environ.get("MS_COMPILER_CACHE_PATH", ".")).absolute() / _KERNELS


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Context for compilation: adds its duration to ``compiled_s``; SIGTERM ends a command inside it at once.

    Raises:
        DeviceError: AKG could not compile fused operators.
    """
    global _compiled_s
    started = time.perf_counter()
    try:
        stoppable = leaving_at_once("stopped while compiling")
        with status_line(_COMPILING), stoppable, nothing_left_behind(), failing_clearly():
            yield
    finally:
        _compiled_s += time.perf_counter() - started


def compiled_s() -> float:
    """Seconds that this process has spent in ``compiling`` so far."""
    return _compiled_s


@contextlib.contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Context for compilation: removes the log that AKG leaves in the working directory."""
    there_before = os.path.exists(_LEFT_BY_AKG)
    try:
        yield
    finally:
        if not there_before:
            with contextlib.suppress(OSError):
                os.remove(_LEFT_BY_AKG)


@contextlib.contextmanager
def failing_clearly() -> Iterator[None]:
    """Context for compilation: replaces MindSpore's unspecific error for a loop that AKG can't compile.

    Raises:
        DeviceError: instead of MindSpore's "Response is empty", with the way out.
    """
    try:
        yield
    except RuntimeError as error:
        if not (is_fused() and _SERVER_ENDED in str(error)):
            raise
        raise DeviceError(
            "MindSpore's AKG could not compile a loop of fused operators (its own message is above); set "
            "run.operator_fusion=never, which is slower"
        ) from error


def _choose_cache_directory(version: str) -> str:
    """Cache the loops of this version of MindSpore in the user's cache directory, else in a temporary one.

    The name contains the processor family, as hosts may share a home directory. All x86_64 processors get the same
    code, which uses instructions up to AVX2 (seen in 2.8.0, on a processor with AVX-512).

    Returns:
        Text to append to ", fused operators": empty if loops are cached, or if the user set the directory.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mindloc"
    directory = cache / f"mindspore-{version}-{platform.machine()}" / _KERNELS
    reason = _why_not_kept(directory)
    place = directory.parent if reason is None else Path(_of_this_process().name)
    os.environ.setdefault("MS_COMPILER_CACHE_PATH", str(place))
    is_elsewhere = kernel_place().parent != place
    return "" if reason is None or is_elsewhere else f", loops not cached ({directory}: {reason}; set XDG_CACHE_HOME)"


def _why_not_kept(directory: Path) -> str | None:
    """Make the cache directory; returns why loops can't be cached there, None if they can.

    Loops are executable code, so no other user may have write access.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = directory.stat()
    except OSError as error:
        return error.strerror or str(error)
    if found.st_uid != os.getuid():
        return "owned by another user"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "writable by other users (chmod go-w)"
    return None if os.access(directory, os.W_OK | os.X_OK) else "no write permission"


@functools.cache
def _of_this_process() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="mindloc-kernels-")  # removed when the process ends


def _akg() -> Path:
    spec = importlib.util.find_spec("mindspore")
    return Path(spec.origin if spec and spec.origin else "mindspore").parent / "_akg"
