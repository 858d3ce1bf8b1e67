"""Write the descriptors of every image in a directory as descriptor sets: descriptors.npy, rows.jsonl, card.json.

An encoder with two descriptors writes a set for each, omega/ and phi/.
"""

import argparse
from pathlib import Path

from mindloc.cli.arguments import (
    add_config_arguments,
    add_engine_arguments,
    add_view_argument,
    engine_request,
    refuse_overrides_outside,
)
from mindloc.cli.command import command
from mindloc.config import override_config
from mindloc.data.images import image_names
from mindloc.data.loader import ImageBatches
from mindloc.data.readers import read_ground
from mindloc.errors import ConfigError
from mindloc.inference.build import card_facts, compare_with_exact, read_source, start_engine
from mindloc.inference.extract import extract


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mindloc extract",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", type=Path, help="images (.png, .jpg, .jpeg), subdirectories included")
    add_engine_arguments(parser)
    add_view_argument(parser, "reference")
    parser.add_argument(
        "--places",
        action="store_true",
        help="of tiles: read place and bounds from their names, by data.reader, data.map_px and data.m_per_px",
    )
    parser.add_argument("--out", type=Path, required=True, help="new directory for the descriptor set")
    add_config_arguments(parser, ("--device_target", "--device_id"), with_file=False)
    return parser


@command
def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    refuse_overrides_outside(args.overrides, ("data", "eval", "run"), "the rest is fixed by the checkpoint")
    names = image_names(args.directory)
    request = engine_request(args)
    source = read_source(request, ("reference",), args.view)
    config, side = override_config(source.config, args.overrides), source.side
    if args.places and side != "reference":
        view = config.view(side).name
        raise ConfigError(f"--places reads places from names of tiles, which {view} images don't have; leave it out")
    ground = read_ground(config.data, args.directory, names) if args.places else None
    if ground:
        print(f"places: {ground}")
    engine = start_engine(request, source, config)

    paths = [args.directory / name for name in names]
    compare_with_exact(engine, config, {side: paths})
    batches = ImageBatches(config.view(side), paths, engine.batch_size, config.data.workers)
    facts = card_facts(config, side, ground and ground.unit)
    place_N2, bounds_N4 = (ground.place_N2, ground.bounds_N4) if ground else (None, None)
    done = extract(engine, side, batches, names, place_N2, args.out, facts, bounds_N4=bounds_N4)
    print(f"{args.out}: {done}")
