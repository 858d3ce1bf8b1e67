"""Read a data set and say on one page what is there and what is wrong; the exit code is 1 when something is.

Where data.test_root names a second data set for testing, that one gets a page of its own.
"""

import argparse
from pathlib import Path

from mindloc.cli.arguments import add_config_arguments
from mindloc.cli.command import command
from mindloc.config import load_config
from mindloc.config.schema import DataConfig
from mindloc.data.check import check_data


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mindloc check-data", description=__doc__, allow_abbrev=False)
    parser.add_argument("root", nargs="?", help="data set folder; default: those of the config")
    add_config_arguments(parser, ("--train_pairs_meta_file", "--test_pairs_meta_file"))
    parser.add_argument("--lists_only", action="store_true", help="look whether the pictures are there, decode none")
    return parser


@command
def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    config = load_config(args.config, args.overrides)
    if args.root:  # a folder that is named is looked at alone
        config = config.with_values({"data.root": args.root, "data.test_root": None})
    data = config.data
    reports = [
        check_data(root, pairs["train"], pairs["test"], map_px, m_per_px, data.reader, not args.lists_only)
        for root, pairs, map_px, m_per_px in (_two_sources(data) if data.test_root else [_one_source(data)])
    ]
    print("\n\n".join(report.text() for report in reports))
    return 0 if all(report.ok for report in reports) else 1


Source = tuple[Path, dict[str, str | None], int, float]  # root, split -> pairs file, map_px, m_per_px


def _two_sources(data: DataConfig) -> list[Source]:
    """The data set to train on and the one to be tested on, each with its own list alone."""
    sources = []
    for split in ("train", "test"):
        root, pairs, map_px, m_per_px = data.source(split)
        sources.append((Path(root), {"train": None, "test": None, split: pairs}, map_px, m_per_px))
    return sources


def _one_source(data: DataConfig) -> Source:
    """One data set with both lists; for training or for testing alone is fine, one with neither is not."""
    root, pairs = Path(data.root), {"train": data.train_pairs, "test": data.test_pairs}
    absent = [split for split, name in pairs.items() if not (root / name).exists()]
    if len(absent) == 1:
        print(f"no {absent[0]} pairs here ({pairs[absent[0]]}): only the other list is checked")
        pairs[absent[0]] = None
    return root, pairs, data.map_px, data.m_per_px
