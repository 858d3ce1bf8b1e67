"""Train an encoder, or go on with a training that was stopped.

A new run gets its own folder, work_dir/NAME/MMDDhhmmss, or the one that --run_dir names.
"""

import argparse
import sys
from pathlib import Path

from mindloc.cli.boundary import command
from mindloc.cli.flags import add_config_arguments
from mindloc.config import Config, dump_yaml, load_config
from mindloc.errors import ConfigError
from mindloc.runtime.device import use_device
from mindloc.runtime.run_folder import RunFolder


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
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
    return parser


@command
def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    config = load_config(_config_file(args), args.overrides)
    device = use_device(config.run.device_target, config.run.device_id)

    from mindloc.training.trainer import load_splits, train  # after the device is chosen: it imports MindSpore

    splits = load_splits(config)  # before the run folder is made: a data set that is refused leaves nothing behind
    run = open_run(args, config, [sys.argv[0], *(sys.argv[1:] if argv is None else argv)])
    print(f"run folder: {run.path}\ndevice: {device.description}")
    try:
        train(config, run, splits, resume=args.resume is not None)
    except KeyboardInterrupt:
        print(f"go on from the newest checkpoint with: --resume {run.path}", file=sys.stderr)
        raise


def open_run(args: argparse.Namespace, config: Config, words: list[str]) -> RunFolder:
    """The folder of the run that goes on, or a new one that holds its config and this command."""
    if args.resume:
        return RunFolder.open(args.resume)
    name = config.run.name or config.model.backbone
    return RunFolder.create(config.run.work_dir, name, dump_yaml(config), words, args.run_dir)


def _config_file(args: argparse.Namespace) -> Path | None:
    if args.resume and (args.config or args.run_dir):
        raise ConfigError("--resume goes on with the run's own config and folder; leave out --config and --run_dir")
    return RunFolder.open(args.resume).config_path if args.resume else args.config
