"""Save checkpoints (best, last, at intervals; only the newest are kept) and load one into a training step.

Order: weights, link to the best weights, state (which completes the checkpoint), then old files are removed. After a
kill in between, the previous checkpoint is complete, and the resumed run writes the same files again.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor
from mindspore.train import Callback, RunContext

from mindloc.config.sections import TrainConfig
from mindloc.errors import CheckpointError
from mindloc.runtime.checkpoint import (
    BEST_WEIGHTS,
    END_WEIGHTS,
    STATE_SUFFIX,
    WEIGHTS_SUFFIX,
    State,
    Weights,
    complete_checkpoints,
    save_state,
    save_weights,
    state_path,
)
from mindloc.runtime.files import atomic_link
from mindloc.runtime.process import StopRequest, fault_point
from mindloc.training.callbacks import SCORE, ReportCallback
from mindloc.training.neighbors import NeighborSource
from mindloc.training.reporting import Reporter
from mindloc.training.resume import Progress
from mindloc.training.step import TrainStep


class CheckpointCallback(Callback):
    """Saves a checkpoint at intervals of steps and epochs, after the last epoch, and at a new best score.

    Args:
        directory: checkpoints/ of the run.
        weights_facts: stored with the weights: resolved config as plain values, code version.
        state_facts: stored with the training state: seed, schedule, number of ranks.
        report: flushed before saving, so that the counters include all steps.
        neighbors: source of hard negatives; None: there are none.
    """

    def __init__(
        self,
        directory: Path,
        step: TrainStep,
        config: TrainConfig,
        progress: Progress,
        reporter: Reporter,
        report: ReportCallback,
        weights_facts: dict[str, Any],
        state_facts: dict[str, Any],
        neighbors: NeighborSource | None = None,
    ):
        super().__init__()
        self.directory, self.step, self.config, self.progress = directory, step, config, progress
        self.reporter, self.report, self.neighbors = reporter, report, neighbors
        self.weights_facts, self.state_facts = weights_facts, state_facts
        self._is_due = False  # a save by steps is due at the end of an epoch, after the evaluation
        self._saved_step = progress.step
        self.stop = StopRequest("stopping after this step, with a checkpoint; once more: at once", self.has_unsaved)

    def on_train_step_end(self, run_context: RunContext) -> None:
        if self.stop.is_made:
            run_context.request_stop()
        every = self.config.checkpoint_every_steps
        if every and self.progress.step % every == 0:
            self._is_due = self.progress.step_in_epoch == run_context.original_args().batch_num
            if not self._is_due:
                self.save(f"weights_e{self.progress.epoch}_s{self.progress.step}")

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        if self.progress.inside_epoch:
            return
        epoch, every = self.progress.epoch, self.config.checkpoint_every_epochs
        metrics = run_context.original_args().get("eval_results")
        score = metrics.get(SCORE) if metrics else None
        is_best = self._note_score(score)
        if (every and epoch % every == 0) or is_best or self._is_due or epoch == self.config.epochs:
            name = f"weights_e{epoch}_s{self.progress.step}" if score is None else f"weights_e{epoch}_{score:.4f}"
            self.save(name, metrics, is_best)
        if is_best:
            best = f"{self.directory.name}/{BEST_WEIGHTS}{WEIGHTS_SUFFIX}"
            self.reporter.say(f"new best {SCORE}: {score:.4f}, saved as {best}")
        self._is_due = False

    def on_train_end(self, run_context: RunContext) -> None:
        self.save_here()  # a callback stopped MindSpore's training
        name_last_checkpoint(self.directory)

    def has_unsaved(self) -> bool:
        """Whether steps were done since the last checkpoint."""
        return self._saved_step != self.progress.step

    def save_here(self) -> None:
        """Write a checkpoint of the last completed step, unless it has one already."""
        if self.has_unsaved():
            self.save(f"weights_e{self.progress.epoch}_s{self.progress.step}")

    def save(self, name: str, metrics: Mapping[str, float] | None = None, is_best: bool = False) -> Path:
        """Write one checkpoint; older ones stay intact if the disk is full.

        Raises:
            CheckpointError: the disk is full or not writable.
        """
        self.report.flush()
        records, progress = self.reporter.sync(), self.progress
        path = self.directory / f"{name}{WEIGHTS_SUFFIX}"
        weights, state = collect_arrays(self.step)
        own_arrays, own_facts = self.neighbors.state() if self.neighbors else ({}, {})
        if is_best:
            progress.best_file = path.name
        sha256 = save_weights(
            path,
            weights,
            **self.weights_facts,
            score=metrics.get(SCORE) if metrics else None,
            epoch=progress.epoch,
            step=progress.step,
            metrics=metrics and dict(metrics),
        )
        if is_best:
            atomic_link(path, self.directory / f"{BEST_WEIGHTS}{WEIGHTS_SUFFIX}", "best", CheckpointError)
        fault_point("checkpoint.between_weights_and_state")
        counted = {"step": progress.step, "progress": progress.to_dict(), "lines": records}
        save_state(path, sha256, {**state, **own_arrays}, {**self.state_facts, **own_facts, **counted})
        fault_point("checkpoint.before_prune")
        self._prune()
        self._saved_step = progress.step
        self.report.restart_clock()
        return path

    def _note_score(self, score: float | None) -> bool:
        """Whether this epoch is the best so far; an equal score is not better."""
        progress = self.progress
        if score is None or math.isnan(score) or (progress.best_score is not None and score <= progress.best_score):
            return False
        progress.best_score, progress.best_epoch = score, progress.epoch
        return True

    def _prune(self) -> None:
        kept = complete_checkpoints(self.directory)[-self.config.keep_checkpoints :]
        keep_weights = {path.name for path in kept}
        keep_weights |= {f"{BEST_WEIGHTS}{WEIGHTS_SUFFIX}", f"{END_WEIGHTS}{WEIGHTS_SUFFIX}", self.progress.best_file}
        keep_states = {state_path(path).name for path in kept}
        # states first: weights without a state are ignored later, a state without weights would be an error
        for path in self.directory.glob(f"weights_e*{STATE_SUFFIX}"):
            if path.name not in keep_states:
                path.unlink()
        for path in self.directory.glob(f"weights_e*{WEIGHTS_SUFFIX}"):
            if path.name not in keep_weights | keep_states:
                path.unlink()


def name_last_checkpoint(directory: Path) -> None:
    """Link the last complete checkpoint as ``weights_end``; also for a run without epochs left."""
    complete = complete_checkpoints(directory)
    if complete:
        atomic_link(complete[-1], directory / f"{END_WEIGHTS}{WEIGHTS_SUFFIX}", "end", CheckpointError)


def weights_of(step: TrainStep) -> dict[str, Parameter]:
    """All parameters of the encoder by name, including frozen ones."""
    return {parameter.name: parameter for parameter in step.encoder.get_parameters()}


def state_of(step: TrainStep) -> dict[str, Parameter]:
    """Parameters of the training state by name: moments, step count, loss scale."""
    optimizer, loss_scale = step.optimizer, step.loss_scale
    parameters = [*optimizer.moment1, *optimizer.moment2, optimizer.step_count, loss_scale.scale, loss_scale.good_steps]
    return {parameter.name: parameter for parameter in parameters}


def collect_arrays(step: TrainStep) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(weights, training state) as arrays by name."""
    weights, state = weights_of(step), state_of(step)
    return tuple({name: parameter.asnumpy() for name, parameter in part.items()} for part in (weights, state))


def load_weights_into(step: TrainStep, weights: Weights) -> None:
    """Set the encoder's weights; only before the step has run for the first time.

    Raises:
        CheckpointError: the weights belong to another model.
    """
    parameters = weights_of(step)
    weights.require({name: tuple(parameter.shape) for name, parameter in parameters.items()})
    _set(parameters, weights.arrays)


def load_state_into(step: TrainStep, state: State) -> None:
    """Set moments, step count and loss scale; only before the step has run for the first time.

    Raises:
        CheckpointError: the state does not match the trainable parameters.
    """
    parameters = state_of(step)
    for name, parameter in parameters.items():
        if name not in state.arrays or state.arrays[name].shape != tuple(parameter.shape):
            raise CheckpointError(
                f"training state {state.path} has no {name} of shape {tuple(parameter.shape)}, perhaps because "
                "optimizer.freeze changed; set it as it was"
            )
    _set(parameters, state.arrays)


def _set(parameters: Mapping[str, Parameter], arrays: Mapping[str, np.ndarray]) -> None:
    for name, parameter in parameters.items():
        parameter.set_data(Tensor(arrays[name], parameter.dtype))
