"""Write the descriptors of every picture in a folder as a descriptor set: descriptors.npy, rows.jsonl, card.json."""

import argparse
from pathlib import Path

from mindloc.cli.boundary import command
from mindloc.cli.flags import add_config_arguments, refuse_overrides_outside
from mindloc.config import config_from_dict, config_to_dict, override_config
from mindloc.errors import DataError
from mindloc.runtime.checkpoint import load_weights
from mindloc.runtime.device import use_device

SUFFIXES = (".png", ".jpg", ".jpeg")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mindloc extract", description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="pictures (.png, .jpg, .jpeg), subfolders included")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE")
    parser.add_argument("--view", choices=("drone", "satellite"), default="satellite", help="what the pictures are")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the descriptor set")
    add_config_arguments(parser, ("--device_target", "--device_id"), with_file=False)
    return parser


@command
def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    refuse_overrides_outside(args.overrides, ("data", "eval", "run"), "the rest is fixed by the checkpoint")
    names = picture_names(args.folder)
    config = override_config(config_from_dict(load_weights(args.checkpoint).config), args.overrides)
    use_device(config.run.device_target, config.run.device_id)

    from mindloc.data.pipeline import image_dataset  # after the device is chosen: these import MindSpore
    from mindloc.inference.build import load_engine
    from mindloc.inference.extract import extract

    engine, _ = load_engine(args.checkpoint, config.eval.batch_size)
    size_px = config.data.drone_size_px if args.view == "drone" else config.data.satellite_size_px
    paths = [args.folder / name for name in names]
    model, data = config.model, config.data
    batches = image_dataset(paths, size_px, model.mean, model.std, engine.batch_size, data.workers)
    facts = {"place_unit": None, "input_size_px": list(size_px), "config": config_to_dict(config)}
    print(f"{args.out}: {extract(engine, args.view, batches, names, None, args.out, facts)}")


def picture_names(folder: Path) -> list[str]:
    """Pictures below a folder, relative to it, sorted.

    Raises:
        DataError: no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give the one that holds the pictures")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not names:
        raise DataError(f"{folder} holds no picture ({', '.join(SUFFIXES)})")
    return names
