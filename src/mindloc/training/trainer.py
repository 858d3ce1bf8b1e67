"""Train an encoder as a config says, from the start or from where a run stopped."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mindspore as ms
from mindspore import nn
from mindspore.train import Callback

import mindloc
from mindloc.config import config_to_dict, dump_yaml
from mindloc.config.schema import Config
from mindloc.data.build import (
    build_hard_negative_rule,
    build_images,
    build_sampler,
    build_split,
    build_train_dataset,
)
from mindloc.data.hard_negatives import NeighborTables
from mindloc.data.pairs import Split
from mindloc.data.sampler import Sampler
from mindloc.evaluation.evaluate import evaluate, help_evaluate
from mindloc.inference.build import card_facts
from mindloc.inference.engine import MindSporeEngine
from mindloc.losses.build import build_criterion
from mindloc.models.build import build_encoder, follow_normalization
from mindloc.runtime.checkpoint import Weights, is_own_checkpoint, load_weights
from mindloc.runtime.cluster import ALONE, Cluster
from mindloc.runtime.run_folder import RunFolder, git_revision
from mindloc.training.build import build_compiler_cache, build_loop_settings, build_schedule, build_step
from mindloc.training.console import Console
from mindloc.training.eval_callback import SCORE, EvaluateFunction
from mindloc.training.loop import Training, run_training
from mindloc.training.neighbors import NeighborSource, PairedPictures, restore_table
from mindloc.training.neighbors_callback import refresh_table
from mindloc.training.progress import Progress
from mindloc.training.resume import (
    ResumePoint,
    check_begin_epoch,
    check_settings,
    find_resume_point,
    restated_schedule,
    settings_of_the_training,
)
from mindloc.training.state import collect_arrays, load_state_into, load_weights_into
from mindloc.training.step import TrainStep

EngineOf = Callable[[nn.Cell], MindSporeEngine]  # of an encoder in training

_TRACKED = ("recall@1", "recall@5", "recall@10", "ap", "sdm@3", "dis@1_median_m")


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
        config: of the run; ``train.checkpoint_start`` or ``model.pretrained`` names weights to begin from. Its
            normalization is changed to what they state.
        resume: the run to go on with, from its newest complete checkpoint, or from the start when it has none yet.
        cluster: the ranks that train together; each of them prepares the same.
        begin_epoch: epochs that the caller takes for done; None takes whatever the checkpoint says.

    Raises:
        MindlocError: of the kind that names the cause: data, config, checkpoint, device, ranks that differ.
    """
    point = find_resume_point(resume) if resume else None
    check_begin_epoch(point, begin_epoch)
    changes = check_settings(point, config_to_dict(config)) if point else []
    start, notes = (None, []) if point else _start(config)
    split = build_split(config, "train")
    evaluates = config.train.eval_every_epochs > 0 or config.train.zero_shot_eval
    test_split = build_split(config, "test") if evaluates else None
    engine_of = one_engine(config)
    neighbors = _neighbors(config, split, point, cluster, engine_of)
    sampler = build_sampler(config, split, neighbors.tables if neighbors else None)
    if config.train.epochs > _done(point):
        known = neighbors is None or not neighbors.tables.lacks(_done(point))
        plan = (sampler if known else sampler.without_neighbors()).plan(_done(point))
        plan.shard(cluster.rank, cluster.size, config.train.accumulate)  # what can't be filled or shared is refused now
    step = _loaded_step(config, point, start, cluster, notes.append)
    if resume:
        notes += _resume_notes(point, changes, build_schedule(config).describe(), cluster)
    cluster.require_agreement(_common_ground(config, split, test_split, step, point, neighbors))
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
    pairs, weights = split.pair_list(config.data.train_mode)
    tests = "\n".join([*test_split.drone_files, *test_split.satellite_files]) if test_split else ""
    arrays = collect_arrays(step)
    return {
        "version of mindloc": mindloc.__version__,
        "config": json.dumps(settings_of_the_training(config_to_dict(config)), sort_keys=True),
        "list of training pairs": pairs.tobytes() + weights.tobytes(),
        "list of test pictures": tests,
        "checkpoint": json.dumps(point.progress.to_dict() if point else None, sort_keys=True),
        "neighbors": neighbors.digest() if neighbors else "",
        "weights": b"".join(array.tobytes() for part in arrays for array in part.values()),
    }


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
        evaluate_fn = evaluation_on_test_split(config, run, prepared.test_split, cluster, prepared.engine_of)
    if prepared.neighbors:
        _begin_with_neighbors(prepared, run, console)
    training = Training(
        run=run,
        step=prepared.step,
        schedule=build_schedule(config),
        settings=build_loop_settings(config),
        make_data=lambda epoch, step: build_train_dataset(
            config, prepared.train_split, prepared.sampler, cluster.rank, cluster.size, epoch, step
        ),
        evaluate=evaluate_fn,
        config=config_to_dict(config),
        facts={"seed": config.train.seed, "world_size": cluster.size},
        code={"version": mindloc.__version__, "revision": git_revision()},
        progress=point.progress if point else Progress(),
        metrics_lines=point.state.facts["lines"] if point else 0,
        console=console,
        serve_graph=build_compiler_cache(config, cluster, console.say),
        neighbors=prepared.neighbors,
    )
    return run_training(training, callbacks)


def _neighbors(
    config: Config, split: Split, point: ResumePoint | None, cluster: Cluster, engine_of: EngineOf
) -> NeighborSource | None:
    """Where hard negatives come from, with the table of the checkpoint; None without hard negatives."""
    rule = build_hard_negative_rule(config)
    if rule is None:
        return None
    pictures = PairedPictures(split, split.pair_list(config.data.train_mode)[0], config.sampling.neighbors)
    tables = NeighborTables(rule, pictures.near_on_map() if rule.source != "descriptors" else None)
    if point:
        restore_table(tables, pictures, point.state, point.progress)
    return NeighborSource(
        tables,
        pictures,
        engine_of,
        images_of=lambda view, paths: build_images(config, view, paths, config.eval.batch_size),
        facts_of=lambda view: card_facts(config, view, split.place_unit),
        cluster=cluster,
    )


def _begin_with_neighbors(prepared: Prepared, run: RunFolder | None, console: Console) -> None:
    """Say where the sets lie meanwhile, and find the neighbors of the first epoch where no checkpoint has them."""
    neighbors, epoch = prepared.neighbors, _done(prepared.point)
    if run:
        neighbors.folder = run.path / "neighbors"
        shutil.rmtree(neighbors.folder, ignore_errors=True)  # of a run that was killed there
    if epoch < prepared.config.train.epochs and neighbors.tables.lacks(epoch):
        console.say(f"finding the neighbors that epoch {epoch + 1} is sampled by")
        refresh_table(neighbors.refresh, prepared.step.encoder, epoch)


def one_engine(config: Config) -> EngineOf:
    """Encoder in training -> its engine, made once: a new one would compile its graphs again."""
    engines: list[MindSporeEngine] = []

    def engine_of(encoder: nn.Cell) -> MindSporeEngine:
        if not engines:
            engines.append(MindSporeEngine(encoder, config.eval.batch_size, config.train.precision))
        return engines[0]

    return engine_of


def evaluation_on_test_split(
    config: Config, run: RunFolder | None, split: Split, cluster: Cluster, engine_of: EngineOf | None = None
) -> EvaluateFunction:
    """Scores of an encoder on a split, on the first rank; each evaluation's report goes to reports/{tag}."""
    engine_of = engine_of or one_engine(config)

    def evaluate_encoder(encoder: nn.Cell, tag: str) -> dict[str, float] | None:
        if run is None:
            help_evaluate(engine_of(encoder), config, split, cluster)
            return None
        folder = run.reports / tag
        extras = {"baselines": False, "pictures": False, "search_times": False}
        scores = evaluate(engine_of(encoder), config, split, folder, **extras, cluster=cluster)
        return {name: scores[name] for name in _TRACKED if _measured(scores, name)}

    return evaluate_encoder


def _measured(scores: Any, name: str) -> bool:
    values = scores.methods["model"][scores.mode]
    return values.get(name) is not None


def _start(config: Config) -> tuple[Weights | None, list[str]]:
    """The mindloc checkpoint that train.checkpoint_start names, and what to say of the start.

    Other people's weights become ``model.pretrained``.

    Raises:
        CheckpointError: they can't be read.
    """
    path = config.train.checkpoint_start or config.model.pretrained
    if path is None:
        return None, []
    follow_normalization(config, path)
    note = f"begins from {path}, pixels with mean {list(config.model.mean)} and std {list(config.model.std)}"
    if config.train.checkpoint_start and is_own_checkpoint(path):
        return load_weights(path), [note]
    config.model.pretrained = path
    return None, [note]


def _loaded_step(
    config: Config, point: ResumePoint | None, start: Weights | None, cluster: Cluster, say: Callable[[str], None]
) -> TrainStep:
    ms.set_seed(config.train.seed)
    fresh = config
    if point:  # its own weights follow: the file that it once began from may be gone
        fresh = dataclasses.replace(config, model=dataclasses.replace(config.model, pretrained=None))
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
