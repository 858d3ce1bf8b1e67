"""Saves checkpoints: best and last, every few epochs or steps, the newest ones kept.

Order of writing: weights, the name of the best, state (which completes the checkpoint), then old files go. A kill in
between leaves the previous checkpoint complete, and what the resumed run writes again is the same.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mindspore.train import Callback, RunContext

from mindloc.errors import CheckpointError
from mindloc.runtime.checkpoint import (
    BEST_WEIGHTS,
    END_WEIGHTS,
    STATE_SUFFIX,
    WEIGHTS_SUFFIX,
    complete_checkpoints,
    save_state,
    save_weights,
    state_path,
)
from mindloc.runtime.files import atomic_link
from mindloc.runtime.process import fault_point
from mindloc.runtime.run_folder import MetricsLog
from mindloc.training.eval_callback import SCORE, EvalCallback
from mindloc.training.metrics_callback import MetricsCallback
from mindloc.training.resume import Progress


class CheckpointCallback(Callback):
    """Last but for none in the list of callbacks: it stores what the others counted.

    Args:
        folder: checkpoints/ of the run.
        collect: () -> (encoder's arrays by name, arrays of the training state by name, and what the state says besides
            progress: seeds, schedule, world size).
        config: the run's config as plain values; the weights carry it.
        code: revision and version, for the weights.
        evaluation: tells the score of the epoch; None without evaluation.
        every_epochs, every_steps: 0 means not by that count. The last epoch and a new best are always saved.
        keep: newest complete checkpoints that stay.
    """

    def __init__(
        self,
        folder: Path,
        collect: Callable[[], tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray], dict[str, Any]]],
        config: dict[str, Any],
        code: dict[str, Any],
        progress: Progress,
        log: MetricsLog,
        metrics: MetricsCallback,
        evaluation: EvalCallback | None,
        epochs: int,
        every_epochs: int = 1,
        every_steps: int = 0,
        keep: int = 3,
    ):
        super().__init__()
        self.folder, self.collect, self.config, self.code = folder, collect, config, code
        self.progress, self.log, self.metrics, self.evaluation = progress, log, metrics, evaluation
        self.epochs, self.every_epochs, self.every_steps, self.keep = epochs, every_epochs, every_steps, keep
        self._due = False  # a save by steps that fell on the end of an epoch, where the evaluation comes first
        self._saved_step = progress.step

    def on_train_step_end(self, run_context: RunContext) -> None:
        if self.every_steps and self.progress.step % self.every_steps == 0:
            self._due = self.progress.step_in_epoch == run_context.original_args().batch_num
            if not self._due:
                self.save(f"weights_e{self.progress.epoch}_s{self.progress.step}")

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        if self.progress.inside_epoch:
            return
        epoch, metrics = self.progress.epoch, self.evaluation.metrics if self.evaluation else None
        score = metrics.get(SCORE) if metrics else None
        best = self._note_score(score)
        regular = self.every_epochs and epoch % self.every_epochs == 0
        if regular or best or self._due or epoch == self.epochs:
            name = f"weights_e{epoch}_s{self.progress.step}" if score is None else f"weights_e{epoch}_{score:.4f}"
            self.save(name, metrics, best)
        self._due = False

    def on_train_end(self, run_context: RunContext) -> None:
        if self._saved_step != self.progress.step:  # somebody asked MindSpore to stop
            self.save(f"weights_e{self.progress.epoch}_s{self.progress.step}")
        self.finish()

    def finish(self) -> None:
        """Name the last checkpoint ``weights_end``; also called for a run that had nothing left to do."""
        complete = complete_checkpoints(self.folder)
        if complete:
            atomic_link(complete[-1], self.folder / f"{END_WEIGHTS}{WEIGHTS_SUFFIX}", "end", CheckpointError)

    def save(self, name: str, metrics: Mapping[str, float] | None = None, best: bool = False) -> Path:
        """Write one checkpoint; a full disk leaves the older ones as they are.

        Raises:
            CheckpointError: the disk is full or refuses.
        """
        self.metrics.flush()
        self.log.sync()
        path = self.folder / f"{name}{WEIGHTS_SUFFIX}"
        weights, state, own_facts = self.collect()
        progress = self.progress
        if best:
            progress.best_file = path.name
        facts = {"epoch": progress.epoch, "step": progress.step, "metrics": metrics and dict(metrics)}
        score = metrics.get(SCORE) if metrics else None
        sha256 = save_weights(path, weights, self.config, score=score, code=self.code, **facts)
        if best:
            atomic_link(path, self.folder / f"{BEST_WEIGHTS}{WEIGHTS_SUFFIX}", "best", CheckpointError)
        fault_point("checkpoint.between_weights_and_state")
        state_facts = {**own_facts, "step": progress.step, "progress": progress.to_dict(), "lines": self.log.lines}
        save_state(path, sha256, state, state_facts)
        fault_point("checkpoint.before_prune")
        self._prune()
        self._saved_step = progress.step
        self.metrics.restart_clock()
        return path

    def _note_score(self, score: float | None) -> bool:
        """Whether this is the best epoch so far; a later epoch must be better, not equal."""
        progress = self.progress
        if score is None or math.isnan(score) or (progress.best_score is not None and score <= progress.best_score):
            return False
        progress.best_score, progress.best_epoch = score, progress.epoch
        return True

    def _prune(self) -> None:
        kept = complete_checkpoints(self.folder)[-self.keep :]
        keep_weights = {path.name for path in kept}
        keep_weights |= {f"{BEST_WEIGHTS}{WEIGHTS_SUFFIX}", f"{END_WEIGHTS}{WEIGHTS_SUFFIX}", self.progress.best_file}
        keep_states = {state_path(path).name for path in kept}
        # states first: weights without a state are an ordinary leftover, the reverse would be damage
        for path in self.folder.glob(f"weights_e*{STATE_SUFFIX}"):
            if path.name not in keep_states:
                path.unlink()
        for path in self.folder.glob(f"weights_e*{WEIGHTS_SUFFIX}"):
            if path.name not in keep_weights | keep_states:
                path.unlink()
