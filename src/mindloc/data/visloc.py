"""Reader of processed UAV-VisLoc: tiles {map}_{zoom}_{x:03}_{y:03}.png of several maps, places in degrees.

A map's corners are in ``satellite_coordinates_range.csv`` (mapname, LT_lat, LT_lon, RB_lat, RB_lon), its size in pixels
in the columns ``width_px`` and ``height_px`` of that file or in the header of ``{map}/satellite{map}.tif``. Where these
are unknown, the tile centers in the pairs file are used.

References:
    UAV-VisLoc, arXiv:2405.11936; github Yux1angJi/GTA-UAV for the processed form.
"""

import functools
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import TiffImagePlugin

from mindloc.config.sections import DataConfig
from mindloc.data.pairs_file import Layout, PairsFile, find_tiles, is_place, join_split, note_centers, read_pairs
from mindloc.data.readers import STOP, Ground, Report, SplitName
from mindloc.data.split import Split
from mindloc.errors import DataError
from mindloc.reading import read_csv

TILE_PX = 256
BOUNDS_FILES = ("satellite_coordinates_range.csv", "satellite_ coordinates_range.csv")  # with a blank in the release
_CORNERS = ("LT_lat", "LT_lon", "RB_lat", "RB_lon")  # LT_lat_map and so on in the release
_TILE_NAME = re.compile(r"([A-Za-z0-9-]+)_(\d{1,2})_(\d{1,9})_(\d{1,9})(?:\.\w+)?")


class Tile(NamedTuple):
    """One tile: name of the map, zoom, column, row."""

    map: str
    zoom: int
    x: int
    y: int


def parse_tile(name: str) -> Tile:
    """The tile of a name with or without its suffix.

    Raises:
        DataError: the name is not a tile name.
    """
    match = _TILE_NAME.fullmatch(name)
    if match is None:
        raise DataError(f"tile name is {name!r}; expected {{map}}_{{zoom}}_{{x}}_{{y}}, for example 01_6_003_010.png")
    return Tile(match[1], *(int(number) for number in match.groups()[1:]))


LAYOUT = Layout("UAV-VisLoc", "loc_lat_lon", "lat_lon_deg", parse_tile)


def read(data: DataConfig, split: SplitName, report: Report = STOP) -> Split:
    """Read one split; its reference side is every tile in the satellite directory.

    Raises:
        DataError: the first problem, with file, entry and key, or with the map whose corners or size are unknown.
    """
    root, pairs_file, _, _ = data.source(split)
    pairs = read_pairs(Path(root) / pairs_file, LAYOUT, report)
    tiles = find_tiles(Path(root), pairs, report)
    place_S2 = _tile_places(Path(root), tiles, pairs, report)
    note_centers(pairs, tiles, place_S2, f"check {BOUNDS_FILES[0]} and the size of the map", report)
    zooms = Counter(parse_tile(tile).zoom for tile in tiles)
    report.breakdown({f"zoom {zoom}": zooms[zoom] for zoom in sorted(zooms)})
    return join_split(Path(root), pairs, tiles, place_S2, report)


def read_ground(data: DataConfig, directory: Path, names: list[str]) -> Ground:
    """The ground of tiles, from their names and the corners of their maps, stated in the parent of ``directory``."""
    map_of = _maps(directory.resolve().parent)
    bounds = []
    for name in names:
        this_map = map_of(parse_tile(name).map)
        if isinstance(this_map, str):
            raise DataError(f"{directory.resolve().parent}: tile {name} has no place: {this_map}")
        top, left, bottom, right = this_map.bounds_deg(parse_tile(name))
        bounds.append((bottom, left, top, right))
    return Ground(LAYOUT.place_unit, np.array(bounds, np.float64))


@dataclass(frozen=True)
class Map:
    """One satellite map: its corners, and the size of its image.

    A tile is ``TILE_PX`` pixels of the image shrunk by 2^(finest - zoom), where the finest zoom is
    ceil(log2(longer side / TILE_PX)).

    Args:
        top_left_lat, top_left_lon, bottom_right_lat, bottom_right_lon: degrees.
    """

    top_left_lat: float
    top_left_lon: float
    bottom_right_lat: float
    bottom_right_lon: float
    height_px: int
    width_px: int

    def center_deg(self, tile: Tile) -> tuple[float, float]:
        """Center (latitude, longitude) of a tile of this map."""
        top, left, bottom, right = self.bounds_deg(tile)
        return (top + bottom) / 2, (left + right) / 2

    def bounds_deg(self, tile: Tile) -> tuple[float, float, float, float]:
        """(top latitude, left longitude, bottom latitude, right longitude) of a tile of this map.

        Tiles of the last column and row may extend beyond the image, as in the release.
        """
        finest = math.ceil(math.log2(max(self.height_px, self.width_px) / TILE_PX))
        shrink = 2 ** (finest - tile.zoom)
        rows, columns = math.ceil(self.height_px / shrink), math.ceil(self.width_px / shrink)
        lat_per_tile = (self.top_left_lat - self.bottom_right_lat) * TILE_PX / rows
        lon_per_tile = (self.bottom_right_lon - self.top_left_lon) * TILE_PX / columns
        top, left = self.top_left_lat - tile.y * lat_per_tile, self.top_left_lon + tile.x * lon_per_tile
        return top, left, top - lat_per_tile, left + lon_per_tile


def _tile_places(root: Path, tiles: list[str], pairs: PairsFile, report: Report) -> np.ndarray:
    """(S,2) float64: latitude and longitude of the tile centers, NaN where neither map nor pairs state them."""
    map_of = _maps(root)
    places: list[tuple[float, float]] = []
    lost: dict[str, list[str]] = {}  # map -> its tiles
    for name in tiles:
        tile = parse_tile(name)
        this_map = map_of(tile.map)
        if isinstance(this_map, Map):
            places.append(this_map.center_deg(tile))
        elif is_place(pairs.stated_center.get(name), LAYOUT.place_unit):
            places.append(tuple(pairs.stated_center[name]))
        else:
            places.append((math.nan, math.nan))
            lost.setdefault(tile.map, []).append(name)
    for name, names in lost.items():
        why = f"(first {names[0]}) have no place: the pairs state none, and {map_of(name)}"
        report.problem("tile without a place", f"{root}: {len(names)} tiles of map {name} {why}")
    return np.array(places, np.float64)


def _maps(root: Path) -> Callable[[str], Map | str]:
    """Function: name of a map -> the map, or a message with what is missing and how to supply it."""
    bounds = _read_bounds(root)
    return functools.cache(lambda name: _read_map(root, name, bounds))


def _read_map(root: Path, name: str, bounds: dict[str, dict[str, float]] | None) -> Map | str:
    if bounds is None:
        return f"{BOUNDS_FILES[0]} is missing in {root}; copy it from the UAV-VisLoc release"
    if name not in bounds:
        return f"{BOUNDS_FILES[0]} has no line for satellite{name}.tif; add its corners"
    size = _map_size(root, name, bounds[name])
    if size is None:
        return (
            f"the size of the map is unknown; put satellite{name}.tif into {root / name}, or add columns width_px and "
            f"height_px to {BOUNDS_FILES[0]}"
        )
    return Map(*(bounds[name][corner] for corner in _CORNERS), height_px=size[0], width_px=size[1])


def _read_bounds(root: Path) -> dict[str, dict[str, float]] | None:
    """Map name -> LT_lat, LT_lon, RB_lat, RB_lon (degrees) and, if present, width_px, height_px; None: no file.

    Raises:
        DataError: the file can't be read or lacks a column, or a value is not a number.
    """
    path = next((root / name for name in BOUNDS_FILES if (root / name).is_file()), None)
    if path is None:
        return None
    rows = read_csv(path, DataError, "copy it from the UAV-VisLoc release")
    _, header = next(rows, ("", []))
    header = [column.removesuffix("_map") for column in header]
    missing = [column for column in _CORNERS if column not in header]
    if missing:
        raise DataError(f"{path}: column {missing[0]} is missing; expected mapname, {', '.join(_CORNERS)}")
    bounds: dict[str, dict[str, float]] = {}
    for where, row in rows:
        name = row[0].removeprefix("satellite").rpartition(".")[0] or row[0].removeprefix("satellite")
        if name in bounds:
            raise DataError(f"{where}: map {name} has a second line; leave one")
        bounds[name] = _bounds_row(f"{where}: map {name}", dict(zip(header, row, strict=False)))
    return bounds


def _bounds_row(where: str, cells: dict[str, str]) -> dict[str, float]:
    values = {}
    for column in (*_CORNERS, "width_px", "height_px"):
        if column in _CORNERS or cells.get(column):
            values[column] = _number(where, column, cells.get(column, ""))
    for column in ("width_px", "height_px"):
        if values.get(column, 1) < 1:
            raise DataError(f"{where}: {column} is {values[column]}; expected 1 or more")
    if not is_place([values["LT_lat"], values["LT_lon"]], "lat_lon_deg"):
        raise DataError(f"{where}: LT is {values['LT_lat']}, {values['LT_lon']}; expected a place in degrees")
    return values


def _number(where: str, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: {column} is {text!r}; expected a number, with a point before its decimals")
    return value


def _map_size(root: Path, name: str, bounds: dict[str, float]) -> tuple[int, int] | None:
    """(height, width) in pixels."""
    if "width_px" in bounds and "height_px" in bounds:
        return int(bounds["height_px"]), int(bounds["width_px"])
    for path in (root / name / f"satellite{name}.tif", root / f"satellite{name}.tif"):
        if path.is_file():
            try:
                # reads only the header; Image.open rejects images with this many pixels
                with TiffImagePlugin.TiffImageFile(path) as image:
                    return image.height, image.width
            except (OSError, SyntaxError, ValueError) as error:
                raise DataError(f"{path} is not a readable TIFF ({error}); download it again") from None
    return None
