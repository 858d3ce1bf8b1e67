"""Command lines: arguments in, exit code out. Each module is one command; errors of the user become one line."""

import argparse
import importlib
import sys

from mindloc import __version__

COMMANDS = {
    "world": "make a data set: a generated map, its tiles and drone images",
    "check-data": "read a data set and say on one page what is there and what is wrong",
    "train": "train an encoder (as train.py)",
    "eval": "evaluate a checkpoint (as eval.py)",
    "score": "recompute an evaluation from its descriptor sets, without a device",
    "extract": "write the descriptors of a directory of images",
    "pca": "fit the reduction of descriptors to those of many tiles",
    "index": "make, change and look at an index of tiles that can be searched",
    "search": "look drone images up in an index of tiles",
    "export": "write a trained encoder for a device (as export.py)",
    "launch": "start the ranks of a training, as the scripts do",
    "rank-table": "write or check the table of an Ascend cluster's ranks",
    "doctor": "say what this machine has and lacks for each device target",
}


def main(argv: list[str] | None = None) -> int:
    """Hand over to one command's own ``main``, imported only now so that light commands start at once."""
    parser = argparse.ArgumentParser(
        prog="mindloc",
        description="Find a drone image in an index of satellite tiles.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n" + "\n".join(f"  {name:11} {text}" for name, text in COMMANDS.items()),
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...")
    args = parser.parse_args(sys.argv[1:] if argv is None else argv)
    module = importlib.import_module(f"mindloc.cli.{args.command.replace('-', '_')}")
    return module.main(args.arguments)
