"""From a job's parameters and its place on the platform to the processes that this server runs."""

import argparse
import os
import socket
import sys
import time
from pathlib import Path

from mindloc.cli.beforehand import check_beforehand
from mindloc.cli.trainer_words import Training, config_path, set_words, trainer_words, yaml_text
from mindloc.config import Config
from mindloc.errors import LaunchError
from mindloc.launch.msrun_process import MASTER_PORT
from mindloc.launch.plan import Plan, plan_one_process, plan_ranks
from mindloc.launch.process import with_source
from mindloc.launch.rank_table import read_rank_table
from mindloc.launch.target import settled_target
from mindloc.modelarts.arguments import WAY_OUT
from mindloc.modelarts.environment import Place

EVALUATION_SECTIONS = ("data", "eval", "run")  # the rest is fixed by the checkpoint
_NAME_PAUSES_S = (2.0, 5.0, 10.0, 20.0)


def build_training(
    args: argparse.Namespace, place: Place, data: Path, weights: Path | None, run: Path, resumes: bool, logs: Path
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
    target, settled = settled_target(config.run.device_target, environment)
    words += settled
    check_beforehand(config, target, place.ranks, run if resumes else None, args.begin_epoch)
    if place.ranks == 1 and place.device_id is not None:
        words += ["--device_id", str(place.device_id)]
    command = [sys.executable, "-m", "mindloc", "train", *words]
    if place.per_card:
        return plan_one_process(
            command,
            log_dir=logs,
            reason=f"ModelArts runs the boot file once per card, and this is rank {place.rank} of {place.ranks}",
            environment=environment,
            rank=place.rank,
            world_size=place.ranks,
            rank_variables=place.rank_variables(),
        )
    if place.ranks == 1:
        return plan_one_process(command, log_dir=logs, environment=environment)
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


def build_evaluation(args: argparse.Namespace, place: Place, data: Path, weights: Path, out: Path, logs: Path) -> Plan:
    """``mindloc eval`` (eval.py) on one card; what the parameters set of the training says nothing to it."""
    kept = [override for override in args.overrides if override.partition(".")[0] in EVALUATION_SECTIONS]
    left_out = [override for override in args.overrides if override not in kept]
    if left_out:
        print(f"of a training, and left out of the evaluation: {', '.join(left_out)}", flush=True)
    words = ["--checkpoint", str(weights), "--out", str(out), "--data_root", yaml_text(data), *set_words(kept)]
    if place.device_id is not None:
        words += ["--device_id", str(place.device_id)]
    command = [sys.executable, "-m", "mindloc", "eval", *words]
    return plan_one_process(command, log_dir=logs, environment=with_source(os.environ))


def _trainer_words(
    args: argparse.Namespace, data: Path, weights: Path | None, run: Path, resumes: bool
) -> tuple[list[str], Config]:
    """(arguments of train.py, the config that they make)"""
    training = Training(
        config=run / "config.yaml" if resumes else config_path(args.config),
        data=data,
        resumed=run if resumes else None,
        weights=weights,
        evaluates=args.eval,
        begin_epoch=args.begin_epoch,
    )
    return trainer_words(training, ["--run_dir", str(run)], set_words(args.overrides), WAY_OUT)


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
