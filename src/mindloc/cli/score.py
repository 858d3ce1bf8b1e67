"""Recompute an evaluation from its descriptor sets and truth: same numbers, no device, no checkpoint."""

import argparse
from pathlib import Path

from mindloc.cli.command import command
from mindloc.evaluation.report import tables
from mindloc.evaluation.rescore import rescore


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mindloc score", description=__doc__, allow_abbrev=False)
    parser.add_argument("directory", type=Path, help="directory of an evaluation, with query/, reference/, truth.jsonl")
    parser.add_argument("--no_figures", action="store_true", help="numbers only; the figures stay as they are")
    return parser


@command
def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    print(tables(rescore(args.directory, figures=not args.no_figures)))
