"""Reports of a run: console and log lines, records of metrics.jsonl, and a progress bar. Without MindSpore.

Every line of metrics.jsonl has ``version`` and ``kind``:

- ``step``: one optimizer step: epoch (from 1), step (from 1, over the whole run), loss, one entry per loss component
  under ``components``, lr, gradient_norm (before clipping), loss_scale, finite (False: the update was skipped),
  skipped_steps (so far), step_s, images_per_s;
- ``epoch``: means over the epoch, its number of steps, epoch_s, compile_s (compile time within epoch_s; no step_s
  includes it, and no epoch line includes that of evaluations and searches);
- ``evaluation``: tag, epoch, the metrics, evaluation_s;
- ``neighbors``: a search for hard negatives, number of epochs before it, neighbors_s (not in any epoch_s);
- ``warning``: text.

``time`` is seconds since 1970. ``CLOCK_KEYS`` lists the keys that depend on a clock; all others are bit-identical in a
run that was killed and resumed and in one that was not. Numbers that are not finite are stored as null.
"""

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mindloc.errors import CheckpointError, MindlocError
from mindloc.reading import read_bytes
from mindloc.runtime.console import COLUMNS, progress_bar, wrapped
from mindloc.runtime.process import fault_point
from mindloc.runtime.run_directory import RunDirectory

METRICS_VERSION = 1
CLOCK_KEYS = ("time", "step_s", "epoch_s", "evaluation_s", "neighbors_s", "images_per_s", "compile_s")


class Reporter:
    """Writes lines to the console (above the progress bar) and log.txt, and records to metrics.jsonl; close it.

    Args:
        run: None on ranks other than 0, which print their lines and drop their records.
        keep_records: number of records in metrics.jsonl to keep; a resumed run keeps those before its checkpoint.

    Raises:
        CheckpointError: metrics.jsonl has fewer records.
    """

    def __init__(self, run: RunDirectory | None, keep_records: int = 0):
        self._run = run
        self._metrics = MetricsLog(run.metrics_path, keep_records) if run else None
        self._bar: tqdm | None = None

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, *error: object) -> None:
        self.end_bar()  # also after an error, so that its message starts on a new line
        if self._metrics:
            self._metrics.close()

    def say(self, text: str) -> None:
        """Print a text, wrapped if it is long, and add it to the log as one line."""
        tqdm.write(in_lines(text), file=sys.stdout)
        sys.stdout.flush()
        if self._run:
            self._run.log(text.replace("\n  ", " "))  # a line that was broken for the console is one in the log

    def warn(self, text: str, step: int) -> None:
        """Print and record a warning."""
        self.record("warning", step=step, text=text)
        self.say(f"warning: {text}")

    def record(self, kind: str, **values: Any) -> None:
        """Add one record; the kinds are described at the top of this module."""
        if self._metrics:
            self._metrics.append(kind, **values)

    def sync(self) -> int:
        """Flush all records to disk; returns their number."""
        if self._metrics is None:
            return 0
        self._metrics.sync()
        return self._metrics.lines

    def start_bar(self, title: str, steps: int, done: int) -> None:
        """Show a bar from ``done`` to ``steps``."""
        self._bar = progress_bar(total=steps, initial=done, desc=title, unit="step")

    def advance_bar(self, leave_out_time: bool = False) -> None:
        """Advance by one step; with ``leave_out_time`` the time since the last step does not count in the rate."""
        if self._bar is not None:
            if leave_out_time:
                self._bar.unpause()
            self._bar.update()

    def end_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def in_lines(text: str) -> str:
    """The text in lines of at most ``COLUMNS``, broken at double spaces, or between words if there are none."""
    first, *others = text.split("  ")
    if not others:
        return wrapped(text, indent="  ")
    lines = [first]
    for item in others:
        if len(lines[-1]) + 2 + len(item) <= COLUMNS:
            lines[-1] += f"  {item}"
        else:
            lines.append(f"  {item}")
    return "\n".join(lines)


def describe_step(place: str, record: dict[str, Any], left_s: float) -> str:
    """The line about a step for console and log.

    Args:
        record: the record of kind ``step``, see the top of this module.
        left_s: seconds to the end of the training.
    """
    items = [place, f"loss {record['loss']:.4f}", f"lr {record['lr']:.1e}", f"{duration(record['step_s'])}/step"]
    if record["skipped_steps"]:
        items.append(f"skipped {record['skipped_steps']}")
    return "  ".join([*items, f"ETA {clock_time(left_s)}"])


def clock_time(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}"


def duration(seconds: float) -> str:
    """Seconds as text, in milliseconds if below one second."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


class MetricsLog:
    """Appends lines to metrics.jsonl, unbuffered: a kill loses at most the line being written."""

    def __init__(self, path: str | Path, keep_lines: int = 0):
        """Open the log and truncate it after ``keep_lines`` lines.

        Raises:
            CheckpointError: the file has fewer lines than that.
        """
        self.path = Path(path)
        _truncate(self.path, keep_lines)
        self.lines = keep_lines
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - stays open during the run

    def append(self, kind: str, **values: Any) -> None:
        """Add one line.

        Raises:
            MindlocError: the disk is full or not writable.
        """
        record = {"version": METRICS_VERSION, "kind": kind, "time": time.time(), **values}
        line = (json.dumps(_json_value(record), allow_nan=False) + "\n").encode("utf-8")
        half = len(line) // 2
        fault_point("metrics.before_append")
        try:
            self._write(line[:half])
            fault_point("metrics.mid_append")  # a real kill can leave an incomplete line too
            self._write(line[half:])
        except OSError as error:
            raise self._refusal(error) from None
        self.lines += 1

    def sync(self) -> None:
        """Flush all lines to disk (fsync), before a checkpoint that refers to them.

        Raises:
            MindlocError: the disk is full or not writable.
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
    """All records of a log without an incomplete last line, which a kill can leave.

    Raises:
        MindlocError: the file is missing, or a complete line is not JSON or of a newer version.
    """
    lines = read_bytes(path, MindlocError, "is this a run directory?", "metrics log").split(b"\n")[:-1]
    return [_parse(line, path, number) for number, line in enumerate(lines, start=1)]


def _parse(line: bytes, path: str | Path, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
        version = int(record["version"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise MindlocError(f"{path} line {number} is not a metrics record; delete the line to read the rest") from None
    if version > METRICS_VERSION:
        raise MindlocError(
            f"{path} line {number} has version {version}, but this mindloc reads {METRICS_VERSION}; update mindloc"
        )
    return record


def require_records(path: Path, count: int) -> int:
    """Size in bytes of the first ``count`` lines of a log.

    Raises:
        CheckpointError: it has fewer, or can't be read.
    """
    lines: list[bytes] = []
    if os.path.lexists(path):
        lines = read_bytes(path, CheckpointError, "check the run directory", "metrics log").splitlines(keepends=True)
    complete = [line for line in lines if line.endswith(b"\n")]
    if len(complete) < count:
        raise CheckpointError(
            f"{path} has {len(complete)} lines, but the checkpoint was written after {count}; "
            "restore the file, or start a new run from the weights by --checkpoint_start FILE"
        )
    return sum(map(len, complete[:count]))


def _truncate(path: Path, keep_lines: int) -> None:
    size = require_records(path, keep_lines)
    if not path.exists():
        return
    try:
        with open(path, "r+b") as file:
            file.truncate(size)
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
