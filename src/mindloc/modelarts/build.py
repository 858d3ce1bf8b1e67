"""From a job's parameters and its place on the platform to the processes that this server runs."""

import argparse
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from mindloc.cli import train
from mindloc.cli.launch import PROJECT
from mindloc.config import Config, load_config
from mindloc.errors import LaunchError
from mindloc.launch.msrun_process import MASTER_PORT
from mindloc.launch.plan import Plan, plan_ranks
from mindloc.launch.process import Process, entry_command, inherited_environment, with_source
from mindloc.launch.program_arguments import yaml_text
from mindloc.launch.rank_table import read_rank_table
from mindloc.launch.servers import require_shareable_batch
from mindloc.launch.target import best_target
from mindloc.modelarts.environment import Platform

EVALUATION_SECTIONS = ("data", "eval", "run")  # the rest is fixed by the checkpoint
_NAME_PAUSES_S = (2.0, 5.0, 10.0, 20.0)


def build_training(
    args: argparse.Namespace, place: Platform, data: Path, weights: Path | None, run: Path, resumes: bool, logs: Path
) -> Plan:
    """``mindloc train`` (train.py) on the cards that are this job's.

    Args:
        weights: to begin from.
        run: an empty folder, or the run to go on with when ``resumes``.

    Raises:
        ConfigError: the config or an override is refused.
        LaunchError: the ranks can't be started that way.
    """
    words, config = _trainer_words(args, data, weights, run, resumes)
    environment = with_source(os.environ)
    target = config.run.device_target
    if target == "auto":
        target = best_target(environment)
        words += ["--device_target", target]  # so that no rank finds another
    if place.ranks > 1:
        require_shareable_batch(config.train.batch_size, place.ranks)
    elif place.device_id is not None:
        words += ["--device_id", str(place.device_id)]
    command = [sys.executable, "-m", "mindloc", "train", *words]
    if place.per_card:
        return _one_rank_of_several(command, place, logs, environment)
    if place.ranks == 1:
        return plan_ranks(command, target=target, log_dir=logs, environment=environment)
    return plan_ranks(
        command,
        target=target,
        log_dir=logs,
        table=read_rank_table(place.table) if place.table else None,
        device_ids=range(place.cards),
        server_index=place.server,
        server_count=place.servers,
        master=None if place.servers == 1 or place.table else (_address(place.master), MASTER_PORT),
        environment=environment,
    )


def build_evaluation(
    args: argparse.Namespace, place: Platform, data: Path, weights: Path, out: Path, logs: Path
) -> Plan:
    """``mindloc eval`` (eval.py) on one card; what the parameters set of the training says nothing to it."""
    kept = [override for override in args.overrides if override.partition(".")[0] in EVALUATION_SECTIONS]
    left_out = [override for override in args.overrides if override not in kept]
    if left_out:
        print(f"of a training, and left out of the evaluation: {', '.join(left_out)}", flush=True)
    words = ["--checkpoint", str(weights), "--out", str(out), "--data_root", yaml_text(data), *_set(kept)]
    if place.device_id is not None:
        words += ["--device_id", str(place.device_id)]
    command = [sys.executable, "-m", "mindloc", "eval", *words]
    # it finds its device by itself; for one process the target decides nothing
    return plan_ranks(command, target="CPU", log_dir=logs, environment=with_source(os.environ))


def _trainer_words(
    args: argparse.Namespace, data: Path, weights: Path | None, run: Path, resumes: bool
) -> tuple[list[str], Config]:
    """(arguments of train.py, the config that they make)"""
    config_path = run / "config.yaml" if resumes else _config_path(args.config)
    if resumes:
        words = ["--resume", str(run)]
    else:
        words = ["--run_dir", str(run), *(["--config", str(config_path)] if config_path else [])]
    words += ["--data_root", yaml_text(data)]
    if weights:
        words += ["--checkpoint_start", yaml_text(weights)]
    if args.eval is False:
        words += _set(["train.eval_every_epochs=0", "train.zero_shot_eval=false"])
    words += _set(args.overrides)
    config = _config_of(config_path, words)
    if args.eval and config.train.eval_every_epochs == 0:
        words += _set(["train.eval_every_epochs=1"])
    if args.begin_epoch is not None:
        words += ["--begin_epoch", str(args.begin_epoch)]
    return words, config


def _config_of(path: Path | None, words: Sequence[str]) -> Config:
    return load_config(path, train.parser().parse_args(words).overrides)


def _config_path(named: Path | None) -> Path | None:
    """The experiment; a relative path counts from here, else from the project."""
    if named is None or named.exists():
        return named and named.absolute()
    return PROJECT / named


def _one_rank_of_several(command: list[str], place: Platform, logs: Path, environment: Mapping[str, str]) -> Plan:
    reason = f"ModelArts runs the boot file once per card, and this is rank {place.rank} of {place.ranks}"
    inherited = inherited_environment(environment, f"launcher: one process, because {reason}")
    own = {**inherited, **place.rank_variables()}
    log = logs / f"rank_{place.rank}.log"
    process = Process(f"rank {place.rank}", place.rank, own, entry_command(command), log)
    return Plan("one process", reason, (process,), place.ranks, (place.rank,), logs)


def _address(name: str | None) -> str:
    """The address of the first server, whose name the others may know only some seconds after their own start.

    Raises:
        LaunchError: no name, or nobody knows it.
    """
    if name is None:
        raise LaunchError("there are several servers, and VC_WORKER_HOSTS does not say where their ranks meet")
    for pause_s in (*_NAME_PAUSES_S, 0.0):
        try:
            return socket.gethostbyname(name)
        except OSError as error:
            reason = error
            time.sleep(pause_s)
    raise LaunchError(f"the first server, {name}, has no address here: {reason.strerror}; see VC_WORKER_HOSTS")


def _set(overrides: Sequence[str]) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]
