"""Compiles the step before it is first run, so that compiling has a time of its own, and says what starting took."""

import time

from mindspore.train import Callback, RunContext

from mindloc.runtime.compilation import compiled_s, compiling
from mindloc.runtime.process import process_age_s
from mindloc.training.console import Console
from mindloc.training.metrics_callback import MetricsCallback
from mindloc.training.step import TrainStep


class CompileCallback(Callback):
    """Compiles at the first step, on its own batch.

    Args:
        console, metrics: None on a rank that writes nothing; the clock of ``metrics`` leaves compiling out.
        preparation: what this process did before the training began, in words.
    """

    def __init__(
        self,
        step: TrainStep,
        console: Console | None,
        metrics: MetricsCallback | None,
        preparation: str = "imports and preparation",
    ):
        super().__init__()
        self.preparation = preparation
        self.step, self.console, self.metrics = step, console, metrics
        self._began_s = self._asked_s = self._compiled_s = 0.0  # age of the process, age of the process, seconds
        self._started = time.perf_counter()
        self._stage = "waiting"  # then "first step", then "running"

    def on_train_begin(self, run_context: RunContext) -> None:
        self._began_s, self._started = process_age_s(), time.perf_counter()

    def on_train_step_begin(self, run_context: RunContext) -> None:
        if self._stage != "waiting":
            return
        self._asked_s, self._stage = process_age_s(), "first step"
        batch = run_context.original_args().train_dataset_element
        before = compiled_s()
        with compiling():
            self.step.compile(*batch)
        self._compiled_s = compiled_s() - before
        if self.metrics is not None:
            self.metrics.leave_out(self._compiled_s)
            self.console.restart_bar()

    def on_train_step_end(self, run_context: RunContext) -> None:
        if self._stage != "first step":
            return
        self._stage = "running"
        if self.console is None:
            return
        run_context.original_args().net_outputs[0].asnumpy()  # waits for the device
        age = process_age_s()
        before, first = self._asked_s - self._began_s, age - self._asked_s - self._compiled_s
        self.console.say(
            f"first step done {age:.1f} s after the start: {self._began_s:.1f} s {self.preparation}, "
            f"{before:.1f} s evaluation and first batch, {self._compiled_s:.1f} s compiling, "
            f"{first:.1f} s the step"
        )

    def on_train_end(self, run_context: RunContext) -> None:
        if self.console is not None:
            self.console.say(compile_share(compiled_s(), time.perf_counter() - self._started + self._began_s))


def compile_share(compiled: float, whole: float) -> str:
    """One line; seconds of compiling, seconds since the process was started."""
    return f"compiling took {compiled:.1f} s of {whole:.1f} s, {100 * compiled / whole:.0f} %"
