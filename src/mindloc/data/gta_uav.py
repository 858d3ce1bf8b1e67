"""Reader of GTA-UAV: drone/images, satellite/{zoom}_{offset}_{x}_{y}.png on one square map, places in meters.

References:
    Game4Loc, arXiv:2409.16925; github Yux1angJi/GTA-UAV.
"""

import re
from collections import Counter
from pathlib import Path

from mindloc.config.sections import DataConfig
from mindloc.data.pairs_file import Layout, find_tiles, join_split, note_centers, read_pairs
from mindloc.data.readers import STOP, Ground, Report, SplitName
from mindloc.data.split import Split
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
    used: the public preparation script calls its own formula with exchanged arguments, so they may be wrong.
    """
    root, pairs_file, map_px, m_per_px = data.source(split)
    pairs = read_pairs(Path(root) / pairs_file, LAYOUT, report)
    tiles = find_tiles(Path(root), pairs, report)
    tile_S4 = [parse_tile(tile) for tile in tiles]
    place_S2 = TileGrid(map_px, m_per_px).center_of(tile_S4)
    note_centers(pairs, tiles, place_S2, "check data.map_px and data.m_per_px", report)
    zooms = Counter(zoom for zoom, _, _, _ in tile_S4)
    report.breakdown({f"zoom {zoom}": zooms[zoom] for zoom in sorted(zooms)})
    return join_split(Path(root), pairs, tiles, place_S2, report)


def read_ground(data: DataConfig, directory: Path, names: list[str]) -> Ground:
    """The ground of tiles, from their names and the map of the data set that ``directory`` is part of.

    Raises:
        DataError: a name is not a tile name, or training and test have maps of their own and it is part of neither.
    """
    tile_N4 = [parse_tile(name) for name in names]
    return Ground(LAYOUT.place_unit, TileGrid(*_map_of(data, directory)).bounds_of(tile_N4))


def _map_of(data: DataConfig, directory: Path) -> tuple[int, float]:
    """(map_px, m_per_px) of the split whose root is ``directory`` or nearest above it; of both where they agree."""
    maps: dict[Path, set[tuple[int, float]]] = {}
    for split in ("train", "test"):
        root, _, map_px, m_per_px = data.source(split)
        maps.setdefault(Path(root).resolve(), set()).add((map_px, m_per_px))
    path = directory.resolve()
    found = next((maps[above] for above in (path, *path.parents) if above in maps), set().union(*maps.values()))
    if len(found) > 1:
        raise DataError(
            f"tiles in {directory} have no place: the maps of training and test differ, and of data.root and "
            "data.test_root neither or both contain them; set one of the two to their data set"
        )
    return next(iter(found))
