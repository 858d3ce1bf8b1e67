"""The directory of one training run: everything needed to judge it, repeat it and resume it.

```
work_dir/{name}/{MMDDhhmmss}/
  config.yaml     the resolved settings
  code.json       which code, which packages, which command
  log.txt         what the console said, with the time
  metrics.jsonl   numbers per step, one JSON object per line
  checkpoints/    see checkpoint.py
  reports/        evaluations
  export/         the encoder as files for devices
  neighbors/      descriptors while neighbors are searched by them, see training/neighbors.py
```

Every line of metrics.jsonl has ``version`` and ``kind``:

- ``step``: one optimizer step - epoch (from 1), step (from 1, over the whole run), loss, one entry per loss component
  under ``components``, lr, gradient_norm (before clipping), loss_scale, finite (False: the update was skipped),
  skipped_steps (so far), step_s, images_per_s;
- ``epoch``: means over the epoch, its true number of steps, epoch_s, compile_s (the part of epoch_s that compiling
  took; it is in no step_s, and that of evaluations and searches in no epoch line);
- ``evaluation``: tag, epoch, the metrics, evaluation_s;
- ``neighbors``: found after so many epochs, for hard negatives, neighbors_s (in no epoch_s);
- ``warning``: text.

``time`` is seconds since 1970. Keys of clock readings are listed in ``CLOCK_KEYS``; all others are the same bits in a
run that was killed and resumed and in one that was not. Numbers that are not finite are stored as null.
"""

import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mindloc
from mindloc.errors import CheckpointError, MindlocError
from mindloc.runtime.files import atomic_write_text, dated_directory, remove_temporaries
from mindloc.runtime.packages import installed_versions
from mindloc.runtime.process import fault_point

METRICS_VERSION = 1
CLOCK_KEYS = ("time", "step_s", "epoch_s", "evaluation_s", "neighbors_s", "images_per_s", "compile_s")
_PACKAGES = ("mindspore", "numpy", "opencv-python-headless", "pillow", "pyyaml", "faiss-cpu", "safetensors", "tqdm")


class RunDirectory:
    """Paths of a run and its text log; make one with ``create`` or ``open``."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config_path = self.path / "config.yaml"
        self.code_path = self.path / "code.json"
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
        command: list[str] | None = None,
        path: str | Path | None = None,
    ) -> "RunDirectory":
        """A new directory with the config and the record of the code in it.

        Args:
            path: the directory itself, absent or empty; None makes ``work_dir/name/MMDDhhmmss``.

        Raises:
            MindlocError: the directory can't be made or written, or ``path`` contains something.
        """
        run = cls(_make_new_directory(Path(work_dir) / name) if path is None else _require_empty(Path(path)))
        run.write_config(config_yaml)
        atomic_write_text(run.code_path, json.dumps(code_record(command), indent=2) + "\n")
        return run

    @classmethod
    def open(cls, path: str | Path) -> "RunDirectory":
        """The directory of an earlier run, as it is.

        Raises:
            MindlocError: it is not a run directory.
        """
        run = cls(path)
        if not run.config_path.is_file():
            raise MindlocError(f"{path} is not a run directory (it has no config.yaml); give work_dir/NAME/MMDDhhmmss")
        return run

    def remove_leftovers(self) -> None:
        """Remove what a killed writer left half-done; only for the one process that writes here now."""
        for directory in (self.path, self.checkpoints):
            remove_temporaries(directory)
        shutil.rmtree(self.neighbors, ignore_errors=True)

    def write_config(self, config_yaml: str) -> None:
        """Store the resolved config, e.g. again when a run continues with other settings.

        Raises:
            MindlocError: the disk is full or refuses.
        """
        self._make_subdirectories()
        atomic_write_text(self.config_path, config_yaml)

    def log(self, text: str) -> None:
        """Append ``text`` to log.txt, each line with date and time.

        Raises:
            MindlocError: the disk is full or refuses.
        """
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        try:
            with open(self.log_path, "a", encoding="utf-8") as file:
                file.writelines(f"{stamp} {line}\n" for line in text.splitlines())
        except OSError as error:
            raise MindlocError(f"can't append to {self.log_path}: {error.strerror}; free some space") from None

    def _make_subdirectories(self) -> None:
        try:
            for directory in (self.checkpoints, self.reports):
                directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MindlocError(f"can't make {directory}: {error.strerror}; set run.work_dir to another place") from None


def run_of(checkpoint: Path) -> Path:
    """The run that a checkpoint is in, or the directory of a lone file."""
    directory = checkpoint.parent
    return directory.parent if directory.name == "checkpoints" else directory


def export_directory(checkpoint: Path) -> Path:
    """Where the exported files of a checkpoint belong."""
    return run_of(checkpoint) / "export"


def _require_empty(path: Path) -> Path:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise MindlocError(f"{path} is not empty; give a new run directory, or continue this one by --resume {path}")
    return path


def _make_new_directory(parent: Path) -> Path:
    try:
        return dated_directory(parent)
    except OSError as error:
        raise MindlocError(f"can't make a run directory in {parent}: {error.strerror}; set run.work_dir") from None


def code_record(command: list[str] | None = None) -> dict[str, Any]:
    """Which code and packages are running: versions, git revision (None outside a clone), command line."""
    return {
        "version": 1,
        "mindloc": mindloc.__version__,
        "revision": git_revision(),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {**dict.fromkeys(_PACKAGES), **installed_versions(*_PACKAGES)},
        "command": sys.argv if command is None else command,
    }


def git_revision() -> str | None:
    """Commit that the package's own source is checked out at; None when it is not in a clone or git is missing."""
    return _git("rev-parse", "HEAD")


def _git(*arguments: str) -> str | None:
    source = Path(mindloc.__file__).resolve().parent
    try:
        answer = subprocess.run(
            ["git", "-C", str(source), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):  # no git, no clone: a fact to record, not a fault
        return None
    return answer.stdout.strip()


class MetricsLog:
    """Appends lines; each is handed to the system at once, so that a kill loses at most the line being written."""

    def __init__(self, path: str | Path, keep_lines: int = 0):
        """Open the log and drop everything after its first ``keep_lines`` lines.

        Raises:
            CheckpointError: the file has fewer lines than the checkpoint says.
        """
        self.path = Path(path)
        _truncate(self.path, keep_lines)
        self.lines = keep_lines
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - open as long as the run

    def append(self, kind: str, **values: Any) -> None:
        """Add one line.

        Raises:
            MindlocError: the disk is full or refuses.
        """
        record = {"version": METRICS_VERSION, "kind": kind, "time": time.time(), **values}
        line = (json.dumps(_json_value(record), allow_nan=False) + "\n").encode("utf-8")
        half = len(line) // 2
        fault_point("metrics.before_append")
        try:
            self._write(line[:half])
            fault_point("metrics.mid_append")  # a torn line is what a real kill can leave behind
            self._write(line[half:])
        except OSError as error:
            raise self._refusal(error) from None
        self.lines += 1

    def sync(self) -> None:
        """Bring every line to the disk itself, before a checkpoint counts on it.

        Raises:
            MindlocError: the disk is full or refuses.
        """
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._refusal(error) from None

    def close(self) -> None:
        self._file.close()

    def _refusal(self, error: OSError) -> MindlocError:
        return MindlocError(f"can't append to {self.path}: {error.strerror}; free some space and resume")

    def _write(self, data: bytes) -> None:
        while data:
            data = data[self._file.write(data) :]


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """All records of a log; a torn last line, as a kill leaves it, is left out.

    Raises:
        MindlocError: the file is missing, or a complete line is not JSON or of a newer version.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise MindlocError(f"metrics log {path} can't be read: {error.strerror}; is this a run directory?") from None
    return [_parse(line, path, number) for number, line in enumerate(lines, start=1)]


def _parse(line: bytes, path: str | Path, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
        version = record["version"]
    except (ValueError, KeyError, TypeError):
        raise MindlocError(f"{path} line {number} is not a metrics record; delete the line to read the rest") from None
    if version > METRICS_VERSION:
        raise MindlocError(
            f"{path} line {number} has version {version}, this mindloc reads {METRICS_VERSION}; update it"
        )
    return record


def _truncate(path: Path, keep_lines: int) -> None:
    if not path.exists() and keep_lines == 0:
        return
    try:
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        complete = [line for line in lines if line.endswith(b"\n")]
        if len(complete) < keep_lines:
            raise CheckpointError(
                f"{path} has {len(complete)} lines, the checkpoint was written after {keep_lines}; "
                "restore the file or start a new run with --checkpoint_start"
            )
        with open(path, "r+b") as file:
            file.truncate(sum(map(len, complete[:keep_lines])))
    except OSError as error:
        raise MindlocError(f"can't open {path}: {error.strerror}; check the run directory") from None


def _json_value(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(item) for item in value]
    return value
