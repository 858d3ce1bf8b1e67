"""Progress of a run, its resume point, and the check that its settings allow a resume. Without MindSpore.

All callbacks share one ``Progress``, and every checkpoint stores it.
"""

import json
import shlex
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mindloc.errors import CheckpointError
from mindloc.runtime.checkpoint import (
    State,
    Weights,
    complete_checkpoints,
    load_state,
    load_weights,
    new_run_from,
    state_path,
)
from mindloc.runtime.run_directory import RunDirectory


@dataclass
class Progress:
    """Counters of a run, which continue when it is resumed."""

    epoch: int = 0  # completed epochs
    step_in_epoch: int = 0  # completed steps of the current epoch
    step: int = 0  # completed steps of the run
    skipped_steps: int = 0  # steps whose gradient was not finite
    best_score: float | None = None
    best_epoch: int | None = None
    best_file: str | None = None  # file name of the best weights, in checkpoints/
    epoch_sums: dict[str, float] = field(default_factory=dict)  # of the current epoch, see ReportCallback

    @property
    def inside_epoch(self) -> bool:
        """Whether the current epoch has completed steps; at its end, only if a callback stopped the training."""
        return self.step_in_epoch > 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> "Progress":
        """Inverse of ``to_dict``; ignores unknown keys of newer versions.

        Raises:
            CheckpointError: a counter is missing or of a wrong type.
        """
        if not isinstance(values, dict):
            raise CheckpointError(f"training state has progress {str(values)[:60]!r}, expected counters by name")
        names = [item.name for item in fields(cls)]
        missing = [name for name in names if name not in values]
        if missing:
            raise CheckpointError(f"training state lacks {', '.join(missing)}; another version of mindloc wrote it")
        known = {name: values[name] for name in names}
        try:
            TypeAdapter(cls).validate_json(json.dumps(known), strict=True)
        except ValidationError as error:
            wrong = error.errors(include_url=False)[0]["loc"][0]
            raise CheckpointError(f"training state has {wrong} {str(known[wrong])[:60]!r}, of a wrong type") from None
        negative = next((name for name in _COUNTERS if known[name] < 0), None)
        if negative is not None:
            raise CheckpointError(f"training state has {negative} {known[negative]}, expected 0 or more")
        return cls(**known)


_COUNTERS = ("epoch", "step_in_epoch", "step", "skipped_steps")
_SETTINGS_OF_THE_START = (
    "model.pretrained",
    "model.pretrained_strict",
    "model.logit_scale_init",
    "model.layer_scale_init",
)
_SETTINGS_OF_THE_ORDER = ("data.", "sampling.", "train.batch_size", "train.seed")
_SETTINGS_OF_THE_PLACE = ("data.root", "data.test_root", "data.workers")  # they change neither pairs nor their order
# settings of the evaluation and image sizes do not change them either; a new key of the section data counts as a change
# until it is listed here
_SETTINGS_BESIDE_THE_ORDER = (
    *_SETTINGS_OF_THE_PLACE,
    *(f"data.{key}" for key in ("test_pairs", "test_cities", "test_map_px", "test_m_per_px", "test_mode")),
    *("data.query_size_px", "data.reference_size_px"),
)
_FREE_SETTINGS = ("run.", "eval.")


@dataclass(frozen=True)
class ResumePoint:
    """The newest complete checkpoint of a run."""

    weights: Weights
    state: State
    progress: Progress
    records: int = 0  # lines of metrics.jsonl when it was saved


def find_resume_point(run: RunDirectory) -> ResumePoint | None:
    """The newest complete checkpoint of a run; None if the run was stopped before its first checkpoint.

    Raises:
        CheckpointError: the checkpoint is damaged.
    """
    complete: list[Path] = []
    try:
        complete = complete_checkpoints(run.checkpoints)
        if not complete:
            return None
        weights = load_weights(complete[-1])
        state = load_state(weights)
        progress, records = Progress.from_dict(state.facts.get("progress", {})), state.facts.get("lines", 0)
        if not isinstance(records, int) or records < 0:
            raise CheckpointError(f"training state {state.path} has lines {str(records)[:60]!r}, expected a number")
    except CheckpointError as error:
        if complete and not state_path(complete[-1]).exists():
            return find_resume_point(run)  # a training process that writes newer ones has removed it
        raise CheckpointError(f"{error}; {older_checkpoint(run.checkpoints)}") from None
    return ResumePoint(weights, state, progress, records)


def older_checkpoint(directory: Path) -> str:
    """Way out for a checkpoint in ``directory`` that can't be used, as the end of a message."""
    return f"to continue from the checkpoint before it, delete its two files in {directory}"


def check_begin_epoch(point: ResumePoint | None, begin_epoch: int | None) -> None:
    """Check that the checkpoint was saved after the number of epochs that the caller expects.

    Raises:
        CheckpointError: it was saved after another number of epochs.
    """
    done = point.progress.epoch if point else 0
    if begin_epoch in (None, done):
        return
    where = f"{point.weights.path} was saved after epoch {done}" if point else "a new run starts with epoch 0"
    raise CheckpointError(f"--begin_epoch is {begin_epoch}, but {where}; leave it out, or give another checkpoint")


def check_data(point: ResumePoint, data_checksum: str) -> list[str]:
    """Compare the training pairs of a checkpoint with the current ones.

    Returns:
        One line for the log if they changed between two epochs, else none.

    Raises:
        CheckpointError: they changed inside an epoch, whose remaining steps depend on them.
    """
    if point.state.facts.get("data_checksum") == data_checksum:
        return []
    if point.progress.step_in_epoch:
        raise CheckpointError(
            f"checkpoint {point.weights.path} was saved inside epoch {point.progress.epoch + 1}, and the training "
            "pairs have changed since; restore them, or {new_run_from(point.weights.path)}"
        )
    return ["the training pairs have changed since the checkpoint"]


def check_settings(point: ResumePoint, config: dict[str, Any]) -> list[str]:
    """Compare the settings of a checkpoint with those of the resumed run.

    Returns:
        For the log, one line per change that affects the training.

    Raises:
        CheckpointError: the model differs, fewer epochs are set than are completed, or the order of the data inside an
            epoch differs.
    """
    changes = _changes(_flat(point.weights.config), _flat(config))
    if config["train"]["epochs"] < point.progress.epoch:
        raise CheckpointError(
            f"train.epochs is {config['train']['epochs']}, but {point.weights.path} was saved after epoch "
            f"{point.progress.epoch}; set that number or more, or {new_run_from(point.weights.path)}"
        )
    for key, (before, after) in changes.items():
        if key.startswith(("model.", "head.")) and key not in _SETTINGS_OF_THE_START:
            raise CheckpointError(
                f"checkpoint {point.weights.path} belongs to another model: {key} is {after}, its own is {before}; "
                f"resume with {_setting(key, before)}, or start a new run"
            )
        moves_pairs = key.startswith(_SETTINGS_OF_THE_ORDER) and key not in _SETTINGS_BESIDE_THE_ORDER
        if point.progress.step_in_epoch and moves_pairs:
            raise CheckpointError(
                f"checkpoint {point.weights.path} was saved inside epoch {point.progress.epoch + 1}, whose order "
                f"depends on {key}; resume with {_setting(key, before)}"
            )
    return [
        f"{key} is now {after} (was {before})"
        for key, (before, after) in changes.items()
        if not key.startswith(_FREE_SETTINGS)
    ]


def _setting(key: str, value: Any) -> str:
    """The words that set a key to this value, for a shell."""
    return shlex.join(["--set", f"{key}={json.dumps(value, ensure_ascii=False)}"])  # JSON is YAML


def settings_of_the_training(config: dict[str, Any]) -> dict[str, Any]:
    """``section.key`` -> value of all settings that affect the trained weights, without paths and devices."""
    flat = _flat(config)
    return {key: flat[key] for key in flat if not key.startswith("run.") and key not in _SETTINGS_OF_THE_PLACE}


def restated_schedule(before: dict[str, Any] | None, after: dict[str, Any], progress: Progress) -> str | None:
    """A line for the log if a run resumes with a different schedule; None if the schedule is the same."""
    if before is None or before == after:
        return None
    changed = ", ".join(f"{key} {before.get(key)} -> {after[key]}" for key in after if before.get(key) != after[key])
    return f"schedule changed after {progress.epoch} epochs: {changed}; the learning rate follows the new one from here"


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def _changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings that differ, without those that only one of the two has, as versions of mindloc may differ."""
    return {key: (before[key], after[key]) for key in after if key in before and before[key] != after[key]}
