"""Write the descriptors of every picture in a folder as descriptor sets: descriptors.npy, rows.jsonl, card.json.

An encoder with two descriptors writes a set for each, omega/ and phi/.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindloc.cli.boundary import command
from mindloc.cli.engine_arguments import add_engine_arguments, engine_wish
from mindloc.cli.flags import add_config_arguments, refuse_overrides_outside
from mindloc.config import override_config
from mindloc.config.schema import Config
from mindloc.data import gta_uav, visloc
from mindloc.data.pairs_file import PICTURE_SUFFIXES
from mindloc.errors import ConfigError, DataError
from mindloc.geo.points import PlaceUnit
from mindloc.inference.build import card_facts, read_source, sample_batches, start_engine
from mindloc.inference.open_exported import compare_with_fp32


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mindloc extract",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="pictures (.png, .jpg, .jpeg), subfolders included")
    add_engine_arguments(parser)
    parser.add_argument("--view", choices=("drone", "satellite"), default="satellite", help="what the pictures are")
    parser.add_argument(
        "--places",
        action="store_true",
        help="of tiles: read place and bounds from their names, by data.reader, data.map_px and data.m_per_px",
    )
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
    ground = tile_ground(config, args.folder, names, args.view) if args.places else None
    engine = start_engine(wish, source, config)

    from mindloc.data.build import build_images  # after the device is chosen: these import MindSpore
    from mindloc.inference.extract import extract

    paths = [args.folder / name for name in names]
    if wish.precision == "int8":
        agreement = compare_with_fp32(engine, sample_batches(config, {args.view: paths}, engine.batch_size))
        print(f"agreement of int8 with fp32: {agreement}")
    batches = build_images(config, args.view, paths, engine.batch_size)
    facts = card_facts(config, args.view, ground and ground.unit)
    place_N2, bounds_N4 = (ground.place_N2, ground.bounds_N4) if ground else (None, None)
    done = extract(engine, args.view, batches, names, place_N2, args.out, facts, bounds_N4=bounds_N4)
    print(f"{args.out}: {done}")


@dataclass(frozen=True)
class Ground:
    """Where N tiles lie, in ``unit``."""

    unit: PlaceUnit
    bounds_N4: np.ndarray  # float64: lowest of both coordinates, then highest of both

    @property
    def place_N2(self) -> np.ndarray:
        """Their centers."""
        return (self.bounds_N4[:, :2] + self.bounds_N4[:, 2:]) / 2


def tile_ground(config: Config, folder: Path, names: list[str], view: str) -> Ground:
    """Where the tiles of a folder lie, by their names and the map of ``config.data``; says what ground they cover.

    Raises:
        ConfigError: the pictures are no tiles.
        DataError: a name that is no tile name, a map whose corners are nowhere.
    """
    if view != "satellite":
        raise ConfigError(f"--places reads places from names of tiles, which {view} pictures don't have; leave it out")
    tiles = [Path(name).name for name in names]
    if config.data.reader == "visloc":
        ground = Ground(visloc.LAYOUT.place_unit, visloc.tile_bounds(folder.resolve().parent, tiles))
    else:
        map_px, m_per_px = config.data.map_px, config.data.m_per_px
        ground = Ground(gta_uav.LAYOUT.place_unit, gta_uav.tile_bounds(tiles, map_px, m_per_px))
    low, high = ground.bounds_N4[:, :2].min(axis=0), ground.bounds_N4[:, 2:].max(axis=0)
    print(f"places: {len(tiles)} tiles from {low[0]:.6g}, {low[1]:.6g} to {high[0]:.6g}, {high[1]:.6g} ({ground.unit})")
    return ground


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
