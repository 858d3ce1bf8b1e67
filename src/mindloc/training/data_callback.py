"""Says what became of the pairs and pictures: what the sampler kept, and which pictures were skipped."""

from typing import Any

from mindspore.train import Callback, RunContext

from mindloc.runtime.run_folder import MetricsLog
from mindloc.training.console import Console
from mindloc.training.resume import Progress


class DataCallback(Callback):
    """The sampler's report at the first epoch and whenever it changes; new bad pictures at the end of each epoch.

    Args:
        data: anything with ``report(epoch)`` and ``bad_pictures``, path -> problem.
    """

    def __init__(self, data: Any, log: MetricsLog, console: Console, progress: Progress):
        super().__init__()
        self.data, self.log, self.console, self.progress = data, log, console, progress
        self._reported: Any = None
        self._known: set[str] = set()

    def on_train_epoch_begin(self, run_context: RunContext) -> None:
        report = self.data.report(self.progress.epoch)
        if report != self._reported:
            self.console.say(str(report))
            self._reported = report

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        bad = self.data.bad_pictures
        for path in bad.keys() - self._known:
            self._warn(bad[path])
        if bad.keys() - self._known:
            self._warn(f"skipped pictures so far: {len(bad)}; their pairs count in no loss")
        self._known = set(bad)

    def _warn(self, text: str) -> None:
        self.log.append("warning", step=self.progress.step, text=text)
        self.console.warn(text)
