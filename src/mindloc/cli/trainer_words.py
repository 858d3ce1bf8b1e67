"""The arguments of train.py and eval.py that a script or a job makes of what its user gave, and the config they make.

Whatever the script or the job adds by itself stands in front, so that a flag or --set of the user's own wins.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

import mindloc
from mindloc.cli import train
from mindloc.cli.boundary import OneLineParser
from mindloc.config import Config, load_config

PROJECT = Path(mindloc.__file__).resolve().parents[2]


@dataclass(frozen=True)
class Training:
    """What a script or a job says about a training, besides its user's own flags."""

    config: Path | None  # of the run itself when one is resumed; None: the defaults
    data: Path
    resumed: Path | None = None  # run folder to go on with
    weights: Path | None = None  # to begin from
    target: str | None = None
    evaluates: bool | None = None  # while it trains; True: each epoch where the config says never; None: as it says
    begin_epoch: int | None = None


def trainer_words(
    training: Training, new_run: Sequence[str], own: Sequence[str], way_out: str
) -> tuple[list[str], Config]:
    """(arguments of train.py, the config that they make).

    Args:
        new_run: arguments that say where a new run's folder is; a resumed one has its own.
        own: the user's flags.
        way_out: end of the line that refuses one of them.

    Raises:
        ConfigError: the config or a flag is refused.
    """
    if training.resumed:
        words = ["--resume", str(training.resumed)]
    else:
        words = ["--config", str(training.config)] if training.config else []
    words += ["--data_root", yaml_text(training.data), *([] if training.resumed else new_run)]
    if training.weights:
        words += ["--checkpoint_start", yaml_text(training.weights)]
    words += _evaluation_words(training)
    if training.target:
        words += ["--device_target", training.target]
    words += own
    parser = train.parser(partial(OneLineParser, way_out=way_out))
    config = load_config(training.config, parser.parse_args(words).overrides, of_run=training.resumed is not None)
    if training.begin_epoch is not None:
        words += ["--begin_epoch", str(training.begin_epoch)]
    return words, config


def config_path(named: Path | None) -> Path | None:
    """An experiment; a relative path counts from here, else from the project."""
    if named is None or named.exists():
        return named and named.absolute()
    return PROJECT / named


def set_words(overrides: Sequence[str]) -> list[str]:
    """``key=value`` as arguments, each behind its --set."""
    return [word for override in overrides for word in ("--set", override)]


def yaml_text(path: Path) -> str:
    """A path as train.py reads it back, which takes values for YAML: in quotes where it would read something else."""
    text = str(path)
    try:
        return text if yaml.safe_load(text) == text else json.dumps(text, ensure_ascii=False)
    except yaml.YAMLError:
        return json.dumps(text, ensure_ascii=False)


def _evaluation_words(training: Training) -> list[str]:
    if training.evaluates is False:
        return set_words(["train.eval_every_epochs=0", "train.zero_shot_eval=false"])
    if training.evaluates and _evaluates_never(training):
        return set_words(["train.eval_every_epochs=1"])
    return []


def _evaluates_never(training: Training) -> bool:
    return load_config(training.config, of_run=training.resumed is not None).train.eval_every_epochs == 0
