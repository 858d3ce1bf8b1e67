"""Graphs that an earlier process compiled, kept on disk under a key of our own.

MindSpore's compiler cache (seen in 2.8.0) knows a graph by its number in the process and a hash of the script that was
started. Another config, batch size or module goes unnoticed, and the old graph computes on: a changed constant of the
loss had no effect, half the batch gave NaN. So every graph lies in a folder named by a hash of all it is made of, is
used in whole or not at all, and only the first graph that a process asks for is taken from there: MindSpore remembers
the folder as long as it lives.
"""

import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import mindloc
from mindloc.runtime.compile_time import process_age_s
from mindloc.runtime.operator_fusion import is_fused, kernel_place, share_kernels

KEPT_GRAPHS = 16  # newest ones by their last use; one takes 2 to 20 MB
_SEAL = "files.json"  # written last: name -> sha256 of every other file
_LEFT_BEHIND_S = 24 * 3600  # age from which a writer's folder belongs to a process that was killed
_SOURCE = Path(mindloc.__file__).resolve().parent
_asked = False


@dataclass(frozen=True)
class CompilerCache:
    """A folder of graphs.

    Args:
        folder: made when first needed; several processes may share it.
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
        if _asked or not _fit_for_mindspore() or _source_is_newer_than_this_process():
            yield False
            return
        _asked = True
        place = self.folder / graph_key(self.facts, inputs)
        try:
            there = _is_whole(place)
            work = place if there else self._begin(place)
        except OSError as error:
            self.say(f"compiled graphs are not kept: {self.folder}: {error.strerror}; see run.compiler_cache")
            yield False
            return
        try:
            with _told_to_mindspore(work):
                yield there
            if not there:
                self._keep(work, place)
        finally:
            if not there:
                shutil.rmtree(work, ignore_errors=True)

    def _begin(self, place: Path) -> Path:
        shutil.rmtree(place, ignore_errors=True)  # damaged, if it is there at all
        self.folder.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".writing-", dir=self.folder))

    def _keep(self, work: Path, place: Path) -> None:
        """Seal and rename: a reader sees a whole graph or none. Another process may have been faster."""
        try:
            hashes = _hashes(work)
            if hashes:
                (work / _SEAL).write_text(json.dumps(hashes), encoding="utf-8")
                os.rename(work, place)
            remove_oldest(self.folder)
        except OSError:
            pass  # a full disk, or the same graph from elsewhere: the training needs neither


def default_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where graphs are kept unless the user names a place: mindloc/graphs in the user's cache folder."""
    cache = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "mindloc" / "graphs"


def users_own_cache(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the user turned MindSpore's compiler cache on himself: then he has it, as MindSpore makes it."""
    return environment.get("MS_COMPILER_CACHE_ENABLE") == "1"


def graph_key(facts: Mapping[str, Any], inputs: tuple) -> str:
    """A hash over ``facts``, the inputs' shapes and types, our source, and the platform that compiles."""
    import mindspore as ms

    content = {
        "facts": facts,
        "inputs": [(list(tensor.shape), str(tensor.dtype)) for tensor in inputs],
        "source": source_digest(_SOURCE),
        "script": _digest(Path(sys.argv[0])),
        "versions": [ms.__version__, np.__version__, platform.python_version(), platform.machine()],
        "context": {name: str(ms.get_context(name)) for name in ("device_target", "mode", "enable_graph_kernel")},
        "environment": {name: text for name, text in sorted(os.environ.items()) if name.startswith("MS_DEV_")},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def source_digest(folder: Path) -> str:
    """A hash over the names and contents of all Python files below a folder."""
    files = sorted(folder.rglob("*.py"))
    listing = [[file.relative_to(folder).as_posix(), _digest(file)] for file in files]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def remove_oldest(folder: Path, kept: int = KEPT_GRAPHS) -> None:
    """Remove all graphs but those last used, and what writers that were killed left behind."""
    graphs = [path for path in folder.iterdir() if (path / _SEAL).is_file()]
    oldest = sorted(graphs, key=lambda path: (path / _SEAL).stat().st_mtime)[: max(0, len(graphs) - kept)]
    left_behind = [path for path in folder.glob(".writing-*") if time.time() - path.stat().st_mtime > _LEFT_BEHIND_S]
    for path in [*oldest, *left_behind]:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _told_to_mindspore(folder: Path) -> Iterator[None]:
    import mindspore as ms

    share_kernels(folder)
    ms.set_context(enable_compile_cache=True, compile_cache_path=str(folder))
    try:
        yield
    finally:
        ms.set_context(enable_compile_cache=False)
        if is_fused():  # later graphs' loops; the folder may be gone by then
            ms.set_context(compile_cache_path=str(kernel_place().parent))


def _is_whole(place: Path) -> bool:
    """Whether a graph is there with the bytes that were written; marks it as used now."""
    try:
        sealed = json.loads((place / _SEAL).read_text(encoding="utf-8"))
        if sealed != _hashes(place):
            return False
        os.utime(place / _SEAL)
        return True
    except (OSError, ValueError):
        return False


def _hashes(place: Path) -> dict[str, str]:
    files = sorted(path for path in place.rglob("*") if path.is_file() and path.name != _SEAL)
    return {path.relative_to(place).as_posix(): _digest(path) for path in files}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _fit_for_mindspore() -> bool:
    """MindSpore reads the script that was started to find what a graph depends on: there has to be one."""
    return bool(sys.argv[0]) and os.path.isfile(sys.argv[0])


def _source_is_newer_than_this_process() -> bool:
    """A file edited since may be imported in its old form and compiled in its new one."""
    began = time.time() - process_age_s()
    return any(path.stat().st_mtime >= began for path in _SOURCE.rglob("*.py"))
