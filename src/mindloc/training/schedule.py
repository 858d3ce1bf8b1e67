"""Learning rate as a function of progress, without MindSpore.

Progress is measured in epochs: finished epochs, plus the share of the current epoch's own steps that is done. Epochs of
an exclusive sampler differ in length, so a schedule over a total number of steps would not know where it ends.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from mindloc.errors import ConfigError


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up from 0, then a decay to ``end_lr`` at ``epochs``."""

    lr: float  # at the end of the warm-up
    epochs: int
    name: Literal["cosine", "polynomial", "constant"] = "cosine"
    warmup_epochs: float = 0.1
    end_lr: float = 0.0  # not with constant
    power: float = 1.0  # polynomial only

    def __post_init__(self):
        if self.name not in _DECAYS:
            raise ConfigError(f"schedule.name is {self.name!r}; choose from {', '.join(_DECAYS)}")

    def at(self, progress: float) -> float:
        """Learning rate at ``progress`` epochs, 0..epochs."""
        if progress < self.warmup_epochs:
            return self.lr * progress / self.warmup_epochs
        if self.name == "constant":
            return self.lr
        done = (progress - self.warmup_epochs) / max(self.epochs - self.warmup_epochs, 1e-12)
        return self.end_lr + (self.lr - self.end_lr) * _DECAYS[self.name](min(done, 1.0), self.power)

    def at_step(self, epoch: int, step: int, steps: int) -> float:
        """Learning rate of a step: ``epoch`` finished epochs, ``step`` of this epoch's ``steps`` finished before it.

        The first step of a run with warm-up has a learning rate of 0, as in the public recipe.
        """
        return self.at(epoch + step / steps)

    def describe(self) -> dict[str, Any]:
        """Plain values for logs and training states."""
        return dict(vars(self))


_DECAYS = {
    "cosine": lambda done, power: 0.5 * (1.0 + math.cos(math.pi * done)),
    "polynomial": lambda done, power: (1.0 - done) ** power,
    "constant": lambda done, power: 1.0,
}
