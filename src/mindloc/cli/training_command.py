"""The arguments of train.py that a script or a job makes of what its user gave, and the config that they make."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

import mindloc
from mindloc.cli.command import OneLineParser
from mindloc.cli.train import check_before_start, parser
from mindloc.config import Config, load_config
from mindloc.launch.plan import settled_target

PROJECT = Path(mindloc.__file__).resolve().parents[2]


@dataclass(frozen=True)
class Training:
    """What a script or a job says about a training, besides its user's own flags."""

    config: Path | None  # of the run itself when one is resumed; None: the defaults
    data: Path
    resumed: Path | None = None  # run directory to resume
    weights: Path | None = None  # to start from
    target: str | None = None
    evaluates: bool | None = None  # while it trains; True: each epoch where the config says never; None: as it says
    begin_epoch: int | None = None


@dataclass(frozen=True)
class TrainingCommand:
    """A training as a script or a job starts it: the arguments of train.py, and the config that they make."""

    training: Training
    words: tuple[str, ...]
    config: Config

    def checked(self, ranks: int, card: int | None, environment: Mapping[str, str]) -> tuple[str, list[str]]:
        """(device target, arguments of train.py), after all that can be checked before a rank is started.

        Args:
            card: of a lone rank; None: the config's.

        Raises:
            LaunchError: MindSpore can't be loaded to find a device.
            LaunchError, DeviceError, CheckpointError: as ``check_before_start``.
        """
        target, settled = settled_target(self.config.run.device_target, environment)
        check_before_start(self.config, target, ranks, self.training.resumed, self.training.begin_epoch)
        alone = ["--device_id", str(card)] if ranks == 1 and card is not None else []
        return target, [*self.words, *settled, *alone]


def training_command(training: Training, new_run: Sequence[str], own: Sequence[str], way_out: str) -> TrainingCommand:
    """The command of a training; what the script or the job adds comes first, so that the user's own flags win.

    Args:
        new_run: arguments that say where a new run's directory is; a resumed one has its own.
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
    command_line = parser(partial(OneLineParser, way_out=way_out))
    config = load_config(training.config, command_line.parse_args(words).overrides, of_run=training.resumed is not None)
    if training.begin_epoch is not None:
        words += ["--begin_epoch", str(training.begin_epoch)]
    return TrainingCommand(training, tuple(words), config)


def _evaluation_words(training: Training) -> list[str]:
    if training.evaluates is False:
        return set_words(["train.eval_every_epochs=0", "train.zero_shot_eval=false"])
    if training.evaluates and _evaluates_never(training):
        return set_words(["train.eval_every_epochs=1"])
    return []


def _evaluates_never(training: Training) -> bool:
    return load_config(training.config, of_run=training.resumed is not None).train.eval_every_epochs == 0


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
