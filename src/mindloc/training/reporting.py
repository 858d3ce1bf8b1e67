"""What a run says: lines for people, records for programs, and a progress bar on a terminal. Without MindSpore.

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
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mindloc.errors import CheckpointError, MindlocError
from mindloc.runtime.process import fault_point
from mindloc.runtime.run_directory import RunDirectory

METRICS_VERSION = 1
CLOCK_KEYS = ("time", "step_s", "epoch_s", "evaluation_s", "neighbors_s", "images_per_s", "compile_s")


class Reporter:
    """Lines on the console, above the progress bar, and in log.txt; records in metrics.jsonl. Close it at the end.

    Args:
        run: None on a rank that writes nothing: it prints its lines and drops its records.
        keep_records: of metrics.jsonl, from its start; a resumed run keeps those that its checkpoint counted.

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
        self.end_bar()  # also after an error, so that its message has a line of its own
        if self._metrics:
            self._metrics.close()

    def say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text, file=sys.stdout)
        else:
            print(text, flush=True)
        if self._run:
            self._run.log(text)

    def warn(self, text: str, step: int) -> None:
        """Say and record it."""
        self.record("warning", step=step, text=text)
        self.say(f"warning: {text}")

    def record(self, kind: str, **values: Any) -> None:
        """Add one record; see above for the kinds."""
        if self._metrics:
            self._metrics.append(kind, **values)

    def sync(self) -> int:
        """Number of records, all of which are on the disk now."""
        if self._metrics is None:
            return 0
        self._metrics.sync()
        return self._metrics.lines

    def start_bar(self, title: str, steps: int, done: int) -> None:
        """A bar from ``done`` to ``steps``, on a terminal only."""
        if sys.stderr.isatty():
            self._bar = tqdm(total=steps, initial=done, desc=title, unit="step", leave=False)

    def advance_bar(self, leave_out_time: bool = False) -> None:
        """One step more; ``leave_out_time``: what passed since the step before does not count in the bar's rate."""
        if self._bar is not None:
            if leave_out_time:
                self._bar.unpause()
            self._bar.update()

    def end_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def clock_time(seconds: float) -> str:
    """h:mm:ss"""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}"


def duration(seconds: float) -> str:
    """In milliseconds below one second."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


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
