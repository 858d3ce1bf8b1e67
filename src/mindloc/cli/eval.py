"""Evaluate a checkpoint: extract descriptors once, score them from disk, write report and pictures.

The architecture comes from the checkpoint, and so do the data and evaluation settings that no flag or --set changes.
"""

import argparse
from datetime import datetime
from pathlib import Path

from mindloc.cli.boundary import command
from mindloc.cli.flags import add_config_arguments, refuse_overrides_outside
from mindloc.config import config_from_dict, override_config
from mindloc.runtime.device import check_mindspore, use_device

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
    refuse_overrides_outside(args.overrides, ("data", "eval", "run"), "the rest is fixed by the checkpoint")
    check_mindspore()

    from mindloc.runtime.checkpoint import load_weights  # only now, so that a missing installation is one line

    stored = config_from_dict(load_weights(args.checkpoint).config)
    config = override_config(stored, args.overrides)
    device = use_device(config.run.device_target, config.run.device_ids[0])
    print(f"device: {device.description}")

    from mindloc.data.build import build_split  # after the device is chosen: these import MindSpore
    from mindloc.evaluation.evaluate import evaluate
    from mindloc.evaluation.report import tables
    from mindloc.inference.build import load_engine

    engine, _ = load_engine(args.checkpoint, config.eval.batch_size)
    split = build_split(config, args.split)
    has_train_pairs = (Path(config.data.root) / config.data.train_pairs).exists()  # a test set may come alone
    train_split = split if args.split == "train" else build_split(config, "train") if has_train_pairs else None
    out = args.out or default_folder(args.checkpoint, args.split)
    scores = evaluate(engine, config, split, out, train_split)
    print(tables(scores.report))
    for note in scores.report["notes"]:
        print(f"note: {note}")
    print(f"report and pictures: {out}")


def default_folder(checkpoint: Path, split: str) -> Path:
    """``reports/{split}_{checkpoint}_{time}`` of the run that the checkpoint lies in, or beside a lone file."""
    run = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    return run / "reports" / f"{split}_{checkpoint.stem}_{datetime.now():%m%d%H%M%S}"
