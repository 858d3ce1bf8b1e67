"""A job from its parameters to its results: copies in, train.py or eval.py, copies out.

The training is a process of its own under the launch room's watch, also where it is alone: one that is killed outright,
say for want of memory, must not take with it the thread that sends the results.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mindloc.cli.boundary import command
from mindloc.errors import MindlocError, StoreError
from mindloc.launch.plan import Plan
from mindloc.launch.stopping import requests_to_stop_ignored
from mindloc.launch.supervise import run_plan
from mindloc.modelarts.arguments import parse_arguments
from mindloc.modelarts.build import build_evaluation, build_training
from mindloc.modelarts.build_store import build_store
from mindloc.modelarts.checkpoint_url import bring_checkpoint, require_own_place, weights_url
from mindloc.modelarts.environment import Place, place_by_table, read_place
from mindloc.modelarts.incoming import bring_file, bring_folder, find_scratch, start_id
from mindloc.modelarts.object_store import join
from mindloc.modelarts.outgoing import Outgoing

STOPPED = 130


@command
def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(sys.argv[1:] if argv is None else argv)
    place = place_by_table(read_place(os.environ), os.environ) if args.modelarts else Place()
    if args.evaluate_only or not args.run_distribute:
        if not place.is_first:
            print("one card is asked for, and another process of this job has it", flush=True)
            return 0
        place = Place(device_id=place.device_id)
    scratch = find_scratch(args.scratch, os.environ)
    work = evaluate if args.evaluate_only else train
    return work(args, place, scratch, Path(tempfile.mkdtemp(prefix="start_", dir=scratch)))


def train(args: argparse.Namespace, place: Place, scratch: Path, own: Path) -> int:
    """Train, or go on with a training; its run folder becomes ``train_url``.

    Args:
        scratch: for the copies that all processes of this server share.
        own: an empty folder of this process.
    """
    with _removed_when_refused(own):
        run, logs = _new_folders(own)
        if place.is_first:
            require_own_place(args.train_url, args.checkpoint_url)
        weights, earlier = bring_checkpoint(args.checkpoint_url, args.train_url, scratch)
        data = bring_folder(build_store(args.data_url), args.data_url, scratch, start_id())
        if earlier and place.is_first:
            shutil.copytree(earlier, run, dirs_exist_ok=True)
        elif earlier:
            run = earlier  # only rank 0 writes
        plan = build_training(args, place, data, weights, run, earlier is not None, logs)
    if not place.is_first:
        return run_plan(plan)
    return _run_and_send(plan, run, logs, args)


def evaluate(args: argparse.Namespace, place: Place, scratch: Path, own: Path) -> int:
    """Evaluate the weights of ``checkpoint_url``; the report goes to ``train_url/reports/test_WEIGHTS``."""
    with _removed_when_refused(own):
        run, logs = _new_folders(own)
        weights = bring_file(build_store(args.checkpoint_url), weights_url(args.checkpoint_url), scratch, start_id())
        data = bring_folder(build_store(args.data_url), args.data_url, scratch, start_id())
        name = f"reports/test_{weights.stem}"
        plan = build_evaluation(args, place, data, weights, run / name, logs)
    code = _run_and_send(plan, run, logs, args)
    if code == 0:
        print(f"report: {join(args.train_url, f'{name}/report.json')}", flush=True)
    return code


def _run_and_send(plan: Plan, run: Path, logs: Path, args: argparse.Namespace) -> int:
    """Run a plan while its results go out; its exit code.

    Raises:
        StoreError: it ended well, and not everything is out.
    """
    logs_name = f"logs/{time.strftime('%m%d%H%M%S')}"
    outgoing = Outgoing(build_store(args.train_url), args.train_url, run, logs, logs_name, args.upload_every_s)
    outgoing.start()
    try:
        code = run_plan(plan)
    except KeyboardInterrupt:
        print("stopped; sending what is there", file=sys.stderr, flush=True)
        code = STOPPED
    with requests_to_stop_ignored():
        try:
            outgoing.finish()
        except StoreError as error:
            missing = StoreError(f"{error}; what is missing lies in {run}")
            if code == 0:
                raise missing from None
            print(f"error: {missing}", file=sys.stderr, flush=True)
            return code
    print(f"results: {args.train_url}", flush=True)
    shutil.rmtree(run.parent)  # the logs are out too
    return code


def _new_folders(own: Path) -> tuple[Path, Path]:
    run, logs = own / "run", own / "logs"
    run.mkdir()
    logs.mkdir()
    return run, logs


@contextmanager
def _removed_when_refused(own: Path) -> Iterator[None]:
    """Before anything was started a folder holds copies alone."""
    try:
        yield
    except MindlocError:
        shutil.rmtree(own)
        raise
