"""How far a run is: the one record that all callbacks share and every checkpoint stores."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from mindloc.errors import CheckpointError


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
