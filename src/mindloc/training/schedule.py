"""Learning-rate schedule as a function of progress, without MindSpore.

Progress is measured in epochs: completed epochs plus the completed fraction of the current epoch's steps. Epochs of an
exclusive sampler differ in length, so the total number of steps is unknown.
"""

import math
from dataclasses import dataclass
from typing import Any

from mindloc.config.sections import ScheduleConfig


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up from 0, then decay to ``end_lr`` at ``epochs``, or constant."""

    config: ScheduleConfig
    lr: float  # peak, at the end of the warm-up
    epochs: int

    def at(self, progress: float) -> float:
        """Learning rate at ``progress`` epochs, 0..epochs."""
        config = self.config
        if progress < config.warmup_epochs:
            return self.lr * progress / config.warmup_epochs
        if config.name == "constant":
            return self.lr
        done = (progress - config.warmup_epochs) / max(self.epochs - config.warmup_epochs, 1e-12)
        return config.end_lr + (self.lr - config.end_lr) * _DECAYS[config.name](min(done, 1.0), config.power)

    def at_step(self, epoch: int, step: int, steps: int) -> float:
        """Learning rate of the step after ``epoch`` epochs and ``step`` of this epoch's ``steps`` steps.

        The first step of a run with warm-up has a learning rate of 0, as in the public recipe.
        """
        return self.at(epoch + step / steps)

    def describe(self) -> dict[str, Any]:
        """Plain values for logs and training states."""
        return {"lr": self.lr, "epochs": self.epochs, **self.config.model_dump()}


_DECAYS = {
    "cosine": lambda done, power: 0.5 * (1.0 + math.cos(math.pi * done)),
    "polynomial": lambda done, power: (1.0 - done) ** power,
}
