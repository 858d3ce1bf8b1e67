"""How far a run is: the one record that all callbacks share and every checkpoint stores."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from mindspore.train import Callback, RunContext

from mindloc.errors import CheckpointError, DataError
from mindloc.runtime.faults import fault_point


@dataclass
class Progress:
    """Counters of a run; all of them go on when it is resumed."""

    epoch: int = 0  # finished epochs
    step_in_epoch: int = 0  # finished steps of the epoch under way
    step: int = 0  # finished steps of the run
    skipped_steps: int = 0  # steps whose gradient was not finite
    best_score: float | None = None
    best_epoch: int | None = None
    best_file: str | None = None  # name of the best weights, in checkpoints/
    epoch_sums: dict[str, float] = field(default_factory=dict)  # of the epoch under way, see metrics_callback.py

    @property
    def inside_epoch(self) -> bool:
        """True at an epoch's end only where somebody asked MindSpore to stop before the last step."""
        return self.step_in_epoch > 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Progress":
        """Inverse of ``to_dict``; ignores what a newer version added.

        Raises:
            CheckpointError: a counter is missing.
        """
        names = [item.name for item in fields(cls)]
        missing = [name for name in names if name not in values]
        if missing:
            raise CheckpointError(f"training state lacks {', '.join(missing)}; it was written by another version")
        return cls(**{name: values[name] for name in names})


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
