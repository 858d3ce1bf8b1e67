"""Make a data set in GTA-UAV's layout from a seed: a map, its satellite tiles, and drone images of it.

The same arguments give the same bytes.
"""

import argparse
import sys
import types
import typing
from pathlib import Path

from tqdm import tqdm

from mindloc.cli.command import command
from mindloc.world.dataset import generate_world
from mindloc.world.spec import WorldSpec

HELP = {
    "seed": "another seed is another world",
    "map_px": "side of the square map, pixels",
    "m_per_px": "meters per map pixel",
    "zooms": "a tile of zoom z is map_px / 2^z map pixels wide",
    "offsets": "shifts of the tile cut, in 256ths of a tile",
    "tiles": "keep this many tiles, those nearest to the middle",
    "drones": "drone images",
    "heights_m": "flight levels, meters; default: footprints as large as the two finest tiles",
    "flights": "each has its own season, light and camera",
    "test_share": "share of the drone images in the test lists",
}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mindloc world",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="new directory")
    for field, hint in typing.get_type_hints(WorldSpec).items():
        _add_field(parser, field, hint, getattr(WorldSpec, field))
    return parser


def _add_field(parser: argparse.ArgumentParser, field: str, hint: typing.Any, default: typing.Any) -> None:
    """One option per field of the spec, so that the two never part."""
    flag = f"--{field}"
    text = HELP.get(field, field.replace("_", " ")) + ("" if default is None else f" (default {default})")
    if typing.get_origin(hint) is types.UnionType:  # X | None
        hint = typing.get_args(hint)[0]
    if hint is bool:
        parser.add_argument(flag, f"--{field.replace('_', '-')}", action="store_true", help=text)
    elif typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        parser.add_argument(flag, type=item, nargs="+", default=default, metavar="N", help=text)
    elif typing.get_origin(hint) is typing.Literal:
        parser.add_argument(flag, choices=typing.get_args(hint), default=default, help=text)
    else:
        parser.add_argument(
            flag, type=hint, default=default, metavar=field.rpartition("_")[0].upper() or "N", help=text
        )


@command
def main(argv: list[str] | None = None) -> None:
    values = vars(parser().parse_args(argv))
    out = values.pop("out")
    spec = WorldSpec(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    with _Bars() as bars:
        generate_world(spec, out, bars.show)
    print(
        f"{out}: a world of seed {spec.seed}, {spec.map_m:.0f} m wide; use it with "
        f"--set data.map_px={spec.map_px} --set data.m_per_px={spec.m_per_px}"
    )


class _Bars:
    """One progress bar per stage on a terminal; nothing elsewhere."""

    def __init__(self):
        self._stage, self._bar = None, None

    def __enter__(self) -> "_Bars":
        return self

    def __exit__(self, *error) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage:
            self.__exit__()
            self._stage, self._bar = stage, tqdm(total=total, desc=stage, disable=not sys.stderr.isatty())
        self._bar.update(done - self._bar.n)
