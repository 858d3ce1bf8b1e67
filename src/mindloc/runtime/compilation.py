"""Compiling graphs: with elementwise operators fused on CPUs, what that takes, and how it fails.

MindSpore calls the fusion graph kernels: operators that follow each other become one loop, which its AKG compiles once
(some 0.2 s each) and keeps on disk, where a later process finds it. A loop that is damaged there is compiled again
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
from mindloc.runtime.process import leaving_at_once

Fusion = Literal["auto", "always", "never"]  # "auto": where it can be done

_FLAGS = "--disable_cluster_ops=Exp"  # fused, it is off by up to 3e-4 (seen in 2.8.0); alone, by 6e-6
_SERVER_ENDED = "Response is empty"
_LEFT_BY_AKG = "dsa_transfrom.log"  # in the working directory, sic; whatever the settings
_KERNELS = "akg_kernel_meta"  # MindSpore's own name for the directory of loops, in the directory of its compiler cache

_compiled_s = 0.0


def prepare_import() -> None:
    """Set what MindSpore's libraries read while they are loaded; before MindSpore is imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # else threads spin after each loop and slow the products down


def fuse_operators(target: str, fusion: Fusion) -> str:
    """From now on compile graphs with fused operators, where that is wanted and can be done.

    Args:
        target: the device that was chosen.

    Returns:
        What there is to say of it behind the device's name; empty where it was not wanted, or not on a CPU.
        Loops that can't be kept for the next start are named with the directory and the reason.

    Raises:
        DeviceError: it must be done always and it can't be.
    """
    obstacle = why_not_fused(target)
    if fusion == "always" and obstacle is not None:
        raise DeviceError(f"run.operator_fusion is always, but {obstacle}; or set run.operator_fusion=auto")
    fuses = fusion != "never" and obstacle is None
    doubt = ""
    import mindspore as ms

    if fuses:
        os.environ.setdefault("AKG_WHITE_LIST_PATH", str(_akg()))  # else each compilation complains on the console
        doubt = _settle_kernel_place(ms.__version__)
    if fuses != is_fused():
        ms.set_context(enable_graph_kernel=fuses, graph_kernel_flags=_FLAGS if fuses else "")
    if fusion == "never" or target != "CPU":
        return ""
    return f", fused operators{doubt}" if fuses else f", operators not fused ({obstacle})"


def why_not_fused(target: str) -> str | None:
    """What keeps operators from being fused here, as a part of a sentence; None where they can be.

    Args:
        target: "CPU", "GPU" or "Ascend".
    """
    if target != "CPU":
        return f"operator fusion is for CPUs here, the target is {target}"
    if importlib.util.find_spec("decorator") is None:
        return "operator fusion needs the package decorator, which is not installed: pip install decorator"
    return None if _akg().is_dir() else f"this MindSpore has no AKG to fuse operators with ({_akg()} is missing)"


def is_fused() -> bool:
    """Whether graphs of this process are compiled with fused operators."""
    import mindspore as ms

    return bool(ms.get_context("enable_graph_kernel"))


def kernel_place() -> Path:
    """The directory of loops that this process was told to use."""
    return Path(os.environ.get("MS_COMPILER_CACHE_PATH", ".")).absolute() / _KERNELS


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Count what happens inside as compiling; a command that is told to end there does so at once.

    Raises:
        DeviceError: operators were to be fused and could not be.
    """
    global _compiled_s
    started = time.perf_counter()
    try:
        with leaving_at_once("stopped while compiling"), nothing_left_behind(), failing_clearly():
            yield
    finally:
        _compiled_s += time.perf_counter() - started


def compiled_s() -> float:
    """Seconds that this process has spent inside ``compiling`` so far."""
    return _compiled_s


@contextlib.contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Around compiling: takes away the log that AKG leaves in the working directory."""
    there_before = os.path.exists(_LEFT_BY_AKG)
    try:
        yield
    finally:
        if not there_before:
            with contextlib.suppress(OSError):
                os.remove(_LEFT_BY_AKG)


@contextlib.contextmanager
def failing_clearly() -> Iterator[None]:
    """Around compiling: a loop that AKG can't compile ends its server, of which MindSpore says no more than that.

    Raises:
        DeviceError: instead of MindSpore's error, with the way out.
    """
    try:
        yield
    except RuntimeError as error:
        if not (is_fused() and _SERVER_ENDED in str(error)):
            raise
        raise DeviceError(
            "MindSpore's AKG could not compile a loop of fused operators (its own words are above); set "
            "run.operator_fusion=never, which is slower"
        ) from error


def _settle_kernel_place(version: str) -> str:
    """Have loops of this version of MindSpore in the user's cache directory; temporary where they can't be there.

    A home may be shared by hosts of several processor families; within x86_64 all get the same code, up to AVX2 (seen
    in 2.8.0, on a processor with AVX-512).

    Returns:
        What there is to say behind ", fused operators": empty where loops are kept, or where the user named a place.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mindloc"
    directory = cache / f"mindspore-{version}-{platform.machine()}" / _KERNELS
    reason = _why_not_kept(directory)
    place = directory.parent if reason is None else Path(_of_this_process().name)
    os.environ.setdefault("MS_COMPILER_CACHE_PATH", str(place))
    is_elsewhere = kernel_place().parent != place
    return "" if reason is None or is_elsewhere else f", loops not kept ({directory}: {reason}; set XDG_CACHE_HOME)"


def _why_not_kept(directory: Path) -> str | None:
    """Make the directory of loops; what keeps them from being kept there, None if nothing does.

    Loops are code that is run, so no other user may be able to write there.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = directory.stat()
    except OSError as error:
        return error.strerror or str(error)
    if found.st_uid != os.getuid():
        return "it belongs to another user"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "others may write there (chmod go-w)"
    return None if os.access(directory, os.W_OK | os.X_OK) else "no permission to write there"


@functools.cache
def _of_this_process() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="mindloc-kernels-")  # goes with the process


def _akg() -> Path:
    spec = importlib.util.find_spec("mindspore")
    return Path(spec.origin if spec and spec.origin else "mindspore").parent / "_akg"
