"""Read a data set and say on one page what is there and what is wrong; the exit code is 1 when something is.

Where data.test_root names a second data set for testing, that one gets a page of its own.
"""

import argparse

from mindloc.cli.arguments import add_config_arguments
from mindloc.cli.command import command
from mindloc.config import load_config
from mindloc.data.check import check_data
from mindloc.data.readers import SplitName

SPLITS: tuple[SplitName, ...] = ("train", "test")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mindloc check-data", description=__doc__, allow_abbrev=False)
    parser.add_argument("root", nargs="?", help="directory of the data set; default: those of the config")
    add_config_arguments(parser, ("--train_pairs_meta_file", "--test_pairs_meta_file"))
    parser.add_argument("--lists_only", action="store_true", help="look whether the images are there, decode none")
    return parser


@command
def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    config = load_config(args.config, args.overrides)
    if args.root:  # a directory that is named is looked at alone
        config = config.with_values({"data.root": args.root, "data.test_root": None})
    pages = [(split,) for split in SPLITS] if config.data.test_root else [SPLITS]
    reports = [check_data(config.data, splits, read_images=not args.lists_only) for splits in pages]
    print("\n\n".join(report.text() for report in reports))
    return 0 if all(report.ok for report in reports) else 1
