"""A square map cut into tiles, zoom by zoom, and the place of each tile.

At zoom z the map is cut into 2^z by 2^z tiles; an offset, in 256ths of a tile, shifts the whole grid right and down
by the same length. A tile is a row (zoom, offset, x, y) with x to the right and y down. Shapes: T tiles.
"""

import math
from dataclasses import dataclass

import numpy as np

OFFSET_UNITS = 256  # an offset of 128 is half a tile


@dataclass(frozen=True)
class TileGrid:
    """How one square map is cut into tiles.

    Args:
        map_px: side of the map, pixels.
        m_per_px: meters per pixel of that map.
    """

    map_px: int
    m_per_px: float

    def side_m(self, zoom):
        """Side of a tile in meters; ``zoom`` may be an array."""
        return self.map_px * self.m_per_px / np.exp2(zoom)

    def bounds_of(self, tile_T4) -> np.ndarray:
        """(T, 4) float64: left, top, right, bottom of each tile in meters, y down."""
        tile_T4 = np.asarray(tile_T4).reshape(-1, 4)
        side_T = self.side_m(tile_T4[:, 0].astype(np.float64))
        left_top_T2 = side_T[:, None] * (tile_T4[:, 2:] + tile_T4[:, 1:2] / OFFSET_UNITS)
        return np.concatenate([left_top_T2, left_top_T2 + side_T[:, None]], axis=1)

    def center_of(self, tile_T4) -> np.ndarray:
        """(T, 2) float64: the center (x, y) of each tile in meters, y down."""
        bounds_T4 = self.bounds_of(tile_T4)
        return (bounds_T4[:, :2] + bounds_T4[:, 2:]) / 2

    def tiles(self, zoom: int, offset: int = 0) -> np.ndarray:
        """(T, 4): every tile of one zoom and offset that is fully on the map, row by row of the map."""
        count = 2**zoom - math.ceil(offset / OFFSET_UNITS)
        y, x = np.divmod(np.arange(count * count), max(count, 1))
        return np.stack([np.full_like(x, zoom), np.full_like(x, offset), x, y], axis=1)
