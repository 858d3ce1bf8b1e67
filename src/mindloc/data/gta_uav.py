"""GTA-UAV's layout: drone/images, satellite/{zoom}_{offset}_{x}_{y}.png on one square map, places in meters.

References:
    Game4Loc, arXiv:2409.16925; github Yux1angJi/GTA-UAV.
"""

from pathlib import Path

import numpy as np

from mindloc.data.pairs_file import Layout, join_split, read_pairs_and_tiles
from mindloc.data.split import Split, share_of_queries
from mindloc.geo.tiles import TileGrid

LAYOUT = Layout("GTA-UAV", "loc_x_y", "plane_m", TileGrid(map_px=1, m_per_px=1.0).parse)


def read_split(
    root: Path | str,
    pairs_file: str,
    map_px: int,
    m_per_px: float,
    train_ratio: float = 1.0,
    json_only: bool = False,
) -> Split:
    """One split of a data set in GTA-UAV's layout; its gallery is every tile in the satellite folder.

    Args:
        pairs_file: the JSON file, relative to ``root``.
        map_px: side of the map at the finest zoom, pixels.
        m_per_px: meters per pixel of that map.
        train_ratio: share of the drone pictures that is kept, above 0, at most 1.
        json_only: look for no picture; the gallery is then the tiles that the pairs name.

    Raises:
        DataError: the first thing that is wrong, with file, entry and key.
    """
    root = Path(root)
    pairs, tiles = read_pairs_and_tiles(root, pairs_file, LAYOUT, json_only)
    split = join_split(root, pairs, tiles, tile_places(tiles, map_px, m_per_px))
    return share_of_queries(split, train_ratio)


def tile_places(tiles: list[str], map_px: int, m_per_px: float) -> np.ndarray:
    """(S,2) float64: the centers of the tiles in meters, from their names.

    The centers that the file states are not used: the public preparation script calls its own formula with the
    arguments in another order, so they may be wrong there.
    """
    grid = TileGrid(map_px, m_per_px)
    return grid.center_of(np.array([grid.parse(tile) for tile in tiles]))


def tile_bounds(tiles: list[str], map_px: int, m_per_px: float) -> np.ndarray:
    """(S,4) float64: left, top, right, bottom of the tiles in meters, from their names.

    Raises:
        DataError: a name that is no tile name.
    """
    grid = TileGrid(map_px, m_per_px)
    return grid.bounds_of(np.array([grid.parse(tile) for tile in tiles]))
