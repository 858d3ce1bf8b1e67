"""The directory of a training run: everything needed to evaluate, repeat and resume it.

```
work_dir/latest   a link to the run that was started last
work_dir/{name}/{MMDDhhmmss}/
  config.yaml     resolved settings
  code.json       code revision, package versions, command
  code.diff       uncommitted changes of the code, if any
  log.txt         console output with date and time
  metrics.jsonl   numbers of each step, see training/reporting.py
  checkpoints/    see checkpoint.py
  reports/        evaluations
  export/         exported encoders
  neighbors/      descriptors for the search for hard negatives, see training/neighbors.py
```
"""

import errno
import json
import os
import platform
import shutil
import subprocess
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import mindloc
from mindloc.errors import MindlocError
from mindloc.runtime.files import (
    ESCAPED,
    TEMPORARY_SUFFIX,
    atomic_write_text,
    dated_directory,
    followed,
    output_file,
    remove_temporaries,
)
from mindloc.runtime.lock import LOCK, locked
from mindloc.runtime.packages import installed_versions
from mindloc.runtime.process import command_line, this_command_line

MOST_DIFF_BYTES = 1 << 20  # of code.diff
_PACKAGES = (
    "mindspore",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "simplejpeg",
    "pyyaml",
    "faiss-cpu",
    "safetensors",
    "filelock",
    "xxhash",
    "tqdm",
)


class RunDirectory:
    """Paths of a run and its text log; construct it with ``create`` or ``open``."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config_path = self.path / "config.yaml"
        self.code_path = self.path / "code.json"
        self.diff_path = self.path / "code.diff"
        self.log_path = self.path / "log.txt"
        self.metrics_path = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.reports = self.path / "reports"
        self.neighbors = self.path / "neighbors"

    @classmethod
    def create(
        cls,
        work_dir: str | Path,
        name: str,
        config_yaml: str,
        path: str | Path | None = None,
    ) -> "RunDirectory":
        """Make a new run directory with config.yaml and code.json.

        Args:
            path: the run directory, absent or empty; None: ``work_dir/name/MMDDhhmmss``.

        Raises:
            MindlocError: the directory can't be made or written, or ``path`` is not empty.
        """
        run = cls(_make_new_directory(Path(work_dir) / name) if path is None else _require_empty(Path(path)))
        with run.being_trained():
            _require_empty(run.path)  # again: another process may have started a run there
            run.write_config(config_yaml)
            atomic_write_text(run.code_path, json.dumps(code_record(), indent=2, ensure_ascii=False) + "\n")
            if changes := uncommitted_changes():
                atomic_write_text(run.diff_path, changes)
        return run

    @classmethod
    def open(cls, path: str | Path) -> "RunDirectory":
        """Open the directory of an earlier run without changing it; a link such as ``work_dir/latest`` is followed.

        Raises:
            MindlocError: it is not a run directory.
        """
        run = cls(followed(Path(path)))
        if not run.config_path.is_file():
            raise MindlocError(f"{path} is not a run directory (it has no config.yaml); give work_dir/NAME/MMDDhhmmss")
        return run

    def being_trained(self) -> AbstractContextManager[bool]:
        """Context in which this process alone trains the run.

        Raises:
            MindlocError: another process trains it, named with its host.
        """
        return locked(self.path, "run", MindlocError, "trained", waits=False, inside=True)

    def require_idle(self) -> None:
        """Check that no process trains the run.

        Raises:
            MindlocError: another process trains it, named with its host.
        """
        with self.being_trained():
            pass

    def remove_leftovers(self) -> None:
        """Remove the incomplete files of a killed process; only the process that trains the run may call it."""
        for directory in (self.path, self.checkpoints):
            remove_temporaries(directory)
        shutil.rmtree(self.neighbors, ignore_errors=True)

    def write_config(self, config_yaml: str) -> None:
        """Store the resolved config, which replaces the old one if a run resumes with other settings.

        Raises:
            MindlocError: the disk is full or not writable.
        """
        self._make_subdirectories()
        atomic_write_text(self.config_path, config_yaml)

    def log(self, text: str) -> None:
        """Append ``text`` to log.txt, each line with date and time.

        Raises:
            MindlocError: the disk is full or not writable; log.txt is not a file.
        """
        output_file(self.log_path, MindlocError)
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        try:
            with open(self.log_path, "a", encoding="utf-8", errors=ESCAPED) as file:
                file.writelines(f"{stamp} {line}\n" for line in text.splitlines())
        except OSError as error:
            raise MindlocError(f"can't append to {self.log_path}: {error.strerror}; free some space") from None

    def _make_subdirectories(self) -> None:
        try:
            for directory in (self.checkpoints, self.reports):
                directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MindlocError(f"can't make {directory}: {error.strerror}; set run.work_dir to another one") from None


def point_latest(work_dir: Path, run: Path) -> str | None:
    """Make ``work_dir/latest`` a link to a run; returns a line for the log if that fails, else None.

    Nothing is done if ``work_dir`` does not exist, since then the run was put elsewhere.
    """
    link, place = work_dir / "latest", Path(os.path.relpath(run, work_dir))
    if not work_dir.is_dir():
        return None
    temporary = link.with_name(f".latest.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        if link.exists() and not link.is_symlink():
            raise FileExistsError(errno.EEXIST, "something else has that name")
        temporary.symlink_to(run.absolute() if ".." in place.parts else place)
        temporary.replace(link)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        return f"no link {link} to this run: {error.strerror}"
    return None


def run_of(checkpoint: Path) -> Path:
    """The run directory of a checkpoint; the directory of the file if it is not in a run."""
    directory = checkpoint.parent
    return directory.parent if directory.name == "checkpoints" else directory


def export_directory(checkpoint: Path) -> Path:
    """Directory for the exported files of a checkpoint."""
    return run_of(checkpoint) / "export"


def _require_empty(path: Path) -> Path:
    if path.exists() and (not path.is_dir() or any(inner.name != LOCK for inner in path.iterdir())):
        is_run = (path / "config.yaml").is_file()
        resuming = f", or resume this run: {command_line('train', '--resume', path)}" if is_run else ""
        raise MindlocError(f"{path} is not empty; give a new run directory{resuming}")
    return path


def _make_new_directory(parent: Path) -> Path:
    try:
        return dated_directory(parent)
    except OSError as error:
        raise MindlocError(f"can't make a run directory in {parent}: {error.strerror}; set run.work_dir") from None


def code_record() -> dict[str, Any]:
    """Versions of code and packages, git revision (None outside a clone), command line."""
    return {
        "version": 1,
        "mindloc": mindloc.__version__,
        "revision": git_revision(),
        "uncommitted_changes": bool(uncommitted_changes()),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {**dict.fromkeys(_PACKAGES), **installed_versions(*_PACKAGES)},
        "command": this_command_line(),
    }


def git_revision() -> str | None:
    """The Git commit of the package's source; None if it is not in a clone or git is missing."""
    return _git("rev-parse", "HEAD")


def uncommitted_changes() -> str | None:
    """Output of ``git diff HEAD``, cut to ``MOST_DIFF_BYTES``; empty without changes, None without git or a clone."""
    diff = _git("diff", "HEAD")
    if not diff or len(diff) <= MOST_DIFF_BYTES:
        return diff and f"{diff}\n"
    return (
        f"{diff[:MOST_DIFF_BYTES]}\n\n(the first {MOST_DIFF_BYTES} of {len(diff)} characters; the rest is left out)\n"
    )


def _git(*arguments: str) -> str | None:
    """Output of git in the directory of the source; None if git fails or the source is not under version control."""
    git = ["git", "-C", str(Path(mindloc.__file__).resolve().parent)]
    options: dict[str, Any] = {"capture_output": True, "text": True, "errors": "replace", "timeout": 10, "check": True}
    try:
        # a virtual environment inside the clone of another project would give that project's revision
        subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], **options)
        return subprocess.run([*git, *arguments], **options).stdout.rstrip("\n")
    except (OSError, subprocess.SubprocessError):  # no git or no clone: not an error
        return None
