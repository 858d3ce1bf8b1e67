"""Train an encoder, or go on with a training that was stopped.

A new run gets its own folder, work_dir/NAME/MMDDhhmmss, or the one that --run_dir names.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from mindloc.cli.beforehand import check_beforehand
from mindloc.cli.boundary import command
from mindloc.cli.flags import add_config_arguments
from mindloc.config import Config, dump_yaml, load_config
from mindloc.errors import ConfigError, DeviceError
from mindloc.launch.log_folder import new_log_folder
from mindloc.launch.plan import plan_ranks
from mindloc.launch.process import with_source
from mindloc.launch.supervise import run_plan
from mindloc.launch.target import settled_target
from mindloc.runtime.checkpoint import weights_of_run
from mindloc.runtime.cluster import announced_device, announced_ranks, join_cluster
from mindloc.runtime.device import use_device
from mindloc.runtime.run_folder import RunFolder
from mindloc.runtime.signals import last_words


def parser(kind: Callable[..., argparse.ArgumentParser] = argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Args: kind: class of the parser, for callers that tell errors in another way."""
    parser = kind(
        prog="train.py", description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser)
    parser.add_argument("--run_dir", type=Path, help="new folder for this run")
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="RUN",
        help="go on with this run folder exactly where it stopped, with its own config; --epochs may be raised",
    )
    parser.add_argument(
        "--begin_epoch", type=int, metavar="N", help="refuse to begin unless exactly N epochs are done by then"
    )
    return parser


@command
def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.resume and (args.config or args.run_dir):
        raise ConfigError("--resume goes on with the run's own config and folder; leave out --config and --run_dir")
    resumed = RunFolder.open(args.resume) if args.resume else None
    config = load_config(resumed.config_path if resumed else args.config, args.overrides, of_run=resumed is not None)
    launched = announced_ranks() > 1
    if len(config.run.device_ids) > 1 and not launched:
        return train_on_cards(config, args, sys.argv[1:] if argv is None else argv)
    card = announced_device() if launched else config.run.device_ids[0]
    device = use_device(config.run.device_target, card, config.run.operator_fusion)
    cluster = join_cluster(device)

    from mindloc.training.trainer import prepare, train  # after the device is chosen: it imports MindSpore

    # before a folder is made: a training that is refused leaves nothing behind
    prepared = prepare(config, resumed, cluster, args.begin_epoch)
    if not cluster.is_first:
        train(prepared, None)
        return 0
    run = resumed or new_run(config, args.run_dir, [sys.argv[0], *(sys.argv[1:] if argv is None else argv)])
    print(f"run folder: {run.path}\ndevice: {device.description}")
    way_on = f"go on from the newest checkpoint with: --resume {run.path}"
    try:
        with last_words(way_on):
            train(prepared, run)
        print(f"evaluate with: python eval.py --checkpoint {weights_of_run(run.checkpoints)}")
    except KeyboardInterrupt:
        print(way_on, file=sys.stderr)
        raise
    return 0


def train_on_cards(config: Config, args: argparse.Namespace, words: list[str]) -> int:
    """As many ranks as ``run.device_ids`` names cards of this server, each of which runs this command.

    Raises:
        DeviceError: cards are named and this machine has none.
        MindlocError: what every rank would refuse.
    """
    cards, environment = config.run.device_ids, with_source(os.environ)
    target, settled = settled_target(config.run.device_target, environment)
    if config.run.device_target == "auto" and target == "CPU":
        raise DeviceError(
            f"run.device_ids names {len(cards)} cards and neither Ascend nor GPU works here (see python -m mindloc "
            f"doctor); --device_target CPU trains {len(cards)} ranks on the processor"
        )
    check_beforehand(config, target, len(cards), args.resume, args.begin_epoch)
    log_dir = new_log_folder(Path(config.run.work_dir))
    command = [sys.executable, "-m", "mindloc", "train", *words, *settled]
    return run_plan(plan_ranks(command, target=target, log_dir=log_dir, device_ids=cards, environment=environment))


def new_run(config: Config, folder: Path | None, words: list[str]) -> RunFolder:
    """A new run folder that holds its config and the command."""
    name = config.run.name or config.model.backbone
    return RunFolder.create(config.run.work_dir, name, dump_yaml(config), words, folder)
