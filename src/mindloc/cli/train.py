"""Command that trains an encoder, and ``TrainingCommand``, by which scripts and jobs start it for their user."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import click

from mindloc.cli.command import PATH, command
from mindloc.cli.options import config_options, key_overrides
from mindloc.config import Config, config_to_dict, load_config
from mindloc.config.loader import text_override
from mindloc.errors import ConfigError, DeviceError
from mindloc.launch.plan import plan_ranks, require_shareable_batch, settled_target
from mindloc.launch.processes import own_command, with_source
from mindloc.launch.supervise import new_log_directory, run_plan
from mindloc.runtime.cluster import announced_device, announced_ranks, join_cluster
from mindloc.runtime.device import require_precision, use_device
from mindloc.runtime.process import command_line, last_words
from mindloc.runtime.run_directory import RunDirectory
from mindloc.training.resume import check_begin_epoch, check_settings, find_resume_point


@command("train", example="--config world_tiny")
@config_options()
@click.option(
    "--run_dir", type=PATH, metavar="DIRECTORY", help="new directory for this run; default: work_dir/NAME/MMDDhhmmss"
)
@click.option(
    "--resume",
    type=PATH,
    metavar="RUN",
    help="continue this run directory exactly where it stopped, with its own config; --epochs may be raised",
)
@click.option("--begin_epoch", type=int, metavar="N", help="fail at the start unless exactly N epochs are done")
@click.pass_obj
def train(
    words: tuple[str, ...],
    config: str | None,
    overrides: tuple[str, ...],
    run_dir: Path | None,
    resume: Path | None,
    begin_epoch: int | None,
) -> int:
    """Train an encoder, or continue a training run that was stopped.

    A new run gets its own directory, work_dir/NAME/MMDDhhmmss, or the one that --run_dir names.
    """
    if resume and (config or run_dir):
        raise ConfigError("--resume uses the run's own config and directory; leave out --config and --run_dir")
    resumed = RunDirectory.open(resume) if resume else None
    settings = load_config(resumed.config_path if resumed else config, overrides, of_run=resumed is not None)
    launched = announced_ranks() > 1
    if len(settings.run.device_ids) > 1 and not launched:
        return train_on_cards(settings, words, resume, begin_epoch)
    card = announced_device() if launched else settings.run.device_ids[0]
    device = use_device(settings.run.device_target, card, settings.run.operator_fusion)
    cluster = join_cluster(device)

    from mindloc.training import trainer  # after the device is chosen: it imports MindSpore

    # before the run directory is created, so that a failed check leaves nothing behind
    training = trainer.prepare(settings, resumed, cluster, begin_epoch)
    if not cluster.is_first:
        trainer.train(training, None)
        return 0
    run = resumed or trainer.new_run(settings, run_dir)
    print(f"run directory: {run.path}\ndevice: {device.summary}")
    run.log(f"device: {device.description}")
    how_to_resume = f"continue from the newest checkpoint with: {command_line('train', '--resume', run.path)}"
    try:
        with last_words(how_to_resume):
            trainer.train(training, run)
        print(f"evaluate with: {command_line('eval', '--checkpoint', run.path)}")
    except KeyboardInterrupt:
        print(how_to_resume, file=sys.stderr)
        raise
    return 0


def train_on_cards(config: Config, words: Sequence[str], resumed: Path | None, begin_epoch: int | None) -> int:
    """Start one rank per card in ``run.device_ids``, each of which runs this command, and return the exit code.

    Args:
        words: arguments of the command.

    Raises:
        DeviceError: several cards are named, but neither Ascend nor GPU works here.
        MindlocError: for the reasons given in ``check_before_start``.
    """
    cards, environment = config.run.device_ids, with_source(os.environ)
    target, settled = settled_target(config.run.device_target, environment)
    if config.run.device_target == "auto" and target == "CPU":
        raise DeviceError(
            f"run.device_ids names {len(cards)} cards, but neither Ascend nor GPU works here (see "
            f"{command_line('doctor')}); --device_target CPU trains {len(cards)} ranks on the CPU"
        )
    check_before_start(config, target, len(cards), resumed, begin_epoch)
    log_dir = new_log_directory(Path(config.run.work_dir))
    command = own_command("train", *words, *settled)
    return run_plan(plan_ranks(command, target=target, log_dir=log_dir, device_ids=cards, environment=environment))


def check_before_start(config: Config, target: str, ranks: int, resumed: Path | None, begin_epoch: int | None) -> None:
    """Check once what every rank would check, before any rank is started and without MindSpore.

    Args:
        target: "CPU", "GPU" or "Ascend", where the training will run.
        resumed: run directory to resume.
        begin_epoch: number of epochs that the user expects to be done.

    Raises:
        LaunchError: the batch can't be shared evenly among the ranks.
        DeviceError: the target does not train in the config's precision.
        CheckpointError: the run has reached a different epoch, is damaged, or belongs to a different model.
        MindlocError: another process is training the run.
    """
    require_shareable_batch(config.train.batch_size, ranks)
    if target != "Ascend":  # there it depends on the chip, which only the ranks can read
        require_precision(config.train.precision, target, training=True)
    run = RunDirectory.open(resumed) if resumed else None
    if run:
        run.require_idle()
    point = find_resume_point(run) if run else None
    check_begin_epoch(point, begin_epoch)
    if point:
        check_settings(point, config_to_dict(config))


@dataclass(frozen=True, kw_only=True)
class TrainingCommand:
    """A training run that a script or a job starts. The user's overrides come last, so that they win."""

    experiment: str | Path | None = None  # of a new run: a shipped config's name or a file; None: the defaults
    data: Path
    resumed: Path | None = None  # run directory to resume
    run_dir: Path | None = None  # new directory for a run
    work_dir: Path | None = None  # where new run directories are created
    weights: Path | None = None  # initial weights
    target: str | None = None
    # while training; None: as the config says; True: the same, but every epoch if the config says never
    evaluates: bool | None = None
    begin_epoch: int | None = None
    own: tuple[str, ...] = ()  # the user's overrides, ``key=value``

    @property
    def overrides(self) -> list[str]:
        """All overrides in order, the user's last."""
        found = key_overrides("data.root", str(self.data))
        if self.work_dir and not self.resumed:
            found.append(text_override("run.work_dir", self.work_dir))
        if self.weights:
            found.append(text_override("train.checkpoint_start", self.weights))
        if self.evaluates is False:
            found += ["train.eval_every_epochs=0", "train.zero_shot_eval=false"]
        elif self.evaluates and self._load([]).train.eval_every_epochs == 0:
            found.append("train.eval_every_epochs=1")
        if self.target:
            found.append(f"run.device_target={self.target}")
        return [*found, *self.own]

    @cached_property
    def config(self) -> Config:
        """The config of the training run.

        Raises:
            ConfigError: the experiment or an override is invalid.
        """
        return self._load(self.overrides)

    @property
    def words(self) -> list[str]:
        """The arguments of the command ``train``."""
        words = ["--resume", str(self.resumed)] if self.resumed else []
        if not self.resumed and self.experiment:
            words += ["--config", str(self.experiment)]
        if not self.resumed and self.run_dir:
            words += ["--run_dir", str(self.run_dir)]
        words += set_words(self.overrides)
        return words if self.begin_epoch is None else [*words, "--begin_epoch", str(self.begin_epoch)]

    def checked(self, ranks: int, card: int | None, environment: Mapping[str, str]) -> tuple[str, list[str]]:
        """Check all that can be checked before a rank is started, and return (device target, arguments).

        Args:
            card: the card to use if there is only one rank; None: the card in the config.

        Raises:
            LaunchError: MindSpore can't be loaded to find a device.
            LaunchError, DeviceError, CheckpointError: for the reasons given in ``check_before_start``.
        """
        target, settled = settled_target(self.config.run.device_target, environment)
        check_before_start(self.config, target, ranks, self.resumed, self.begin_epoch)
        alone = ["--device_id", str(card)] if ranks == 1 and card is not None else []
        return target, [*self.words, *settled, *alone]

    def _load(self, overrides: Sequence[str]) -> Config:
        file = self.resumed / "config.yaml" if self.resumed else self.experiment
        return load_config(file, overrides, of_run=self.resumed is not None)


def set_words(overrides: Sequence[str]) -> list[str]:
    """The overrides ``key=value`` as arguments, each after --set."""
    return [word for override in overrides for word in ("--set", override)]
