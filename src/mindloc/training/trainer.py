"""Train an encoder as a config says, from the start or from where a run stopped."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mindspore as ms
from mindspore.train import Callback

import mindloc
from mindloc.config import config_to_dict, dump_yaml
from mindloc.config.schema import Config
from mindloc.data.readers import build_sampler, build_split
from mindloc.data.sampler import Sampler
from mindloc.data.split import Split
from mindloc.losses.criterion import build_criterion
from mindloc.models.build import build_encoder, with_normalization_of
from mindloc.runtime.checkpoint import Weights, is_own_checkpoint, load_weights
from mindloc.runtime.cluster import ALONE, Cluster
from mindloc.runtime.run_folder import RunFolder, git_revision
from mindloc.training.build import (
    EngineOf,
    build_evaluation,
    build_loop_settings,
    build_neighbor_source,
    build_schedule,
    build_step,
    one_engine,
)
from mindloc.training.console import Console
from mindloc.training.dataset import build_train_dataset
from mindloc.training.eval_callback import SCORE, EvaluateFunction
from mindloc.training.loop import Training, run_training
from mindloc.training.neighbors import NeighborSource, restore_table
from mindloc.training.resume import (
    Progress,
    ResumePoint,
    check_begin_epoch,
    check_settings,
    find_resume_point,
    restated_schedule,
    settings_of_the_training,
)
from mindloc.training.state import collect_arrays, load_state_into, load_weights_into
from mindloc.training.step import TrainStep


@dataclass(frozen=True)
class Prepared:
    """Everything that a training needs, read and built before anything is written."""

    config: Config
    step: TrainStep
    train_split: Split
    test_split: Split | None  # None: the settings ask for no evaluation
    sampler: Sampler
    point: ResumePoint | None
    notes: list[str]  # for console and log
    cluster: Cluster = ALONE
    neighbors: NeighborSource | None = None  # None: the settings ask for no hard negatives
    engine_of: EngineOf | None = None  # of the encoder, for evaluations; None: they make one


def prepare(
    config: Config, resume: RunFolder | None = None, cluster: Cluster = ALONE, begin_epoch: int | None = None
) -> Prepared:
    """Read the data and build the step; what is refused is refused here, with nothing written.

    Args:
        config: of the run; ``train.checkpoint_start`` or ``model.pretrained`` names weights to begin from, whose
            normalization is taken where they state it.
        resume: the run to go on with, from its newest complete checkpoint, or from the start when it has none yet.
        cluster: the ranks that train together; each of them prepares the same.
        begin_epoch: epochs that the caller takes for done; None takes whatever the checkpoint says.

    Raises:
        MindlocError: of the kind that names the cause: data, config, checkpoint, device, ranks that differ.
    """
    point = find_resume_point(resume) if resume else None
    check_begin_epoch(point, begin_epoch)
    changes = check_settings(point, config_to_dict(config)) if point else []
    config, start, notes = (config, None, []) if point else _start(config)
    split = build_split(config, "train")
    evaluates = config.train.eval_every_epochs > 0 or config.train.zero_shot_eval
    test_split = build_split(config, "test") if evaluates else None
    engine_of = one_engine(config)
    neighbors = build_neighbor_source(config, split, cluster, engine_of)
    if neighbors and point:
        restore_table(neighbors.tables, neighbors.pictures, point.state, point.progress)
    sampler = build_sampler(config, split, neighbors.tables if neighbors else None)
    if config.train.epochs > _done(point):
        known = neighbors is None or not neighbors.tables.lacks(_done(point))
        plan = (sampler if known else sampler.without_neighbors()).plan(_done(point))
        plan.shard(cluster.rank, cluster.size, config.train.accumulate)  # what can't be filled or shared is refused now
    step = _loaded_step(config, point, start, cluster, notes.append)
    if resume:
        notes += _resume_notes(point, changes, build_schedule(config).describe(), cluster)
    cluster.require_agreement(_common_ground(config, split, test_split, step, point, neighbors))
    if neighbors:
        neighbors.agree_on_map()
    return Prepared(config, step, split, test_split, sampler, point, notes, cluster, neighbors, engine_of)


def _done(point: ResumePoint | None) -> int:
    """Whole epochs."""
    return point.progress.epoch if point else 0


def _common_ground(
    config: Config,
    split: Split,
    test_split: Split | None,
    step: TrainStep,
    point: ResumePoint | None,
    neighbors: NeighborSource | None,
) -> dict[str, bytes | str]:
    """What every rank must have in common before the first step; where its files lie is its own affair."""
    edges = split.edges(config.data.train_mode)
    arrays = collect_arrays(step)
    return {
        "version of mindloc": mindloc.__version__,
        "config": json.dumps(settings_of_the_training(config_to_dict(config)), sort_keys=True),
        "list of training pairs": b"".join(array.tobytes() for array in (edges.pairs(), *edges.columns.values())),
        "list of training pictures": _names(split),
        "list of test pictures": _names(test_split) if test_split else "",
        "checkpoint": json.dumps(point.progress.to_dict() if point else None, sort_keys=True),
        "neighbors of the checkpoint": neighbors.digest() if neighbors else "",
        "weights": b"".join(array.tobytes() for part in arrays for array in part.values()),
    }


def _names(split: Split) -> str:
    return "\n".join([*split.query.files, *split.reference.files])


def train(
    prepared: Prepared,
    run: RunFolder | None,
    callbacks: Sequence[Callback] = (),
    evaluate_fn: EvaluateFunction | None = None,
) -> Progress:
    """Train what was prepared, with everything written to ``run``.

    Args:
        run: a new folder, or the one that ``prepare`` was to resume; None on every rank but the first.
        callbacks: MindSpore callbacks of the user's own.
        evaluate_fn: (encoder, tag) -> metrics; None evaluates on the test split.

    Returns:
        How far the run got, and its best score.

    Raises:
        MindlocError: a picture, the disk or a checkpoint fails.
    """
    config, point, cluster = prepared.config, prepared.point, prepared.cluster
    console = Console(run.log if run else None)
    if run:
        run.remove_leftovers()
        run.write_config(dump_yaml(config))
    for note in prepared.notes:
        console.say(note)
    if evaluate_fn is None and prepared.test_split is not None:
        evaluate_fn = build_evaluation(config, run, prepared.test_split, cluster, prepared.engine_of)
    targets = prepared.step.targets
    training = Training(
        run=run,
        step=prepared.step,
        schedule=build_schedule(config),
        settings=build_loop_settings(config),
        make_data=lambda epoch, step: build_train_dataset(
            config, prepared.train_split, prepared.sampler, targets, cluster.rank, cluster.size, epoch, step
        ),
        evaluate=evaluate_fn,
        config=config_to_dict(config),
        facts={"seed": config.train.seed, "world_size": cluster.size},
        code={"version": mindloc.__version__, "revision": git_revision()},
        progress=point.progress if point else Progress(),
        metrics_lines=point.state.facts["lines"] if point else 0,
        console=console,
        neighbors=prepared.neighbors,
    )
    return run_training(training, callbacks)


def _start(config: Config) -> tuple[Config, Weights | None, list[str]]:
    """The config with what the weights to begin from state, the mindloc checkpoint among them, and what to say of it.

    Other people's weights become ``model.pretrained``.

    Raises:
        CheckpointError: they can't be read.
    """
    path = config.train.checkpoint_start or config.model.pretrained
    if path is None:
        return config, None, []
    config = with_normalization_of(path, config)
    note = f"begins from {path}, pixels with mean {list(config.model.mean)} and std {list(config.model.std)}"
    if config.train.checkpoint_start and is_own_checkpoint(path):
        return config, load_weights(path), [note]
    return config.with_values({"model.pretrained": path}), None, [note]


def _loaded_step(
    config: Config, point: ResumePoint | None, start: Weights | None, cluster: Cluster, say: Callable[[str], None]
) -> TrainStep:
    ms.set_seed(config.train.seed)
    # where its own weights follow, the file that it once began from may be gone
    fresh = config.with_values({"model.pretrained": None}) if point else config
    step = build_step(config, build_encoder(fresh, say), build_criterion(config), cluster)
    if point:
        load_weights_into(step, point.weights)
        load_state_into(step, point.state)
    elif start:
        load_weights_into(step, start)
    return step


def _ranks(count: int) -> str:
    return "1 rank" if count == 1 else f"{count} ranks"


def _resume_notes(
    point: ResumePoint | None, changes: list[str], schedule: dict[str, Any], cluster: Cluster
) -> list[str]:
    if point is None:
        return ["this run was stopped before its first checkpoint: it begins anew"]
    progress = point.progress
    best = f", best {SCORE} {progress.best_score:.4f}" if progress.best_score is not None else ""
    done = f"{progress.epoch} epochs and {progress.step_in_epoch} steps done"
    facts, ranks = point.state.facts, cluster.size
    before = facts.get("world_size", ranks)
    fewer_or_more = [f"{_ranks(ranks)} where {_ranks(before)} stood; sums round otherwise"] if before != ranks else []
    restated = restated_schedule(facts.get("schedule"), schedule, progress)
    notes = [f"resumed from {point.weights.path.name}: {done}{best}", *changes, *fewer_or_more]
    return [*notes, restated] if restated else notes
