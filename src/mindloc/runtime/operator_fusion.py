"""The door to operator fusion on CPUs: elementwise operators that follow each other become one compiled loop.

MindSpore calls it graph kernels; its AKG compiles a loop once (some 0.2 s each) and keeps it on disk, where a later
process finds it. A loop that is damaged there is compiled again (seen in 2.8.0).
"""

import contextlib
import functools
import importlib.util
import os
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from mindloc.errors import DeviceError
from mindloc.runtime.user_cache import user_cache, why_not_run

Wish = Literal["auto", "always", "never"]

_FLAGS = "--disable_cluster_ops=Exp"  # fused, it is off by up to 3e-4 (seen in 2.8.0); alone, by 6e-6
_SERVER_ENDED = "Response is empty"
_LEFT_BY_AKG = "dsa_transfrom.log"  # in the working folder, sic; whatever the settings
_KERNELS = "akg_kernel_meta"  # MindSpore's own name for the folder of loops, in the folder of its compiler cache


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


def prepare_import() -> None:
    """Set what MindSpore's libraries read while they are loaded; before MindSpore is imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # else threads spin after each loop and slow the products down


def fuse_operators(target: str, wish: Wish) -> str:
    """From now on compile graphs with fused operators, when that is wished and can be done.

    Args:
        target: the device that was chosen.
        wish: "auto": where it can be done.

    Returns:
        What there is to say of it behind the device's name; empty where it was not wished, or not on a CPU.
        Loops that can't be kept for the next start are named with the folder and the reason.

    Raises:
        DeviceError: the wish is "always" and it can't be done.
    """
    obstacle = why_not_fused(target)
    if wish == "always" and obstacle is not None:
        raise DeviceError(f"run.operator_fusion is always, but {obstacle}; or set run.operator_fusion=auto")
    fuses = wish != "never" and obstacle is None
    doubt = ""
    import mindspore as ms

    if fuses:
        os.environ.setdefault("AKG_WHITE_LIST_PATH", str(_akg()))  # else each compilation complains on the console
        doubt = _settle_kernel_place(ms.__version__)
    if fuses != is_fused():
        ms.set_context(enable_graph_kernel=fuses, graph_kernel_flags=_FLAGS if fuses else "")
    if wish == "never" or target != "CPU":
        return ""
    return f", fused operators{doubt}" if fuses else f", operators not fused ({obstacle})"


def share_kernels(compiler_cache: Path) -> None:
    """Let a folder that is about to become MindSpore's compiler cache have its loops where all others have theirs.

    MindSpore looks for them below the compiler cache, and one loop serves many graphs.

    Raises:
        OSError: the disk refuses, e.g. as it knows no links.
    """
    part_from_kernels(compiler_cache)
    if is_fused():
        kernel_place().mkdir(parents=True, exist_ok=True)
        (compiler_cache / _KERNELS).symlink_to(kernel_place(), target_is_directory=True)


def part_from_kernels(compiler_cache: Path) -> None:
    """Take ``share_kernels`` back: another process has its loops elsewhere, and must not run what lies here.

    Raises:
        OSError: the disk refuses.
    """
    link = compiler_cache / _KERNELS
    if link.is_symlink():
        link.unlink()


def kernel_place() -> Path:
    """The folder of loops that this process was told to use."""
    return Path(os.environ.get("MS_COMPILER_CACHE_PATH", ".")).absolute() / _KERNELS


def is_fused() -> bool:
    """Whether graphs of this process are compiled with fused operators."""
    import mindspore as ms

    return bool(ms.get_context("enable_graph_kernel"))


@contextlib.contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Around compiling: takes away the log that AKG leaves in the working folder."""
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
            "MindSpore's AKG could not compile a loop of fused operators (its own words stand above); set "
            "run.operator_fusion=never, which is slower"
        ) from error


def _settle_kernel_place(version: str) -> str:
    """Have loops of this version of MindSpore in the user's cache folder; temporary where they can't lie there.

    A home may be shared by hosts of several processor families; within x86_64 all get the same code, up to AVX2 (seen
    in 2.8.0, on a processor with AVX-512).

    Returns:
        What there is to say behind ", fused operators": empty where loops are kept, or where the user named a place.
    """
    folder = user_cache() / f"mindspore-{version}-{platform.machine()}" / _KERNELS
    reason = _why_not_kept(folder)
    place = folder.parent if reason is None else Path(_of_this_process().name)
    os.environ.setdefault("MS_COMPILER_CACHE_PATH", str(place))
    is_elsewhere = kernel_place().parent != place
    return "" if reason is None or is_elsewhere else f", loops not kept ({folder}: {reason}; set XDG_CACHE_HOME)"


def _why_not_kept(folder: Path) -> str | None:
    """Make the folder of loops; what keeps them from being kept there, None if nothing does."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        doubt = why_not_run(folder)
    except OSError as error:
        return error.strerror or str(error)
    return doubt or (None if os.access(folder, os.W_OK | os.X_OK) else "no permission to write there")


@functools.cache
def _of_this_process() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="mindloc-kernels-")  # goes with the process


def _akg() -> Path:
    spec = importlib.util.find_spec("mindspore")
    return Path(spec.origin if spec and spec.origin else "mindspore").parent / "_akg"
