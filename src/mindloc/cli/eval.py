"""Evaluate a checkpoint: extract descriptors once, score them from disk, write report and pictures.

The architecture comes from the checkpoint, and so do the data and evaluation settings that no flag or --set changes.
"""

import argparse
from datetime import datetime
from pathlib import Path

from mindloc.cli.boundary import command
from mindloc.cli.flags import add_config_arguments, refuse_overrides_outside
from mindloc.config import config_from_dict, override_config
from mindloc.runtime.checkpoint import load_weights
from mindloc.runtime.device import use_device

EVAL_FLAGS = (
    "--data_root",
    "--train_pairs_meta_file",
    "--test_pairs_meta_file",
    "--test_mode",
    "--query_mode",
    "--device_target",
    "--device_id",
)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="eval.py", description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="weights of a training run")
    parser.add_argument("--split", choices=("test", "train"), default="test", help="which pairs to ask for")
    parser.add_argument("--out", type=Path, help="folder of the report; default: reports/ beside checkpoints/")
    add_config_arguments(parser, EVAL_FLAGS, with_file=False)
    return parser


@command
def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    reason = "the rest is fixed by the checkpoint"
    refuse_overrides_outside(args.overrides, ("data", "eval", "run"), reason)
    stored = config_from_dict(load_weights(args.checkpoint).config)
    config = override_config(stored, args.overrides)
    device = use_device(config.run.device_target, config.run.device_id)
    print(f"device: {device.description}")

    from mindloc.data.build import build_split  # after the device is chosen: these import MindSpore
    from mindloc.evaluation.evaluate import evaluate
    from mindloc.evaluation.report import tables
    from mindloc.inference.build import load_engine

    engine, _ = load_engine(args.checkpoint, config.eval.batch_size)
    split, train_split = build_split(config, args.split), build_split(config, "train")
    out = args.out or default_folder(args.checkpoint, args.split)
    scores = evaluate(engine, config, split, out, train_split)
    print(tables(scores.report))
    print(f"report and pictures: {out}")


def default_folder(checkpoint: Path, split: str) -> Path:
    """``reports/{split}_{checkpoint}_{time}`` of the run that the checkpoint lies in, or beside a lone file."""
    run = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    return run / "reports" / f"{split}_{checkpoint.stem}_{datetime.now():%m%d%H%M%S}"
