"""A job from its parameters to its results: copy data in, run train.py or eval.py, copy results out.

The training is a separate process under the launcher's supervision, even if it is a single one: if it is killed, for
example because memory is short, the thread that sends the results must survive.
"""

import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from mindloc.cli.command import exit_code_of
from mindloc.cli.train import TrainingCommand, set_words
from mindloc.config import AFTER_TRAINING
from mindloc.errors import LaunchError, MindlocError, StoreError
from mindloc.launch.plan import Plan, plan_one_process, plan_ranks
from mindloc.launch.processes import MASTER_PORT, own_command, with_source
from mindloc.launch.rank_table import read_rank_table
from mindloc.launch.supervise import requests_to_stop_ignored, run_plan
from mindloc.modelarts.arguments import Place, parse_arguments, place_by_table, read_place
from mindloc.modelarts.incoming import (
    bring_checkpoint,
    bring_directory,
    bring_file,
    find_scratch,
    require_own_place,
    start_id,
    weights_url,
)
from mindloc.modelarts.outgoing import Outgoing
from mindloc.modelarts.stores import build_store, join

STOPPED = 130
_NAME_PAUSES_S = (2.0, 5.0, 10.0, 20.0)


def main(argv: list[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return exit_code_of(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: Sequence[str]) -> int:
    args = parse_arguments(argv)
    place = place_by_table(read_place(os.environ), os.environ) if args.modelarts else Place()
    if args.evaluate_only or not args.run_distribute:
        if not place.is_first:
            print("one card is requested, and another process of this job uses it", flush=True)
            return 0
        place = Place(device_id=place.device_id)
    scratch = find_scratch(args.scratch, os.environ)
    work = evaluate if args.evaluate_only else train
    return work(args, place, scratch, Path(tempfile.mkdtemp(prefix="start_", dir=scratch)))


def train(args: SimpleNamespace, place: Place, scratch: Path, own: Path) -> int:
    """Train, or resume a training run, and return the exit code; the run directory is copied to ``train_url``.

    Args:
        scratch: directory of the copies that all processes of this server share.
        own: an empty directory of this process.
    """
    with _removed_on_error(own):
        run, logs = _new_directories(own)
        if place.is_first:
            require_own_place(args.train_url, args.checkpoint_url)
        weights, earlier = bring_checkpoint(args.checkpoint_url, args.train_url, scratch)
        data = bring_directory(build_store(args.data_url), args.data_url, scratch, start_id())
        if earlier and place.is_first:
            shutil.copytree(earlier, run, dirs_exist_ok=True)
        elif earlier:
            run = earlier  # only rank 0 writes
        plan = build_training(args, place, data, weights, run, earlier is not None, logs)
    if not place.is_first:
        return run_plan(plan)
    return _run_and_send(plan, run, logs, args)


def evaluate(args: SimpleNamespace, place: Place, scratch: Path, own: Path) -> int:
    """Evaluate the weights of ``checkpoint_url``; the report is copied to ``train_url/reports/test_WEIGHTS``."""
    with _removed_on_error(own):
        run, logs = _new_directories(own)
        weights = bring_file(build_store(args.checkpoint_url), weights_url(args.checkpoint_url), scratch, start_id())
        data = bring_directory(build_store(args.data_url), args.data_url, scratch, start_id())
        name = f"reports/test_{weights.stem}"
        plan = build_evaluation(args, place, data, weights, run / name, logs)
    code = _run_and_send(plan, run, logs, args)
    if code == 0:
        print(f"report: {join(args.train_url, f'{name}/report.json')}", flush=True)
    return code


def _run_and_send(plan: Plan, run: Path, logs: Path, args: SimpleNamespace) -> int:
    """Run a plan while its results are sent to ``train_url``, and return its exit code.

    Raises:
        StoreError: the plan succeeded, but not all results could be sent.
    """
    logs_name = f"logs/{time.strftime('%m%d%H%M%S')}"
    outgoing = Outgoing(build_store(args.train_url), args.train_url, run, logs, logs_name, args.upload_every_s)
    outgoing.start()
    try:
        code = run_plan(plan)
    except KeyboardInterrupt:
        print("stopped; sending the results so far", file=sys.stderr, flush=True)
        code = STOPPED
    with requests_to_stop_ignored():
        try:
            outgoing.finish()
        except StoreError as error:
            missing = StoreError(f"{error}; what is missing is in {run}")
            if code == 0:
                raise missing from None
            print(f"error: {missing}", file=sys.stderr, flush=True)
            return code
    print(f"results: {args.train_url}", flush=True)
    shutil.rmtree(run.parent)  # the logs are sent too
    return code


def _new_directories(own: Path) -> tuple[Path, Path]:
    run, logs = own / "run", own / "logs"
    run.mkdir()
    logs.mkdir()
    return run, logs


@contextmanager
def _removed_on_error(own: Path) -> Iterator[None]:
    """Context that removes ``own`` after an error: before anything is started it contains copies only."""
    try:
        yield
    except MindlocError:
        shutil.rmtree(own)
        raise


def build_training(
    args: SimpleNamespace, place: Place, data: Path, weights: Path | None, run: Path, resumes: bool, logs: Path
) -> Plan:
    """The plan that runs ``mindloc train`` (train.py) on the cards of this job.

    Args:
        weights: initial weights.
        run: an empty directory, or the run to resume if ``resumes``.

    Raises:
        ConfigError: the config or an override is invalid.
        LaunchError: the ranks can't be started like this.
    """
    training = TrainingCommand(
        experiment=args.config,
        data=data,
        resumed=run if resumes else None,
        run_dir=run,
        weights=weights,
        evaluates=args.eval,
        begin_epoch=args.begin_epoch,
        own=args.overrides,
    )
    environment = with_source(os.environ)
    target, words = training.checked(place.ranks, place.device_id, environment)
    command = own_command("train", *words)
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


def build_evaluation(args: SimpleNamespace, place: Place, data: Path, weights: Path, out: Path, logs: Path) -> Plan:
    """The plan that runs ``mindloc eval`` (eval.py) on one card, without the overrides that concern training only."""
    kept = [override for override in args.overrides if override.partition(".")[0] in AFTER_TRAINING]
    left_out = [override for override in args.overrides if override not in kept]
    if left_out:
        print(f"for training only, left out of the evaluation: {', '.join(left_out)}", flush=True)
    words = ["--checkpoint", str(weights), "--out", str(out), "--data_root", str(data), *set_words(kept)]
    if place.device_id is not None:
        words += ["--device_id", str(place.device_id)]
    command = own_command("eval", *words)
    return plan_one_process(command, log_dir=logs, environment=with_source(os.environ))


def _address(name: str | None) -> str:
    """The address of the first server, whose name may resolve only some seconds after the other servers have started.

    Raises:
        LaunchError: the name is not given, or does not resolve.
    """
    if name is None:
        raise LaunchError("there are several servers, but VC_WORKER_HOSTS does not name the first, the master; set it")
    for pause_s in (*_NAME_PAUSES_S, 0.0):
        try:
            return socket.gethostbyname(name)
        except OSError as error:
            reason = error
            time.sleep(pause_s)
    raise LaunchError(f"the first server, {name}, has no address here: {reason.strerror}; correct VC_WORKER_HOSTS")
