"""The machine that the doctor looks at: this one, or a folder that stands for one.

Programs that the doctor asks: run one that may be absent, crash or hang, and read what it said.

What the installed MindSpore says itself: whether it can be imported, and which plugins it loaded.
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from mindloc.runtime.process import usable_cores

DEFAULT_FOLDERS = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib")
PACKAGES = ("mindspore", "numpy", "onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True)
class Machine:
    """Where to look; nothing outside ``root``, ``prefix``, ``mindspore`` and the folders of ``environ`` is read."""

    environ: Mapping[str, str]
    root: Path = Path("/")  # absolute paths of the system are looked up below it
    prefix: Path = Path(sys.prefix)  # of the Python environment
    versions: Mapping[str, str] = field(default_factory=dict)  # of the installed PACKAGES
    mindspore: Path | None = None  # folder of the installed package
    cores: int = 1  # that the process may run on
    folder: Path = Path()  # to work in

    def path(self, absolute: str) -> Path:
        return self.root / absolute.lstrip("/")

    def read(self, absolute: str) -> str:
        """Text of a system file, "" when it is not there or may not be read."""
        try:
            return self.path(absolute).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def library_folders(self) -> list[Path]:
        """Folders that the loader searches: LD_LIBRARY_PATH, those that ldconfig was told of, the system's own."""
        named = [Path(text) for text in self.environ.get("LD_LIBRARY_PATH", "").split(":") if text]
        system = [self.path(text) for text in (*self._configured("/etc/ld.so.conf"), *DEFAULT_FOLDERS)]
        return list(dict.fromkeys([*named, *system]))

    def library(self, name: str, *more: Path) -> Path | None:
        """The file that the loader would take for ``name``, e.g. "libcuda.so.1"; ``more`` folders come first."""
        folders = [*more, *self.library_folders()]
        paths = (folder / name for folder in folders)
        return next((path for path in paths if os.path.exists(path)), None)  # False too where a folder is closed to us

    def other_versions(self, name: str) -> list[Path]:
        """Files on the loader's path that differ from ``name`` in the number after .so. only, e.g. libcudnn.so.9."""
        stem = name.partition(".so")[0]
        pattern = re.compile(re.escape(stem) + r"\.so\.\d+(\.\d+)?$")
        found = {path.name: path for folder in self.library_folders() for path in folder.glob(f"{stem}.so.*")}
        return [found[each] for each in sorted(found) if pattern.match(each) and each != name]

    def _configured(self, absolute: str, depth: int = 0) -> list[str]:
        """Folders in an ld.so.conf and the files that it includes."""
        folders = []
        for line in self.read(absolute).splitlines():
            words = line.partition("#")[0].split()
            if words[:1] == ["include"] and depth < 3:
                parent = str(Path(absolute).parent)
                for pattern in words[1:]:
                    below = pattern.lstrip("/") if pattern.startswith("/") else f"{parent}/{pattern}".lstrip("/")
                    for path in sorted(self.root.glob(below)):
                        folders += self._configured("/" + str(path.relative_to(self.root)), depth + 1)
            elif words:
                folders.append(words[0])
        return folders


def this_machine() -> Machine:
    """The machine and the environment that this process runs in; MindSpore is found but not imported."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    spec = find_spec("mindspore")
    folder = Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
    return Machine(dict(os.environ), versions=versions, mindspore=folder, cores=len(usable_cores()))


@dataclass(frozen=True)
class Answer:
    """What a program said."""

    code: int | None  # exit code, negative for a signal; None: it could not be started or did not end in time
    out: str
    err: str


def ask(command: Sequence[str], environ: Mapping[str, str], seconds: float) -> Answer:
    """Run a program that may be absent, crash or hang."""
    try:
        done = subprocess.run(command, env=dict(environ), capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return Answer(None, "", f"no answer within {seconds:.0f} s")
    except OSError as reason:
        return Answer(None, "", reason.strerror or str(reason))
    return Answer(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def last_line(text: str) -> str:
    """The last line of a traceback or a log: what went wrong, without where."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it ended without a word"
