"""Write the descriptors of every picture in a folder as a descriptor set: descriptors.npy, rows.jsonl, card.json."""

import argparse
from pathlib import Path

from mindloc.cli.boundary import command
from mindloc.cli.engine_arguments import add_engine_arguments, engine_wish
from mindloc.cli.flags import add_config_arguments, refuse_overrides_outside
from mindloc.config import override_config
from mindloc.data.pairs_file import PICTURE_SUFFIXES
from mindloc.errors import DataError
from mindloc.inference.build import card_facts, read_source, sample_batches, start_engine
from mindloc.inference.open_exported import compare_with_fp32


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mindloc extract", description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="pictures (.png, .jpg, .jpeg), subfolders included")
    add_engine_arguments(parser)
    parser.add_argument("--view", choices=("drone", "satellite"), default="satellite", help="what the pictures are")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the descriptor set")
    add_config_arguments(parser, ("--device_target", "--device_id"), with_file=False)
    return parser


@command
def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    refuse_overrides_outside(args.overrides, ("data", "eval", "run"), "the rest is fixed by the checkpoint")
    names = picture_names(args.folder)
    wish = engine_wish(args)
    source = read_source(wish, (args.view,))
    config = override_config(source.config, args.overrides)
    engine = start_engine(wish, source, config)

    from mindloc.data.build import build_images  # after the device is chosen: these import MindSpore
    from mindloc.inference.extract import extract

    paths = [args.folder / name for name in names]
    if wish.precision == "int8":
        agreement = compare_with_fp32(engine, sample_batches(config, {args.view: paths}, engine.batch_size))
        print(f"agreement of int8 with fp32: {agreement}")
    batches = build_images(config, args.view, paths, engine.batch_size)
    facts = card_facts(config, args.view, None)
    print(f"{args.out}: {extract(engine, args.view, batches, names, None, args.out, facts)}")


def picture_names(folder: Path) -> list[str]:
    """Pictures below a folder, relative to it, sorted.

    Raises:
        DataError: no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give the one that holds the pictures")
    pictures = (path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
    names = sorted(path.relative_to(folder).as_posix() for path in pictures)
    if not names:
        raise DataError(f"{folder} holds no picture ({', '.join(PICTURE_SUFFIXES)})")
    return names
