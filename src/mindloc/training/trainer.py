"""Train an encoder as a config says, from the start or from where a run stopped."""

import dataclasses
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
from mindloc.data.pipeline import TrainData
from mindloc.evaluation.evaluate import evaluate
from mindloc.inference.engine import MindSporeEngine
from mindloc.losses.build import build_criterion
from mindloc.models.build import build_encoder, follow_normalization
from mindloc.runtime.checkpoint import Weights, is_own_checkpoint, load_weights
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


@dataclass(frozen=True)
class Splits:
    """What is trained on and what is evaluated on."""

    train: Split
    test: Split | None  # None: the settings ask for no evaluation


def load_splits(config: Config) -> Splits:
    """Read the data set, before anything is written.

    Raises:
        DataError: it is missing or broken.
    """
    train = config.train
    wanted = train.eval_every_epochs > 0 or train.zero_shot_eval
    return Splits(build_split(config, "train"), build_split(config, "test") if wanted else None)


def train(
    config: Config,
    run: RunFolder,
    splits: Splits | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    evaluate_fn: EvaluateFunction | None = None,
) -> Progress:
    """Train as ``config`` says, with everything written to ``run``.

    Args:
        config: of the run; ``train.checkpoint_start`` or ``model.pretrained`` names weights to begin from. Its
            normalization is changed to what they state.
        splits: None reads them.
        resume: go on from the newest complete checkpoint of ``run``, or from the start when it has none yet.
        callbacks: MindSpore callbacks of the user's own.
        evaluate_fn: (encoder, tag) -> metrics; None evaluates on the test split.

    Returns:
        How far the run got, and its best score.

    Raises:
        MindlocError: of the kind that names the cause: data, config, checkpoint, device.
    """
    console = Console(run.log)
    point = find_resume_point(run) if resume else None
    start = None if point else _start(config, console)
    changes = check_settings(point, config_to_dict(config)) if point else []
    splits = splits or load_splits(config)
    step = _loaded_step(config, point, start)
    run.write_config(dump_yaml(config))  # only now: settings that are refused must not replace those of the run
    training = Training(
        run=run,
        step=step,
        schedule=build_schedule(config),
        settings=build_loop_settings(config),
        make_data=_data_maker(config, splits.train),
        evaluate=evaluate_fn or (evaluation_on_test_split(config, run, splits.test) if splits.test else None),
        config=config_to_dict(config),
        facts={"seed": config.train.seed, "world_size": 1},
        code={"version": mindloc.__version__, "revision": git_revision()},
        progress=point.progress if point else Progress(),
        metrics_lines=point.state.facts["lines"] if point else 0,
        console=console,
    )
    if resume:
        _say_resumed(console, point, changes, training.schedule.describe())
    return run_training(training, callbacks)


def evaluation_on_test_split(config: Config, run: RunFolder, split: Split) -> EvaluateFunction:
    """Scores of an encoder on a split; each evaluation's report goes to reports/{tag}."""
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


def _start(config: Config, console: Console) -> Weights | None:
    """The mindloc checkpoint that train.checkpoint_start names; other people's weights become ``model.pretrained``.

    Raises:
        CheckpointError: they can't be read.
    """
    path = config.train.checkpoint_start or config.model.pretrained
    if path is None:
        return None
    follow_normalization(config, path)
    console.say(f"begins from {path}, pixels with mean {list(config.model.mean)} and std {list(config.model.std)}")
    if config.train.checkpoint_start and is_own_checkpoint(path):
        return load_weights(path)
    config.model.pretrained = path
    return None


def _loaded_step(config: Config, point: ResumePoint | None, start: Weights | None) -> TrainStep:
    ms.set_seed(config.train.seed)
    fresh = config
    if point:  # its own weights follow: the file that it once began from may be gone
        fresh = dataclasses.replace(config, model=dataclasses.replace(config.model, pretrained=None))
    step = build_step(config, build_encoder(fresh), build_criterion(config))
    if point:
        load_weights_into(step, point.weights)
        load_state_into(step, point.state)
    elif start:
        load_weights_into(step, start)
    return step


def _data_maker(config: Config, split: Split) -> Callable[[int, int], TrainData]:
    sampler = build_sampler(config, split)
    return lambda epoch, step: build_train_dataset(config, split, sampler, first_epoch=epoch, first_step=step)


def _say_resumed(console: Console, point: ResumePoint | None, changes: list[str], schedule: dict[str, Any]) -> None:
    if point is None:
        console.say("this run was stopped before its first checkpoint: it begins anew")
        return
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
