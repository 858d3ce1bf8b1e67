"""What a run says: lines for people, records for programs, and a progress bar on a terminal. Without MindSpore."""

import sys
from typing import Any

from tqdm import tqdm

from mindloc.runtime.run_directory import MetricsLog, RunDirectory


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
        """Add one record; see runtime/run_directory.py for the kinds."""
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
