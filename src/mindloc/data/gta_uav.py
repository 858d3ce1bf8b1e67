"""Reader of GTA-UAV: drone/images, satellite/{zoom}_{offset}_{x}_{y}.png on one square map, places in meters.

References:
    Game4Loc, arXiv:2409.16925; github Yux1angJi/GTA-UAV.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from mindloc.config.sections import DataConfig
from mindloc.data.pair_places import check_places, fitting_side_m
from mindloc.data.pairs_file import (
    Layout,
    PairsFile,
    find_tiles,
    join_split,
    note_centers,
    read_pairs,
    stated_centers,
)
from mindloc.data.readers import STOP, Ground, Report, SplitName
from mindloc.data.split import Places, Split
from mindloc.errors import DataError
from mindloc.geo.tiles import TileGrid

_TILE_NAME = re.compile(r"(\d{1,2})_(\d{1,9})_(\d{1,9})_(\d{1,9})(?:\.\w+)?")


def parse_tile(name: str) -> tuple[int, int, int, int]:
    """(zoom, offset, x, y) of a tile name with or without its suffix; see geo/tiles.py.

    Raises:
        DataError: the name is not a tile name.
    """
    match = _TILE_NAME.fullmatch(name)
    if match is None:
        raise DataError(f"tile name is {name!r}; expected {{zoom}}_{{offset}}_{{x}}_{{y}}, for example 4_0_6_13.png")
    zoom, offset, x, y = (int(number) for number in match.groups())
    return zoom, offset, x, y


LAYOUT = Layout("GTA-UAV", "loc_x_y", "plane_m", parse_tile)


def read(data: DataConfig, split: SplitName, report: Report = STOP) -> Split:
    """Read one split; its reference side is every tile in the satellite directory.

    Tile positions are computed from their names, ``data.map_px`` and ``data.m_per_px``. The centers in the file are not
    used: the public preparation script calls its own formula with exchanged arguments, so they may be wrong. If the
    places in the file fit a map of a different size, a problem is reported.
    """
    root, pairs_file, map_px, m_per_px = data.source(split)
    pairs = read_pairs(Path(root) / pairs_file, LAYOUT, report)
    tiles = find_tiles(Path(root), pairs, report)
    tile_S4 = [parse_tile(tile) for tile in tiles]
    grid = TileGrid(map_px, m_per_px)
    joined = join_split(Path(root), pairs, tiles, grid.center_of(tile_S4), report)
    fitting = _fitting_grid(joined, pairs, tiles, tile_S4, grid)
    if fitting:
        report.problem("map constants", _other_constants(pairs, data, split, grid, fitting))
        grid, places = fitting, Places(fitting.center_of(tile_S4), LAYOUT.place_unit)
        joined = replace(joined, reference=replace(joined.reference, places=places))
    note_centers(pairs, tiles, grid.center_of(tile_S4), "check data.map_px and data.m_per_px", report)
    for text in _off_the_map(Path(root) / pairs.tile_directory, tiles, tile_S4):
        report.doubt("tile off the map", text)
    check_places(pairs, joined, grid.bounds_of(tile_S4), report)
    zooms = Counter(zoom for zoom, _, _, _ in tile_S4)
    report.breakdown({f"zoom {zoom}": zooms[zoom] for zoom in sorted(zooms)})
    return joined


def _fitting_grid(
    joined: Split, pairs: PairsFile, tiles: list[str], tile_S4: list[tuple[int, int, int, int]], grid: TileGrid
) -> TileGrid | None:
    """The grid that the places in the pairs file fit, with the pixels of ``grid``; None if that is it or unknown."""
    part_S2 = TileGrid(1, 1.0).center_of(tile_S4)
    tile_part_S = np.exp2([-float(zoom) for zoom, _, _, _ in tile_S4])
    stated_S2 = stated_centers(pairs, tiles)
    side_m = fitting_side_m(joined, part_S2, tile_part_S, stated_S2, float(grid.side_m(0)))
    return None if side_m is None else TileGrid(grid.map_px, float(f"{side_m / grid.map_px:.7g}"))


def _other_constants(pairs: PairsFile, data: DataConfig, split: SplitName, grid: TileGrid, fitting: TileGrid) -> str:
    test = "test_" if split == "test" and (data.test_root or data.test_map_px or data.test_m_per_px) else ""
    return (
        f"{pairs.path}: places of tiles and drone images fit a map of {fitting.side_m(0):.7g} m, but data.{test}map_px="
        f"{grid.map_px} with data.{test}m_per_px={grid.m_per_px:.7g} is a map of {grid.side_m(0):.7g} m; set "
        f"data.{test}m_per_px={fitting.m_per_px:.7g}, or set both so that their product is {fitting.side_m(0):.7g}"
    )


def _off_the_map(directory: Path, tiles: list[str], tile_N4: list[tuple[int, int, int, int]]) -> Iterator[str]:
    """A line for each tile whose center is off the map."""
    center_N2 = TileGrid(1, 1.0).center_of(tile_N4)
    for row in np.flatnonzero((center_N2 > 1).any(axis=1)):
        zoom, last = tile_N4[row][0], 2 ** tile_N4[row][0] - 1
        text = f"{directory / tiles[row]} is off the map, whose last tile of zoom {zoom} is {zoom}_0_{last}_{last}"
        yield f"{text}; correct its name"


def read_ground(data: DataConfig, directory: Path, names: list[str]) -> Ground:
    """The ground of tiles, from their names and the map of the data set that ``directory`` is part of.

    Raises:
        DataError: a name is not that of a tile on the map, or training and test have different maps and it is unknown
            which of them ``directory`` belongs to.
    """
    tile_N4 = [parse_tile(Path(name).name) for name in names]
    for text in _off_the_map(directory, names, tile_N4):
        raise DataError(text)
    return Ground(LAYOUT.place_unit, TileGrid(*_map_of(data, directory)).bounds_of(tile_N4))


def _map_of(data: DataConfig, directory: Path) -> tuple[int, float]:
    """(map_px, m_per_px) of the split whose root is ``directory`` or its nearest parent.

    Raises:
        DataError: this is true of both splits or of neither, and their maps differ.
    """
    maps: dict[Path, set[tuple[int, float]]] = {}
    for split in ("train", "test"):
        root, _, map_px, m_per_px = data.source(split)
        maps.setdefault(Path(root).resolve(), set()).add((map_px, m_per_px))
    path = directory.resolve()
    found = next((maps[above] for above in (path, *path.parents) if above in maps), set().union(*maps.values()))
    if len(found) > 1:
        raise DataError(
            f"tiles in {directory} have no place: the maps of training and test differ, and neither or both of "
            "data.root and data.test_root contain these tiles; set one of the two to their data set"
        )
    return next(iter(found))
