"""Evaluate a checkpoint or exported files: extract descriptors once, score them from disk, write report and figures.

The architecture comes from the checkpoint, or from the cards of the exported files, and so do the data and evaluation
settings that no flag or --set changes.
"""

import argparse
from datetime import datetime
from pathlib import Path

from mindloc.cli.arguments import (
    add_config_arguments,
    add_engine_arguments,
    engine_request,
    refuse_overrides_outside,
)
from mindloc.cli.command import command
from mindloc.config import override_config
from mindloc.config.sections import DataConfig
from mindloc.data.readers import read_split
from mindloc.data.split import Split
from mindloc.errors import ConfigError, SplitAbsentError
from mindloc.evaluation.evaluate import evaluate
from mindloc.evaluation.report import tables
from mindloc.inference.build import compare_with_exact, read_source, start_engine
from mindloc.registry import ENGINES, HEADS
from mindloc.runtime.run_directory import run_of
from mindloc.vocabulary import SIDES

EVAL_FLAGS = (
    "--data_root",
    "--train_pairs_meta_file",
    "--test_pairs_meta_file",
    "--test_mode",
    "--query_mode",
    "--drone_size_px",
    "--satellite_size_px",
    "--device_target",
    "--device_id",
)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="eval.py", description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_engine_arguments(parser)
    parser.add_argument("--split", choices=("test", "train"), default="test", help="which pairs to ask for")
    parser.add_argument("--out", type=Path, help="directory of the report; default: reports/ beside checkpoints/")
    add_config_arguments(parser, EVAL_FLAGS, with_file=False)
    return parser


@command
def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    refuse_overrides_outside(args.overrides, ("data", "eval", "search", "run"), "the rest is fixed by the checkpoint")
    request = engine_request(args)
    source = read_source(request)
    config = override_config(source.config, args.overrides)
    two_stages = "search.recall_n" in HEADS[config.head.name].reads
    if not two_stages and any(override.startswith("search.") for override in args.overrides):
        raise ConfigError(
            "search.* orders the answers of two stages, and this encoder has one descriptor; leave it out"
        )
    engine = start_engine(request, source, config)

    split = read_split(config.data, args.split)
    compare_with_exact(engine, config, {side: split.paths(side) for side in SIDES})
    train_split = split if args.split == "train" else _train_split(config.data)
    out = args.out or report_directory(args)
    report = evaluate(engine, config, split, out, train_split)
    print(tables(report))
    for role in ("query", "reference"):
        print(f"{report['data'][f'{role}_view']}: {report['origin'][f'{role}_extraction']}")
    for note in report["notes"]:
        print(f"note: {note}")
    print(f"report and figures: {out}")


def _train_split(data: DataConfig) -> Split | None:
    """None where a test set comes alone."""
    try:
        return read_split(data, "train")
    except SplitAbsentError:
        return None


def report_directory(args: argparse.Namespace) -> Path:
    """``reports/{split}_{what}_{time}`` of the run that the encoder comes from, or beside a lone file."""
    if args.checkpoint is not None:
        run, stem = run_of(args.checkpoint), args.checkpoint.stem
    elif args.exported.is_dir():
        run, stem = args.exported.parent, args.exported.name
    else:
        run, stem = args.exported.parent.parent, args.exported.stem
    engine = f"{args.engine}_" if ENGINES[args.engine].file_format else ""
    return run / "reports" / f"{args.split}_{engine}{stem}_{datetime.now():%m%d%H%M%S}"
