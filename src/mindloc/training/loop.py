"""The training loop on MindSpore's Model and callbacks, on plain values."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from mindspore.train import Callback, Model

from mindloc.data.hard_negatives import NeighborTables
from mindloc.runtime.run_folder import MetricsLog, RunFolder
from mindloc.training.checkpoint_callback import CheckpointCallback
from mindloc.training.compile_callback import CompileCallback
from mindloc.training.console import Console, ConsoleCallback
from mindloc.training.data_callback import DataCallback
from mindloc.training.eval_callback import EvalCallback, EvaluateFunction
from mindloc.training.metrics_callback import MetricsCallback
from mindloc.training.neighbors_callback import NeighborsCallback
from mindloc.training.progress_callback import ProgressCallback
from mindloc.training.resume import Progress
from mindloc.training.schedule import Schedule
from mindloc.training.schedule_callback import ScheduleCallback
from mindloc.training.state import collect_arrays
from mindloc.training.step import TrainStep


class TrainingData(Protocol):
    """Batches from one epoch and step on; ``data.pipeline.TrainData`` is one."""

    dataset: Any  # mindspore.dataset with the columns that the step takes
    bad_pictures: dict[str, str]  # path -> problem, of the pictures skipped so far

    def steps(self, epoch: int) -> int: ...

    def report(self, epoch: int) -> Any: ...

    def clear_errors(self) -> AbstractContextManager: ...


class Neighbors(Protocol):
    """What hard negatives are drawn by; ``training.neighbors.NeighborSource`` is one."""

    tables: NeighborTables

    def refresh(self, encoder: Any, epoch: int, folder: Path | None) -> None: ...

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]: ...


@dataclass(frozen=True)
class LoopSettings:
    """How often what happens; see the config section ``train``."""

    epochs: int
    batch_size: int  # pairs per step, all ranks together
    eval_every_epochs: int = 1
    zero_shot_eval: bool = True
    checkpoint_every_epochs: int = 1
    checkpoint_every_steps: int = 0
    keep_checkpoints: int = 3
    log_every_steps: int = 10


@dataclass
class Training:
    """All that a run consists of."""

    run: RunFolder | None  # None on a rank that writes nothing
    step: TrainStep
    schedule: Schedule
    settings: LoopSettings
    make_data: Callable[[int, int], TrainingData]  # (first epoch, first step in it), both from 0
    evaluate: EvaluateFunction | None
    config: dict[str, Any]  # plain; the checkpoints carry it
    facts: dict[str, Any]  # for the training state: seeds, world size
    code: dict[str, Any]  # revision and version, for the checkpoints
    progress: Progress
    metrics_lines: int = 0  # lines of metrics.jsonl to keep
    console: Console | None = None
    neighbors: Neighbors | None = None  # None: no hard negatives


def run_training(training: Training, callbacks: Sequence[Callback] = ()) -> Progress:
    """Train from where ``training.progress`` stands to the last epoch.

    Args:
        callbacks: the user's own; they run after the metrics of a step are counted and before checkpoints are written.

    Raises:
        MindlocError: a picture, the disk or a checkpoint fails.
    """
    if training.run is None:
        if training.progress.epoch < training.settings.epochs:
            finding = _finding(training, None, None)
            _run(training, finding, lambda data: _callbacks_of_other_ranks(training, data, [*finding, *callbacks]))
        return training.progress
    settings, progress = training.settings, training.progress
    console = training.console or Console(training.run.log)
    log = MetricsLog(training.run.metrics_path, training.metrics_lines)
    try:
        if progress.epoch >= settings.epochs:
            console.say(f"nothing left to train: {progress.epoch} of {settings.epochs} epochs are done")
            _checkpoint_callback(training, log, None, None).finish()
        else:
            finding = _finding(training, log, console)
            _run(training, finding, lambda data: _callbacks(training, data, log, console, [*finding, *callbacks]))
    finally:
        console.close()
        log.close()
    return progress


def _run(
    training: Training,
    finding: Sequence[NeighborsCallback],
    make_callbacks: Callable[[TrainingData], list[Callback]],
) -> None:
    progress = training.progress
    # a training that fails leaves no loader's thread waiting for an epoch that never comes
    with training.neighbors.tables.open() if training.neighbors else nullcontext():
        for callback in finding:
            callback.find()  # a loader plans its first epoch when it is built
        data = training.make_data(progress.epoch, progress.step_in_epoch)
        model = Model(training.step)
        with data.clear_errors():
            model.train(
                training.settings.epochs,
                data.dataset,
                callbacks=make_callbacks(data),
                dataset_sink_mode=False,
                initial_epoch=progress.epoch,
            )


def _callbacks_of_other_ranks(training: Training, data: TrainingData, users: Sequence[Callback]) -> list[Callback]:
    """Those that take part in the computation; the first rank does the writing."""
    progress = training.progress
    schedule = ScheduleCallback(training.schedule, training.step.lr, progress, data.steps)
    compiling = CompileCallback(training.step, None, None)
    return [
        ProgressCallback(progress, data.steps),
        schedule,
        compiling,
        *_evaluation(training, None, None),
        *users,
    ]


def _callbacks(
    training: Training, data: TrainingData, log: MetricsLog, console: Console, users: Sequence[Callback]
) -> list[Callback]:
    """In the order in which they must run.

    Counting comes first, as the others read the count; the line of an epoch before the evaluation and the search after
    it, whose time is none of the epoch's; saving last, as a checkpoint holds what the others found.
    """
    settings, progress, step = training.settings, training.progress, training.step
    schedule = ScheduleCallback(training.schedule, step.lr, progress, data.steps)
    metrics = MetricsCallback(
        log,
        progress,
        schedule,
        settings.log_every_steps,
        step.component_names,
        pictures_per_step=2 * settings.batch_size,
        expect_overflow=step.loss_scale.dynamic,
        epoch_facts=lambda epoch: {"sampling": _plain_report(data.report(epoch))},
        warn=console.warn,
    )
    lines = ConsoleCallback(console, progress, metrics, settings.epochs, settings.log_every_steps, data.steps)
    evaluation = _evaluation(training, log, console)
    preparation = f"imports{', neighbors' if training.neighbors else ''} and preparation"
    ours = [
        ProgressCallback(progress, data.steps),
        schedule,
        CompileCallback(step, console, metrics, preparation),
        metrics,
        lines,
        DataCallback(data, log, console, progress),
    ]
    saving = _checkpoint_callback(training, log, metrics, next(iter(evaluation), None))
    return [*ours, *evaluation, *users, saving]


def _finding(training: Training, log: MetricsLog | None, console: Console | None) -> list[NeighborsCallback]:
    """One callback, or none without hard negatives."""
    neighbors, step = training.neighbors, training.step
    if neighbors is None:
        return []
    refresh = partial(neighbors.refresh, folder=training.run.neighbors if training.run else None)
    whom = (neighbors.tables, refresh, step.encoder, training.progress)
    return [NeighborsCallback(*whom, training.settings.epochs, log, console)]


def _evaluation(training: Training, log: MetricsLog | None, console: Console | None) -> list[EvalCallback]:
    """One callback, or none when nothing is to be evaluated."""
    if training.evaluate is None:
        return []
    settings = training.settings
    callback = EvalCallback(
        training.evaluate,
        training.step.encoder,
        log,
        console,
        training.progress,
        epochs=settings.epochs,
        every_epochs=settings.eval_every_epochs,
        zero_shot=settings.zero_shot_eval,
    )
    return [callback]


def _checkpoint_callback(
    training: Training, log: MetricsLog, metrics: MetricsCallback | None, evaluation: EvalCallback | None
) -> CheckpointCallback:
    settings, neighbors = training.settings, training.neighbors

    def collect() -> tuple[dict, dict, dict]:
        weights, state = collect_arrays(training.step)
        arrays, facts = neighbors.state() if neighbors else ({}, {})
        own = {**training.facts, "schedule": training.schedule.describe()}
        return weights, {**state, **arrays}, {**own, **facts}

    return CheckpointCallback(
        training.run.checkpoints,
        collect,
        config=training.config,
        code=training.code,
        progress=training.progress,
        log=log,
        metrics=metrics,
        evaluation=evaluation,
        epochs=settings.epochs,
        every_epochs=settings.checkpoint_every_epochs,
        every_steps=settings.checkpoint_every_steps,
        keep=settings.keep_checkpoints,
    )


def _plain_report(report: Any) -> Any:
    return asdict(report) if is_dataclass(report) else report
