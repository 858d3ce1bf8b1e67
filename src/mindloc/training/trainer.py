"""Train an encoder as a config describes, in a new run or a resumed one."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import mindspore as ms
from mindspore.train import Callback, Model

import mindloc
from mindloc.config import Config, config_to_dict, dump_yaml
from mindloc.data.readers import read_split
from mindloc.data.split import Split, split_checksum
from mindloc.errors import MindlocError
from mindloc.evaluation.evaluate import evaluate, help_evaluate
from mindloc.evaluation.report import main_metrics
from mindloc.inference.engine import MindSporeEngine
from mindloc.losses.criterion import build_criterion
from mindloc.runtime.checkpoint import complete_checkpoints
from mindloc.runtime.cluster import ALONE, Cluster
from mindloc.runtime.device import require_precision
from mindloc.runtime.process import stopped_by
from mindloc.runtime.run_directory import RunDirectory, git_revision, point_latest
from mindloc.training.build import build_sampling, build_step, starting_weights
from mindloc.training.callbacks import (
    SCORE,
    EvalCallback,
    EvaluateFunction,
    NeighborsCallback,
    ProgressCallback,
    ReportCallback,
    ScheduleCallback,
)
from mindloc.training.checkpointing import (
    CheckpointCallback,
    collect_arrays,
    load_state_into,
    name_last_checkpoint,
)
from mindloc.training.dataset import TrainData, build_train_data, targets_of
from mindloc.training.neighbors import NeighborSource
from mindloc.training.reporting import Reporter, require_records
from mindloc.training.resume import (
    Progress,
    ResumePoint,
    check_begin_epoch,
    check_data,
    check_settings,
    find_resume_point,
    restated_schedule,
    settings_of_the_training,
)
from mindloc.training.schedule import Schedule
from mindloc.training.step import TrainStep


@dataclass(frozen=True)
class Training:
    """All parts of a training run, read and built before anything is written."""

    config: Config
    step: TrainStep
    make_data: Callable[[Progress], TrainData]  # start -> batches
    evaluate: EvaluateFunction | None = None  # None: no evaluation
    neighbors: NeighborSource | None = None  # None: no hard negatives
    # (temporary directory, epoch): searches the neighbors by descriptors, for the table of the epoch
    refresh_neighbors: Callable[[Path | None, int], None] | None = None
    point: ResumePoint | None = None  # None: a new run
    notes: Sequence[str] = ()  # for console and log
    data_checksum: str = ""  # of the training pairs
    ranks: int = 1

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.config.schedule, self.config.optimizer.lr, self.config.train.epochs)


def prepare(
    config: Config, resume: RunDirectory | None = None, cluster: Cluster = ALONE, begin_epoch: int | None = None
) -> Training:
    """Read the data, check the settings and build the step, before anything is written.

    Args:
        config: of the run; ``train.checkpoint_start`` or ``model.pretrained`` names initial weights, whose
            normalization is used if they state it.
        resume: run to resume from its newest complete checkpoint, or to start again if it has none.
        cluster: the ranks that train together; each prepares the same.
        begin_epoch: number of completed epochs that the caller expects; None: any.

    Raises:
        MindlocError: its class names the cause: data, config, checkpoint, device, ranks that differ.
    """
    if resume and cluster.is_first:
        resume.require_idle()
    point, notes = find_resume_point(resume) if resume else None, []
    check_begin_epoch(point, begin_epoch)
    if resume and point and cluster.is_first:
        require_records(resume.metrics_path, point.records)
    require_precision(config.train.precision, ms.get_context("device_target"), training=True)
    if point:
        changes, weights = check_settings(point, config_to_dict(config)), point.weights
    else:
        changes, (config, weights) = [], starting_weights(config, notes.append)

    criterion, split = build_criterion(config), read_split(config.data, "train")
    targets = targets_of(config, split, criterion.targets)
    data_checksum = split_checksum(split, config.data.train_mode)
    if point:
        changes += check_data(point, data_checksum)
    is_evaluated = config.train.eval_every_epochs > 0 or config.train.zero_shot_eval
    test_split = read_split(config.data, "test") if is_evaluated else None
    sampler, neighbors = build_sampling(config, split, cluster, point)
    step = build_step(config, criterion, cluster, weights, notes.append)
    if point:
        load_state_into(step, point.state)
    engine = MindSporeEngine(step.encoder, config.eval.batch_size, config.train.precision)
    training = Training(
        config,
        step,
        make_data=partial(build_train_data, config, split, sampler, targets, cluster),
        evaluate=partial(_evaluate, engine, config, test_split, cluster) if test_split else None,
        refresh_neighbors=partial(neighbors.refresh, engine) if neighbors else None,
        neighbors=neighbors,
        point=point,
        notes=notes,
        data_checksum=data_checksum,
        ranks=cluster.size,
    )
    if resume:
        notes += _resume_notes(training, changes)
    if cluster.size > 1:
        cluster.require_agreement(_common_ground(training, split, test_split))
        if neighbors:
            neighbors.agree_on_map()
    return training


def new_run(config: Config, path: str | Path | None = None) -> RunDirectory:
    """A new run directory for these settings; see ``RunDirectory.create`` for ``path`` and errors."""
    name = config.run.name or config.model.backbone
    return RunDirectory.create(config.run.work_dir, name, dump_yaml(config), path)


def train(training: Training, run: RunDirectory | None, callbacks: Sequence[Callback] = ()) -> Progress:
    """Run a prepared training to its last epoch; all results are written to ``run``.

    Args:
        run: a new directory, or the one that ``prepare`` got as ``resume``; None on ranks other than 0.
        callbacks: the user's MindSpore callbacks; they run after a step or epoch is counted, recorded and evaluated,
            before the checkpoint.

    Returns:
        The final progress, with the best score.

    Raises:
        MindlocError: another process trains this run; an image, the disk or a checkpoint fails.
    """
    with _owned(run, training.point) if run else nullcontext():
        return _train(training, run, callbacks)


@contextmanager
def _owned(run: RunDirectory, point: ResumePoint | None) -> Iterator[None]:
    """Context in which no other process trains the run, after a check that none has since ``point`` was read."""
    with run.being_trained():
        newest = complete_checkpoints(run.checkpoints)[-1:]
        if newest != ([point.weights.path] if point else []):
            raise MindlocError(f"the newest checkpoint of run {run.path} changed meanwhile; start this command again")
        yield


def _train(training: Training, run: RunDirectory | None, callbacks: Sequence[Callback]) -> Progress:
    config, neighbors, point = training.config.train, training.neighbors, training.point
    progress = point.progress if point else Progress()
    if run:
        run.remove_leftovers()
        run.write_config(dump_yaml(training.config))
    with Reporter(run, keep_records=point.records if point else 0) as reporter:
        unlinked = run and point_latest(Path(training.config.run.work_dir), run.path)
        for note in filter(None, [*training.notes, unlinked]):
            reporter.say(note)
        if progress.epoch >= config.epochs:
            reporter.say(f"nothing left to train: {progress.epoch} of {config.epochs} epochs are done")
            if run:
                name_last_checkpoint(run.checkpoints)
            return progress
        # when a training fails, this releases a loader thread that waits for a table
        with neighbors.tables.open() if neighbors else nullcontext():
            searching = _neighbor_callbacks(training, run, progress, reporter)
            # the loader plans its first epoch when it is built, and waits for the table of that epoch
            for callback in searching:
                callback.find()
            data = training.make_data(progress)
            in_order = _callbacks(training, run, progress, reporter, data, [*searching, *callbacks])
            saving = in_order[-1]
            # several ranks must stop at the same step: there a signal ends them at once
            stoppable = isinstance(saving, CheckpointCallback) and training.ranks == 1
            with data.clear_errors(), _stopped_with_a_checkpoint(saving) if stoppable else nullcontext():
                Model(training.step).train(
                    config.epochs,
                    data.dataset,
                    callbacks=in_order,
                    dataset_sink_mode=False,
                    initial_epoch=progress.epoch,
                )
    return progress


@contextmanager
def _stopped_with_a_checkpoint(saving: CheckpointCallback) -> Iterator[None]:
    """Context in which the first Ctrl-C or SIGTERM stops the training after the current step, with a checkpoint."""
    try:
        with stopped_by(saving.stop):
            yield
    except RuntimeError:  # MindSpore's loader ends at a signal, perhaps before another step
        if not saving.stop.is_made:
            raise
        saving.save_here()
    if saving.stop.is_made:
        raise KeyboardInterrupt


def _evaluate(
    engine: MindSporeEngine, config: Config, split: Split, cluster: Cluster, directory: Path | None
) -> dict[str, float] | None:
    """Scores on a split, with the report in ``directory``; None, without a report, on ranks other than 0."""
    if directory is None:
        help_evaluate(engine, config, split, cluster)
        return None
    extras = {"baselines": False, "figures": False, "search_times": False}
    report = evaluate(engine, config, split, directory, **extras, cluster=cluster)
    values = report["methods"]["model"][report["mode"]]
    return {name: values[name] for name in main_metrics(values) if values[name] is not None}


def _neighbor_callbacks(
    training: Training, run: RunDirectory | None, progress: Progress, reporter: Reporter
) -> list[NeighborsCallback]:
    """The callback that searches hard negatives, in a list; empty without hard negatives."""
    if training.neighbors is None:
        return []
    refresh = partial(training.refresh_neighbors, run and run.neighbors)
    tables, epochs = training.neighbors.tables, training.config.train.epochs
    return [NeighborsCallback(tables, refresh, training.step.encoder, reporter, progress, epochs)]


def _callbacks(
    training: Training,
    run: RunDirectory | None,
    progress: Progress,
    reporter: Reporter,
    data: TrainData,
    others: Sequence[Callback],
) -> list[Callback]:
    """Callbacks in order; only rank 0 reports and saves.

    The progress callback is first, as all others read its counters. The report's epoch ends before the evaluation and
    the search for hard negatives, whose results the checkpoint contains.
    """
    step, config = training.step, training.config.train
    counting = [
        ProgressCallback(progress, data.steps),
        ScheduleCallback(progress, data.steps, training.schedule, step.lr),
    ]
    evaluation = []
    if training.evaluate:
        evaluation = [EvalCallback(training.evaluate, step.encoder, run and run.reports, reporter, progress, config)]
    if run is None:
        return [*counting, *evaluation, *others]
    preparation = f"imports{', neighbors' if training.neighbors else ''} and preparation"
    report = ReportCallback(reporter, progress, data, step, config, preparation)
    code = {"version": mindloc.__version__, "revision": git_revision()}
    saving = CheckpointCallback(
        run.checkpoints,
        step,
        config,
        progress,
        reporter,
        report,
        weights_facts={"config": config_to_dict(training.config), "code": code},
        state_facts={
            "seed": config.seed,
            "world_size": training.ranks,
            "schedule": training.schedule.describe(),
            "data_checksum": training.data_checksum,
        },
        neighbors=training.neighbors,
    )
    return [*counting, report, *evaluation, *others, saving]


def _common_ground(training: Training, split: Split, test_split: Split | None) -> dict[str, bytes | str]:
    """Content that must be equal on all ranks before the first step; paths may differ."""
    config, point, neighbors = training.config, training.point, training.neighbors
    edges = split.edges(config.data.train_mode)
    return {
        "version of mindloc": mindloc.__version__,
        "config": json.dumps(settings_of_the_training(config_to_dict(config)), sort_keys=True),
        "list of training pairs": b"".join(array.tobytes() for array in (edges.pairs(), *edges.columns.values())),
        "list of training images": _names(split),
        "list of test images": _names(test_split) if test_split else "",
        "checkpoint": json.dumps(point.progress.to_dict() if point else None, sort_keys=True),
        "neighbors of the checkpoint": neighbors.digest() if neighbors else "",
        "weights": b"".join(array.tobytes() for part in collect_arrays(training.step) for array in part.values()),
    }


def _names(split: Split) -> str:
    return "\n".join([*split.query.files, *split.reference.files])


def _resume_notes(training: Training, changes: list[str]) -> list[str]:
    point, ranks = training.point, training.ranks
    if point is None:
        return ["this run was stopped before its first checkpoint: it starts from the first epoch"]
    progress, facts = point.progress, point.state.facts
    best = f", best {SCORE} {progress.best_score:.4f}" if progress.best_score is not None else ""
    done = f"{progress.epoch} epochs and {progress.step_in_epoch} steps done"
    notes = [f"resumed from {point.weights.path.name}: {done}{best}", *changes]
    before = facts.get("world_size", ranks)
    if before != ranks:
        notes.append(f"{_count(ranks)} instead of {_count(before)}; rounding of sums differs")
    restated = restated_schedule(facts.get("schedule"), training.schedule.describe(), progress)
    return [*notes, restated] if restated else notes


def _count(ranks: int) -> str:
    return "1 rank" if ranks == 1 else f"{ranks} ranks"
