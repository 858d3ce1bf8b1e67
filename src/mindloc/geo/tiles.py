"""Names of map tiles and where they lie.

GTA-UAV names a tile ``{zoom}_{offset}_{x}_{y}``: the square map of ``map_px`` pixels is cut into 2^zoom by 2^zoom
tiles, and ``offset`` (in 256ths of a tile) shifts the whole cut right and down alike. UAV-VisLoc names it
``{map}_{zoom}_{x:03}_{y:03}``. Either may carry an ending (.png, .jpg). T = number of tiles.
"""

import math
import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mindloc.errors import DataError

OFFSET_UNITS = 256  # an offset of 128 is half a tile
VISLOC_TILE_PX = 256

_GTA_NAME = re.compile(r"(\d+)_(\d+)_(\d+)_(\d+)(?:\.\w+)?")
_VISLOC_NAME = re.compile(r"([A-Za-z0-9-]+)_(\d+)_(\d+)_(\d+)(?:\.\w+)?")


class Tile(NamedTuple):
    """One tile of a GTA-UAV map: level, shift in 256ths of a tile, column, row."""

    zoom: int
    offset: int
    x: int
    y: int

    @property
    def name(self) -> str:
        return f"{self.zoom}_{self.offset}_{self.x}_{self.y}"


@dataclass(frozen=True)
class TileGrid:
    """How one square map is cut into tiles; both numbers belong to the data set.

    Args:
        map_px: side of the map, pixels.
        m_per_px: meters per pixel of that map.
    """

    map_px: int
    m_per_px: float

    def parse(self, name: str) -> Tile:
        """Read a tile name, with or without its ending.

        Raises:
            DataError: the name is no tile name.
        """
        match = _GTA_NAME.fullmatch(name)
        if match is None:
            raise DataError(f"tile name {name!r} is not {{zoom}}_{{offset}}_{{x}}_{{y}}, for example 4_0_6_13.png")
        return Tile(*(int(part) for part in match.groups()))

    def side_m(self, zoom):
        """Side of a tile in meters; ``zoom`` may be an array."""
        return self.map_px * self.m_per_px / np.exp2(zoom)

    def center_m(self, name: str) -> tuple[float, float]:
        """Center (x, y) of a named tile, meters, y down."""
        left, top, right, bottom = self.bounds_m(name)
        return (left + right) / 2, (top + bottom) / 2

    def bounds_m(self, name: str) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) of a named tile in meters, y down."""
        return tuple(float(edge) for edge in self.bounds_of(np.array([self.parse(name)]))[0])

    def bounds_of(self, tile_T4) -> np.ndarray:
        """(left, top, right, bottom) in meters of many tiles given as rows of (zoom, offset, x, y), shape (T, 4)."""
        tile_T4 = np.asarray(tile_T4).reshape(-1, 4)
        side_T = self.side_m(tile_T4[:, 0].astype(np.float64))
        left_top_T2 = side_T[:, None] * (tile_T4[:, 2:] + tile_T4[:, 1:2] / OFFSET_UNITS)
        return np.concatenate([left_top_T2, left_top_T2 + side_T[:, None]], axis=1)

    def center_of(self, tile_T4) -> np.ndarray:
        """Centers (x, y) in meters of many tiles given as rows of (zoom, offset, x, y), shape (T, 2)."""
        bounds_T4 = self.bounds_of(tile_T4)
        return (bounds_T4[:, :2] + bounds_T4[:, 2:]) / 2

    def tiles(self, zoom: int, offset: int = 0) -> np.ndarray:
        """Every tile of one zoom and offset that lies wholly on the map: rows of (zoom, offset, x, y), y-major."""
        count = 2**zoom - math.ceil(offset / OFFSET_UNITS)
        y, x = np.divmod(np.arange(count * count), max(count, 1))
        return np.stack([np.full_like(x, zoom), np.full_like(x, offset), x, y], axis=1)


class VislocTile(NamedTuple):
    """One tile of a UAV-VisLoc map: the map's name, zoom, column, row."""

    map: str
    zoom: int
    x: int
    y: int

    @property
    def name(self) -> str:
        return f"{self.map}_{self.zoom}_{self.x:03}_{self.y:03}"


def parse_visloc_tile(name: str) -> VislocTile:
    """Read a UAV-VisLoc tile name, with or without its ending.

    Raises:
        DataError: the name is no such tile name.
    """
    match = _VISLOC_NAME.fullmatch(name)
    if match is None:
        raise DataError(f"tile name {name!r} is not {{map}}_{{zoom}}_{{x}}_{{y}}, for example 01_6_003_010.png")
    return VislocTile(match[1], *(int(part) for part in match.groups()[1:]))


@dataclass(frozen=True)
class VislocMap:
    """One satellite map of UAV-VisLoc: where its corners are and how large the picture is.

    A tile is ``VISLOC_TILE_PX`` pixels of the picture shrunk by 2^(finest - zoom), where the finest zoom is
    ceil(log2(longer side / VISLOC_TILE_PX)).

    Args:
        top_left_lat, top_left_lon, bottom_right_lat, bottom_right_lon: from satellite_coordinates_range.csv, degrees.
        height_px, width_px: size of the satellite picture.
    """

    top_left_lat: float
    top_left_lon: float
    bottom_right_lat: float
    bottom_right_lon: float
    height_px: int
    width_px: int

    def center_deg(self, name: str) -> tuple[float, float]:
        """Center (latitude, longitude) of a named tile, degrees."""
        top, left, bottom, right = self.bounds_deg(name)
        return (top + bottom) / 2, (left + right) / 2

    def bounds_deg(self, name: str) -> tuple[float, float, float, float]:
        """(top latitude, left longitude, bottom latitude, right longitude) of a named tile, degrees.

        Tiles of the last column and row may reach past the picture, as they do in the release.
        """
        tile = parse_visloc_tile(name)
        finest = math.ceil(math.log2(max(self.height_px, self.width_px) / VISLOC_TILE_PX))
        shrink = 2 ** (finest - tile.zoom)
        rows, columns = math.ceil(self.height_px / shrink), math.ceil(self.width_px / shrink)
        lat_per_tile = (self.top_left_lat - self.bottom_right_lat) * VISLOC_TILE_PX / rows
        lon_per_tile = (self.bottom_right_lon - self.top_left_lon) * VISLOC_TILE_PX / columns
        top, left = self.top_left_lat - tile.y * lat_per_tile, self.top_left_lon + tile.x * lon_per_tile
        return top, left, top - lat_per_tile, left + lon_per_tile
