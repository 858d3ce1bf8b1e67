"""Train an encoder as a config says, from the start or from where a run stopped."""

from collections.abc import Sequence
from typing import Any

import mindspore as ms
from mindspore import nn
from mindspore.train import Callback

import mindloc
from mindloc.config import config_to_dict
from mindloc.config.schema import Config
from mindloc.data.build import build_sampler, build_split
from mindloc.data.pipeline import build_train_dataset
from mindloc.evaluation.evaluate import evaluate
from mindloc.inference.engine import MindSporeEngine
from mindloc.losses.build import build_criterion
from mindloc.models.build import build_encoder
from mindloc.runtime.checkpoint import load_weights
from mindloc.runtime.run_folder import RunFolder, git_revision
from mindloc.training.build import build_loop_settings, build_schedule, build_step
from mindloc.training.console import Console
from mindloc.training.eval_callback import SCORE, EvaluateFunction
from mindloc.training.loop import Training, run_training
from mindloc.training.progress import Progress
from mindloc.training.resume import ResumePoint, check_settings, find_resume_point, restated_schedule
from mindloc.training.state import load_state_into, load_weights_into
from mindloc.training.step import TrainStep

_TRACKED = ("recall@1", "recall@5", "recall@10", "ap", "sdm@3", "dis@1_median_m")


def train(
    config: Config,
    run: RunFolder,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    evaluate_fn: EvaluateFunction | None = None,
) -> Progress:
    """Train as ``config`` says, with everything written to ``run``.

    Args:
        config: of the run; ``train.checkpoint_start`` names weights to begin from.
        resume: go on from the newest complete checkpoint of ``run``, or from the start when it has none yet.
        callbacks: MindSpore callbacks of the user's own.
        evaluate_fn: (encoder, tag) -> metrics; None evaluates on the test split.

    Returns:
        How far the run got, and its best score.

    Raises:
        MindlocError: of the kind that names the cause: data, config, checkpoint, device.
    """
    console, plain = Console(run.log), config_to_dict(config)
    point = find_resume_point(run) if resume else None
    changes = check_settings(point, plain) if point else []
    ms.set_seed(config.train.seed)
    split = build_split(config, "train")
    sampler = build_sampler(config, split)
    step = build_step(config, build_encoder(config), build_criterion(config))
    _load(step, config, point)
    schedule = build_schedule(config)
    if point:
        _say_resumed(console, point, changes, schedule.describe())
    training = Training(
        run=run,
        step=step,
        schedule=schedule,
        settings=build_loop_settings(config),
        make_data=lambda epoch, first_step: build_train_dataset(
            config, split, sampler, first_epoch=epoch, first_step=first_step
        ),
        evaluate=(evaluate_fn or evaluation_on_test_split(config, run))
        if config.train.eval_every_epochs
        else evaluate_fn,
        config=plain,
        facts={"seed": config.train.seed, "world_size": 1},
        code={"version": mindloc.__version__, "revision": git_revision()},
        progress=point.progress if point else Progress(),
        metrics_lines=point.state.facts["lines"] if point else 0,
        console=console,
    )
    return run_training(training, callbacks)


def evaluation_on_test_split(config: Config, run: RunFolder) -> EvaluateFunction:
    """Scores of an encoder on the test split; each evaluation's report goes to reports/{tag}."""
    split = build_split(config, "test")
    engines: list[MindSporeEngine] = []  # made once: a new one would compile its graphs again

    def evaluate_encoder(encoder: nn.Cell, tag: str) -> dict[str, float]:
        if not engines:
            engines.append(MindSporeEngine(encoder, config.eval.batch_size, config.train.precision))
        folder = run.reports / tag
        scores = evaluate(engines[0], config, split, folder, baselines=False, pictures=False)
        return {name: scores[name] for name in _TRACKED if _measured(scores, name)}

    return evaluate_encoder


def _measured(scores: Any, name: str) -> bool:
    values = scores.methods["model"][scores.mode]
    return values.get(name) is not None


def _load(step: TrainStep, config: Config, point: ResumePoint | None) -> None:
    if point:
        load_weights_into(step, point.weights)
        load_state_into(step, point.state)
    elif config.train.checkpoint_start:
        load_weights_into(step, load_weights(config.train.checkpoint_start))


def _say_resumed(console: Console, point: ResumePoint, changes: list[str], schedule: dict[str, Any]) -> None:
    progress = point.progress
    console.say(
        f"resumed from {point.weights.path.name}: {progress.epoch} epochs and {progress.step_in_epoch} steps done"
        + (f", best {SCORE} {progress.best_score:.4f}" if progress.best_score is not None else "")
    )
    for change in changes:
        console.say(change)
    restated = restated_schedule(point.state.facts.get("schedule"), schedule, progress)
    if restated:
        console.say(restated)
