"""Train an encoder, or go on with a training that was stopped.

A new run gets its own directory, work_dir/NAME/MMDDhhmmss, or the one that --run_dir names.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from mindloc.cli.arguments import add_config_arguments
from mindloc.cli.command import command
from mindloc.config import Config, config_to_dict, load_config
from mindloc.errors import ConfigError, DeviceError
from mindloc.launch.plan import plan_ranks, require_shareable_batch, settled_target
from mindloc.launch.processes import with_source
from mindloc.launch.supervise import new_log_directory, run_plan
from mindloc.runtime.checkpoint import weights_of_run
from mindloc.runtime.cluster import announced_device, announced_ranks, join_cluster
from mindloc.runtime.device import require_precision, use_device
from mindloc.runtime.process import last_words
from mindloc.runtime.run_directory import RunDirectory
from mindloc.training.resume import check_begin_epoch, check_settings, find_resume_point


def parser(kind: Callable[..., argparse.ArgumentParser] = argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Args: kind: class of the parser, for callers that tell errors in another way."""
    parser = kind(
        prog="train.py", description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser)
    parser.add_argument("--run_dir", type=Path, help="new directory for this run")
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="RUN",
        help="go on with this run directory exactly where it stopped, with its own config; --epochs may be raised",
    )
    parser.add_argument(
        "--begin_epoch", type=int, metavar="N", help="refuse to begin unless exactly N epochs are done by then"
    )
    return parser


@command
def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.resume and (args.config or args.run_dir):
        raise ConfigError("--resume goes on with the run's own config and directory; leave out --config and --run_dir")
    resumed = RunDirectory.open(args.resume) if args.resume else None
    config = load_config(resumed.config_path if resumed else args.config, args.overrides, of_run=resumed is not None)
    launched = announced_ranks() > 1
    if len(config.run.device_ids) > 1 and not launched:
        return train_on_cards(config, args, sys.argv[1:] if argv is None else argv)
    card = announced_device() if launched else config.run.device_ids[0]
    device = use_device(config.run.device_target, card, config.run.operator_fusion)
    cluster = join_cluster(device)

    from mindloc.training.trainer import new_run, prepare, train  # after the device is chosen: it imports MindSpore

    # before a directory is made: a training that is refused leaves nothing behind
    training = prepare(config, resumed, cluster, args.begin_epoch)
    if not cluster.is_first:
        train(training, None)
        return 0
    run = resumed or new_run(config, args.run_dir, [sys.argv[0], *(sys.argv[1:] if argv is None else argv)])
    print(f"run directory: {run.path}\ndevice: {device.description}")
    how_to_resume = f"go on from the newest checkpoint with: --resume {run.path}"
    try:
        with last_words(how_to_resume):
            train(training, run)
        print(f"evaluate with: python eval.py --checkpoint {weights_of_run(run.checkpoints)}")
    except KeyboardInterrupt:
        print(how_to_resume, file=sys.stderr)
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
    check_before_start(config, target, len(cards), args.resume, args.begin_epoch)
    log_dir = new_log_directory(Path(config.run.work_dir))
    command = [sys.executable, "-m", "mindloc", "train", *words, *settled]
    return run_plan(plan_ranks(command, target=target, log_dir=log_dir, device_ids=cards, environment=environment))


def check_before_start(config: Config, target: str, ranks: int, resumed: Path | None, begin_epoch: int | None) -> None:
    """Refuse once, before any rank is started and without MindSpore, what every rank would refuse.

    Args:
        target: "CPU", "GPU" or "Ascend", where the training will run.
        resumed: run directory to resume.
        begin_epoch: epochs that the user takes for done.

    Raises:
        LaunchError: the batch can't be shared among the ranks.
        DeviceError: the target does not train in that precision.
        CheckpointError: the run has reached another epoch, is damaged, or belongs to another model.
    """
    require_shareable_batch(config.train.batch_size, ranks)
    if target != "Ascend":  # there it depends on the chip, which the ranks alone can ask
        require_precision(config.train.precision, target, training=True)
    point = find_resume_point(RunDirectory.open(resumed)) if resumed else None
    check_begin_epoch(point, begin_epoch)
    if point:
        check_settings(point, config_to_dict(config))
