"""How far a run is, where it continues, and whether the settings still allow that. Without MindSpore.

``Progress`` is the one record that all callbacks share and every checkpoint stores.
"""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mindloc.errors import CheckpointError
from mindloc.runtime.checkpoint import State, Weights, complete_checkpoints, load_state, load_weights
from mindloc.runtime.run_directory import RunDirectory


@dataclass
class Progress:
    """Counters of a run; all of them continue when it is resumed."""

    epoch: int = 0  # finished epochs
    step_in_epoch: int = 0  # finished steps of the epoch under way
    step: int = 0  # finished steps of the run
    skipped_steps: int = 0  # steps whose gradient was not finite
    best_score: float | None = None
    best_epoch: int | None = None
    best_file: str | None = None  # name of the best weights, in checkpoints/
    epoch_sums: dict[str, float] = field(default_factory=dict)  # of the epoch under way, see ReportCallback

    @property
    def inside_epoch(self) -> bool:
        """True at an epoch's end only where a callback asked MindSpore to stop before the last step."""
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


_SETTINGS_OF_THE_START = (
    "model.pretrained",
    "model.pretrained_strict",
    "model.logit_scale_init",
    "model.layer_scale_init",
)
_SETTINGS_OF_THE_ORDER = ("data.", "sampling.", "train.batch_size", "train.seed")
_SETTINGS_OF_THE_PLACE = ("data.root", "data.test_root", "data.workers")  # they change neither pairs nor their order
# nor do those of the evaluation and of how large an image is made; a new key of data counts until it is named here
_SETTINGS_BESIDE_THE_ORDER = (
    *_SETTINGS_OF_THE_PLACE,
    *(f"data.{key}" for key in ("test_pairs", "test_map_px", "test_m_per_px", "test_mode")),
    *("data.query_size_px", "data.reference_size_px"),
)
_FREE_SETTINGS = ("run.", "eval.")


@dataclass(frozen=True)
class ResumePoint:
    """The newest complete checkpoint of a run."""

    weights: Weights
    state: State
    progress: Progress


def find_resume_point(run: RunDirectory) -> ResumePoint | None:
    """The newest complete checkpoint; None when the run was stopped before its first.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        complete = complete_checkpoints(run.checkpoints)
        if not complete:
            return None
        weights = load_weights(complete[-1])
        state = load_state(weights)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {older_checkpoint(run.checkpoints)}") from None
    return ResumePoint(weights, state, Progress.from_dict(state.facts.get("progress", {})))


def older_checkpoint(directory: Path) -> str:
    """What to do about a checkpoint in ``directory`` that can't be used, for the end of a message."""
    return f"to go on from the checkpoint before it, delete its two files in {directory}"


def check_begin_epoch(point: ResumePoint | None, begin_epoch: int | None) -> None:
    """Refuse a checkpoint of another epoch than the caller thinks.

    Raises:
        CheckpointError: the training would start after another number of epochs.
    """
    done = point.progress.epoch if point else 0
    if begin_epoch in (None, done):
        return
    where = f"{point.weights.path} stands after epoch {done}" if point else "no run is resumed: it begins with epoch 0"
    raise CheckpointError(f"--begin_epoch is {begin_epoch}, but {where}; leave it out, or give another checkpoint")


def check_settings(point: ResumePoint, config: dict[str, Any]) -> list[str]:
    """Compare the settings of a checkpoint with those that it is to continue under.

    Returns:
        One line per change that alters the training, for the log.

    Raises:
        CheckpointError: another model; fewer epochs than are done; another order of the data while the checkpoint
            is inside an epoch.
    """
    changes = _changes(_flat(point.weights.config), _flat(config))
    if config["train"]["epochs"] < point.progress.epoch:
        raise CheckpointError(
            f"train.epochs is {config['train']['epochs']}, but {point.weights.path} stands after epoch "
            f"{point.progress.epoch}; ask for as many or more, or begin a new run with --checkpoint_start"
        )
    for key, (before, after) in changes.items():
        if key.startswith(("model.", "head.")) and key not in _SETTINGS_OF_THE_START:
            raise CheckpointError(
                f"checkpoint {point.weights.path} belongs to another model: {key} is {after}, its own is {before}; "
                f"set {key}={before} or begin a new run"
            )
        moves_pairs = key.startswith(_SETTINGS_OF_THE_ORDER) and key not in _SETTINGS_BESIDE_THE_ORDER
        if point.progress.step_in_epoch and moves_pairs:
            raise CheckpointError(
                f"checkpoint {point.weights.path} stands inside epoch {point.progress.epoch + 1}, whose order follows "
                f"from {key}; go on with {key}={before}"
            )
    return [
        f"{key} is now {after} (was {before})"
        for key, (before, after) in changes.items()
        if not key.startswith(_FREE_SETTINGS)
    ]


def settings_of_the_training(config: dict[str, Any]) -> dict[str, Any]:
    """``section.key`` -> value of everything that decides what a training learns, not where it runs."""
    flat = _flat(config)
    return {key: flat[key] for key in flat if not key.startswith("run.") and key not in _SETTINGS_OF_THE_PLACE}


def restated_schedule(before: dict[str, Any] | None, after: dict[str, Any], progress: Progress) -> str | None:
    """A sentence for the log when a run continues under another schedule than it was planned with."""
    if before is None or before == after:
        return None
    changed = ", ".join(f"{key} {before.get(key)} -> {after[key]}" for key in after if before.get(key) != after[key])
    return (
        f"schedule restated after {progress.epoch} epochs: {changed}; the learning rate follows the new one from here"
    )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def _changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that differ; one that either side does not know (another version wrote it) is left out."""
    return {key: (before[key], after[key]) for key in after if key in before and before[key] != after[key]}
