"""Read a data set and say on one page what is there and what is wrong; the exit code is 1 when something is."""

import argparse
from pathlib import Path

from mindloc.cli.boundary import command
from mindloc.cli.flags import add_config_arguments
from mindloc.config import load_config
from mindloc.data.check import check_data


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mindloc check-data", description=__doc__, allow_abbrev=False)
    parser.add_argument("root", nargs="?", help="data set folder; default: data.root of the config")
    add_config_arguments(parser, ("--train_pairs_meta_file", "--test_pairs_meta_file"))
    parser.add_argument("--lists_only", action="store_true", help="look whether the pictures are there, decode none")
    return parser


@command
def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    data = load_config(args.config, args.overrides).data
    root = Path(args.root or data.root)
    lists = {"train": data.train_pairs, "test": data.test_pairs}
    absent = [name for name, pairs in lists.items() if not (root / pairs).exists()]
    if len(absent) == 1:  # a data set for training or for testing alone is fine; one with neither is not
        print(f"no {absent[0]} pairs here ({lists[absent[0]]}): only the other list is checked")
        lists[absent[0]] = None
    report = check_data(
        root, lists["train"], lists["test"], data.map_px, data.m_per_px, data.reader, read_pictures=not args.lists_only
    )
    print(report.text())
    return 0 if report.ok else 1
