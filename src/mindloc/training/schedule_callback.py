"""Sets the learning rate before each step."""

from collections.abc import Callable

import mindspore as ms
from mindspore import Parameter, Tensor, ops
from mindspore.train import Callback, RunContext

from mindloc.training.resume import Progress
from mindloc.training.schedule import Schedule


class ScheduleCallback(Callback):
    """Moves ``lr``, a parameter of the step, along a schedule over the true steps of each epoch."""

    def __init__(self, schedule: Schedule, lr: Parameter, progress: Progress, steps_of: Callable[[int], int]):
        super().__init__()
        self.schedule, self.lr, self.progress, self.steps_of = schedule, lr, progress, steps_of
        self.value = 0.0  # of the current step, for logs

    def on_train_step_begin(self, run_context: RunContext) -> None:
        epoch = self.progress.epoch
        self.value = self.schedule.at_step(epoch, self.progress.step_in_epoch, self.steps_of(epoch))
        ops.assign(self.lr, Tensor(self.value, ms.float32))  # set_data would not reach a graph that has run
