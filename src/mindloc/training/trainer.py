"""Train an encoder as a config says, from the start or from where a run stopped."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mindspore as ms
from mindspore import nn
from mindspore.train import Callback

import mindloc
from mindloc.config import config_to_dict, dump_yaml
from mindloc.config.schema import Config
from mindloc.data.build import build_sampler, build_split, build_train_dataset
from mindloc.data.pairs import Split
from mindloc.data.sampler import Sampler
from mindloc.evaluation.evaluate import evaluate, help_evaluate
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
    sampler = build_sampler(config, split)
    if config.train.epochs > (point.progress.epoch if point else 0):
        plan = sampler.plan(point.progress.epoch if point else 0)  # a batch that can't be filled is refused now,
        plan.shard(cluster.rank, cluster.size, config.train.accumulate)  # and one that can't be shared
    step = _loaded_step(config, point, start, cluster, notes.append)
    if resume:
        notes += _resume_notes(point, changes, build_schedule(config).describe(), cluster)
    cluster.require_agreement(_common_ground(config, split, test_split, step, point))
    return Prepared(config, step, split, test_split, sampler, point, notes, cluster)


def _common_ground(
    config: Config, split: Split, test_split: Split | None, step: TrainStep, point: ResumePoint | None
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
        evaluate_fn = evaluation_on_test_split(config, run, prepared.test_split, cluster)
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
    )
    return run_training(training, callbacks)


def evaluation_on_test_split(config: Config, run: RunFolder | None, split: Split, cluster: Cluster) -> EvaluateFunction:
    """Scores of an encoder on a split, on the first rank; each evaluation's report goes to reports/{tag}."""
    engines: list[MindSporeEngine] = []  # made once: a new one would compile its graphs again

    def evaluate_encoder(encoder: nn.Cell, tag: str) -> dict[str, float] | None:
        if not engines:
            engines.append(MindSporeEngine(encoder, config.eval.batch_size, config.train.precision))
        if run is None:
            help_evaluate(engines[0], config, split, cluster)
            return None
        folder = run.reports / tag
        extras = {"baselines": False, "pictures": False, "search_times": False}
        scores = evaluate(engines[0], config, split, folder, **extras, cluster=cluster)
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
