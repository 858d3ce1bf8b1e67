"""Recompute an evaluation from its descriptor sets and truth: same numbers, no device, no checkpoint."""

import argparse
from pathlib import Path

from mindloc.cli.command import command
from mindloc.evaluation.report import tables
from mindloc.evaluation.rescore import rescore


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mindloc score", description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="folder of an evaluation (it holds query/, gallery/, truth.jsonl)")
    parser.add_argument("--no_pictures", action="store_true", help="numbers only; the pictures stay as they are")
    return parser


@command
def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    print(tables(rescore(args.folder, pictures=not args.no_pictures).report))
