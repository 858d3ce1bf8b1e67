"""Reader of processed UAV-VisLoc: tiles {map}_{zoom}_{x:03}_{y:03}.png of several maps, places in degrees.

A map's corners are in ``satellite_coordinates_range.csv`` (mapname, LT_lat, LT_lon, RB_lat, RB_lon), its size in pixels
in the columns ``width_px`` and ``height_px`` of that file or in the header of ``{map}/satellite{map}.tif``. If corners
or size are unknown, the tile centers in the pairs file are used.

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
from mindloc.data.pair_places import check_places
from mindloc.data.pairs_file import Layout, PairsFile, find_tiles, is_place, join_split, note_centers, read_pairs
from mindloc.data.readers import STOP, Ground, Report, SplitName
from mindloc.data.split import Split
from mindloc.errors import DataError
from mindloc.geo.points import wrapped_lon
from mindloc.reading import read_csv

TILE_PX = 256
_SQUARE = 2.0  # pixels are square in meters or in degrees; a side ratio beyond this factor is noted
BOUNDS_FILES = ("satellite_coordinates_range.csv", "satellite_ coordinates_range.csv")  # a blank in the release
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
        DataError: the first problem, with file, entry and key, or with the map whose corners or size are unknown or
            impossible.
    """
    root, pairs_file, _, _ = data.source(split)
    pairs = read_pairs(Path(root) / pairs_file, LAYOUT, report)
    tiles = find_tiles(Path(root), pairs, report)
    map_of = _maps(Path(root))
    place_S2 = _tile_places(Path(root), tiles, pairs, map_of, report)
    note_centers(pairs, tiles, place_S2, f"check {BOUNDS_FILES[0]} and the size of the map", report)
    _check_maps(Path(root), pairs.tile_directory, tiles, map_of, report)
    zooms = Counter(parse_tile(tile).zoom for tile in tiles)
    report.breakdown({f"zoom {zoom}": zooms[zoom] for zoom in sorted(zooms)})
    joined = join_split(Path(root), pairs, tiles, place_S2, report)
    unknown = (math.nan,) * 4
    maps = [(map_of(parse_tile(tile).map), parse_tile(tile)) for tile in tiles]
    bounds = [one.ground_deg(tile) if isinstance(one, Map) else unknown for one, tile in maps]
    check_places(pairs, joined, np.array(bounds, np.float64), report)
    return joined


def read_ground(data: DataConfig, directory: Path, names: list[str]) -> Ground:
    """The ground of tiles, from their names and the corners of their maps, stated in the parent of ``directory``.

    Raises:
        DataError: a name is not a tile name, the map of a tile is unknown, or a tile is off its map.
    """
    map_of = _maps(directory.resolve().parent)
    bounds = []
    for name in names:
        tile = parse_tile(Path(name).name)
        this_map = map_of(tile.map)
        if isinstance(this_map, str):
            raise DataError(f"{directory.resolve().parent}: tile {name} has no place: {this_map}")
        if not this_map.contains(tile):
            raise DataError(_off_the_map(directory / name, this_map))
        bounds.append(this_map.ground_deg(tile))
    return Ground(LAYOUT.place_unit, np.array(bounds, np.float64))


@dataclass(frozen=True)
class Map:
    """One satellite map: its corners, and the size of its image.

    The side of a tile is ``TILE_PX`` pixels of the image shrunk by 2^(finest - zoom), where the finest zoom is
    ceil(log2(longer side / TILE_PX)).

    Args:
        top_left_lat, top_left_lon, bottom_right_lat, bottom_right_lon: degrees; across the 180th meridian the right
            longitude exceeds 180.
    """

    top_left_lat: float
    top_left_lon: float
    bottom_right_lat: float
    bottom_right_lon: float
    height_px: int
    width_px: int

    def center_deg(self, tile: Tile) -> tuple[float, float]:
        """Center (latitude, longitude) of a tile of this map."""
        low_lat, low_lon, high_lat, high_lon = self.ground_deg(tile)
        return (low_lat + high_lat) / 2, float(wrapped_lon((low_lon + high_lon) / 2))

    def ground_deg(self, tile: Tile) -> tuple[float, float, float, float]:
        """(lowest latitude, lowest longitude in -180..180, highest latitude, highest longitude) of a tile of this map.

        Tiles of the last column and row may extend beyond the image, as in the release.
        """
        columns, rows = self._size_in_tiles(tile.zoom)
        lat_per_tile = (self.top_left_lat - self.bottom_right_lat) / rows
        lon_per_tile = (self.bottom_right_lon - self.top_left_lon) / columns
        top, left = self.top_left_lat - tile.y * lat_per_tile, self.top_left_lon + tile.x * lon_per_tile
        left = float(wrapped_lon(left))
        return top - lat_per_tile, left, top, left + lon_per_tile

    def contains(self, tile: Tile) -> bool:
        """Whether the top left corner of the tile is on the map."""
        columns, rows = self._size_in_tiles(tile.zoom)
        return tile.x < columns and tile.y < rows

    def pixel_ratio(self) -> float:
        """Width of a pixel over its height, on the ground."""
        lat_deg, lon_deg = self.top_left_lat - self.bottom_right_lat, self.bottom_right_lon - self.top_left_lon
        middle = math.radians((self.top_left_lat + self.bottom_right_lat) / 2)
        return lon_deg * math.cos(middle) / self.width_px / (lat_deg / self.height_px)

    def _size_in_tiles(self, zoom: int) -> tuple[float, float]:
        """(columns, rows) of tiles on the map, with fractions."""
        finest = math.ceil(math.log2(max(self.height_px, self.width_px) / TILE_PX))
        shrink = 2.0 ** (finest - zoom)
        return math.ceil(self.width_px / shrink) / TILE_PX, math.ceil(self.height_px / shrink) / TILE_PX


def _tile_places(
    root: Path, tiles: list[str], pairs: PairsFile, map_of: Callable[[str], Map | str], report: Report
) -> np.ndarray:
    """(S,2) float64: latitude and longitude of the tile centers, NaN where neither map nor pairs state them."""
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


def _check_maps(
    root: Path, directory: str, tiles: list[str], map_of: Callable[[str], Map | str], report: Report
) -> None:
    """Report tiles off their map, and note maps whose corners and size do not fit each other."""
    used: dict[str, Map] = {}
    for name in tiles:
        tile = parse_tile(name)
        this_map = map_of(tile.map)
        if isinstance(this_map, Map):
            used[tile.map] = this_map
            if not this_map.contains(tile):
                report.doubt("tile off the map", _off_the_map(root / directory / name, this_map))
    for name, this_map in used.items():
        ratio, of_degrees = this_map.pixel_ratio(), math.cos(math.radians(this_map.top_left_lat))
        if not min(1.0, of_degrees) / _SQUARE < ratio < _SQUARE:
            report.note(
                f"{root / BOUNDS_FILES[0]}: pixels of map {name} are {ratio:.3g} times as wide as high by its corners "
                f"and its size, {this_map.width_px} x {this_map.height_px}: exchanged, or a wrong corner?"
            )


def _off_the_map(path: Path, this_map: Map) -> str:
    return f"{path} is off its map of {this_map.width_px} x {this_map.height_px} pixels; correct its name or the size"


def _maps(root: Path) -> Callable[[str], Map | str]:
    """A function: name of a map -> the map, or a message that says what is missing and how to supply it."""
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
    top, left, bottom, right = (bounds[name][corner] for corner in _CORNERS)
    return Map(top, left, bottom, right if left < right else right + 360, height_px=size[0], width_px=size[1])


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
            raise DataError(f"{where}: map {name} appears twice; keep one line")
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
    _check_corners(where, values)
    return values


def _check_corners(where: str, values: dict[str, float]) -> None:
    """Check that the corners of a map are in range, different and not exchanged; it is at most half the globe wide.

    Raises:
        DataError: they are not; the message names the columns.
    """
    for column in _CORNERS:
        limit = 90 if column.endswith("lat") else 360
        if abs(values[column]) > limit:
            raise DataError(f"{where}: {column} is {values[column]}; expected degrees from -{limit} to {limit}")
    for name, first, second in (("lat", "LT_lat", "RB_lat"), ("lon", "LT_lon", "RB_lon")):
        width = values["LT_lat"] - values["RB_lat"] if name == "lat" else (values["RB_lon"] - values["LT_lon"]) % 360
        found = f"{where}: {first} is {values[first]} and {second} is {values[second]}"
        if width == 0:
            raise DataError(f"{found}; expected two different values: LT is top left, RB bottom right")
        if not 0 < width <= 180:
            raise DataError(
                f"{found}; expected LT north-west of RB: are the corners, or latitude and longitude, exchanged?"
            )


def _number(where: str, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: {column} is {text!r}; expected a number, with a point before its decimals")
    return value


def _map_size(root: Path, name: str, bounds: dict[str, float]) -> tuple[int, int] | None:
    """(height, width) of a map in pixels; None if unknown.

    Raises:
        DataError: the image is needed and can't be read, or its size differs from that in the table.
    """
    stated = (int(bounds["height_px"]), int(bounds["width_px"])) if {"height_px", "width_px"} <= bounds.keys() else None
    paths = (root / name / f"satellite{name}.tif", root / f"satellite{name}.tif")
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return stated
    try:
        # reads only the header; Image.open rejects images with this many pixels
        with TiffImagePlugin.TiffImageFile(path) as image:
            size = image.height, image.width
    except (OSError, SyntaxError, ValueError) as error:
        if stated:
            return stated
        raise DataError(f"{path} is not a readable TIFF ({error}); download it again") from None
    if stated and stated != size:
        raise DataError(
            f"{root / BOUNDS_FILES[0]}: map {name} has width_px {stated[1]} and height_px {stated[0]}, but {path} is "
            f"{size[1]} x {size[0]}; correct or remove the columns"
        )
    return size
