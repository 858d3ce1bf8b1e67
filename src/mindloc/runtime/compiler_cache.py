"""Graphs that an earlier process compiled, kept on disk under a key of our own.

MindSpore's compiler cache (seen in 2.8.0) knows a graph by its number in the process and a hash of the script that was
started. Another config, batch size or module goes unnoticed, and the old graph computes on: a changed constant of the
loss had no effect, half the batch gave NaN. So every graph lies in a folder named by a hash of all it is made of, is
used in whole or not at all, and only the first graph that a process asks for is taken from there: MindSpore remembers
the folder as long as it lives. With fused operators it remembers the folder of any graph before, cached or not, where
all processes have their loops: after one none is served, as the next training would take this one's.

MindSpore works on a private copy of the folder, so what other processes keep, replace or remove meanwhile does not
matter.
"""

import atexit
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import mindloc
from mindloc.runtime.compile_time import compiled_s, process_age_s
from mindloc.runtime.file_hash import content_hash
from mindloc.runtime.operator_fusion import is_fused, part_from_kernels, share_kernels
from mindloc.runtime.sealed_folder import (
    copy_sealed,
    private_folder,
    put_sealed,
    remove_left_behind,
    remove_oldest,
    renew_private,
)
from mindloc.runtime.user_cache import user_cache

KEPT_GRAPHS = 16  # newest ones by their last use; one takes 2 to 20 MB
_KEY = re.compile("[0-9a-f]{32}")  # what graph_key makes
_SOURCE = Path(mindloc.__file__).resolve().parent
_asked = False


@dataclass(frozen=True)
class CompilerCache:
    """A folder of graphs.

    Args:
        folder: made when first needed; several processes of one user may share it.
        facts: what a graph depends on beside the code, the platform and its inputs; plain values.
        say: gets a line where the folder can't be used.
    """

    folder: Path
    facts: Mapping[str, Any]
    say: Callable[[str], None] = print

    @contextmanager
    def serving(self, *inputs: Any) -> Iterator[bool]:
        """Inside, one graph of ``inputs`` (tensors) may be compiled; yields whether it was there already."""
        global _asked
        if _asked or _folder_is_settled() or not _fit_for_mindspore() or _source_is_newer_than_this_process():
            yield False
            return
        _asked = True
        place = self.folder / graph_key(self.facts, inputs)
        try:
            work, there = _begin(place)
        except OSError as error:
            self._say_not_kept(error)
            yield False
            return
        try:
            with _told_to_mindspore(work):
                yield there
            if not there:
                self._keep(work, place)
        finally:
            shutil.rmtree(work, ignore_errors=True)
            _leave_link_to_kernels(work)

    def _keep(self, work: Path, place: Path) -> None:
        try:
            part_from_kernels(work)
            if any(path.is_file() for path in work.rglob("*")):
                put_sealed(work, place)
            remove_oldest(self.folder, KEPT_GRAPHS, _KEY)
        except OSError as error:
            self._say_not_kept(error)

    def _say_not_kept(self, error: OSError) -> None:
        reason = error.strerror or str(error)
        self.say(f"compiled graphs are not kept: {error.filename or self.folder}: {reason}; see run.compiler_cache")


def default_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where graphs are kept unless the user names a place: mindloc/graphs in the user's cache folder."""
    return user_cache(environment) / "graphs"


def users_own_cache(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the user turned MindSpore's compiler cache on himself: then he has it, as MindSpore makes it."""
    return environment.get("MS_COMPILER_CACHE_ENABLE") == "1"


def graph_key(facts: Mapping[str, Any], inputs: tuple) -> str:
    """32 hexadecimal digits: a hash over ``facts``, the inputs' shapes and types, our source and what compiles it."""
    import mindspore as ms

    content = {
        "facts": facts,
        "inputs": [(list(tensor.shape), str(tensor.dtype)) for tensor in inputs],
        "source": source_digest(_SOURCE),
        "script": content_hash(Path(sys.argv[0])),
        "versions": [ms.__version__, np.__version__, platform.python_version(), platform.machine()],
        "context": {name: str(ms.get_context(name)) for name in ("device_target", "mode", "enable_graph_kernel")},
        "environment": {name: text for name, text in sorted(os.environ.items()) if name.startswith("MS_DEV_")},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def source_digest(folder: Path) -> str:
    """A hash over the names and contents of all Python files below a folder."""
    files = sorted(folder.rglob("*.py"))
    listing = [[file.relative_to(folder).as_posix(), content_hash(file)] for file in files]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def _begin(place: Path) -> tuple[Path, bool]:
    """A private folder to compile in, and whether it holds the graph that is kept at ``place``."""
    work = private_folder(place.parent)
    try:
        remove_left_behind(place.parent)
        there = copy_sealed(place, work)
        share_kernels(work)
    except OSError:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return work, there


@contextmanager
def _told_to_mindspore(folder: Path) -> Iterator[None]:
    import mindspore as ms

    ms.set_context(enable_compile_cache=True, compile_cache_path=str(folder))
    try:
        yield
    finally:
        ms.set_context(enable_compile_cache=False)


def _leave_link_to_kernels(work: Path) -> None:
    """MindSpore looks for the loops of later graphs there too, as long as this process lives."""
    if is_fused():
        with suppress(OSError):  # then MindSpore makes the folder again, and loops are compiled again
            renew_private(work)
            share_kernels(work)
        atexit.register(shutil.rmtree, work, ignore_errors=True)


def _folder_is_settled() -> bool:
    return is_fused() and compiled_s() > 0


def _fit_for_mindspore() -> bool:
    """MindSpore reads the script that was started to find what a graph depends on: there has to be one."""
    return bool(sys.argv[0]) and os.path.isfile(sys.argv[0])


def _source_is_newer_than_this_process() -> bool:
    """A file edited since may be imported in its old form and compiled in its new one."""
    began = time.time() - process_age_s()
    return any(path.stat().st_mtime >= began for path in _SOURCE.rglob("*.py"))
