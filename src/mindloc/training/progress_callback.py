"""Counts steps and epochs, for our callbacks and for MindSpore's own."""

from collections.abc import Callable

from mindspore.train import Callback, RunContext

from mindloc.errors import DataError
from mindloc.runtime.process import fault_point
from mindloc.training.resume import Progress


class ProgressCallback(Callback):
    """First in the list: counts, and tells MindSpore's own callbacks the true numbers.

    MindSpore takes the number of steps of the first epoch for that of all, and counts a resumed run from 0.
    """

    def __init__(self, progress: Progress, steps_of: Callable[[int], int]):
        """``steps_of``: epoch (from 0) -> its number of steps."""
        super().__init__()
        self.progress, self.steps_of = progress, steps_of

    def on_train_begin(self, run_context: RunContext) -> None:
        run_context.original_args().cur_step_num = self.progress.step

    def on_train_epoch_begin(self, run_context: RunContext) -> None:
        run_context.original_args().batch_num = self.steps_of(self.progress.epoch)

    def on_train_step_end(self, run_context: RunContext) -> None:
        self.progress.step += 1
        self.progress.step_in_epoch += 1
        if self.progress.step_in_epoch == max(1, run_context.original_args().batch_num // 2):
            fault_point("epoch.mid")

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        done, steps = self.progress.step_in_epoch, run_context.original_args().batch_num
        if done < steps and run_context.get_stop_requested():
            return
        if done != steps:
            raise DataError(f"epoch {self.progress.epoch + 1} gave {done} steps, its sampler promised {steps}")
        self.progress.epoch += 1
        self.progress.step_in_epoch = 0
