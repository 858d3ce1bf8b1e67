"""UAV-VisLoc's variant of the layout: tiles {map}_{zoom}_{x:03}_{y:03}.png of several maps, places in degrees.

A map's corners come from ``satellite_coordinates_range.csv`` (mapname, LT_lat, LT_lon, RB_lat, RB_lon), its size in
pixels from columns ``width_px`` and ``height_px`` of the same file or from the header of ``{map}/satellite{map}.tif``.
Where a map has neither, the centers that the pairs state are taken, for the tiles that have one.

References:
    UAV-VisLoc, arXiv:2405.11936; github Yux1angJi/GTA-UAV for the processed form.
"""

import csv
import math
from pathlib import Path

import numpy as np
from PIL import TiffImagePlugin

from mindloc.data.pairs_file import Layout, PairsFile, is_place, join_split, read_pairs_and_tiles
from mindloc.data.split import Split, share_of_queries
from mindloc.errors import DataError
from mindloc.geo.tiles import VislocMap, parse_visloc_tile

LAYOUT = Layout("UAV-VisLoc", "loc_lat_lon", "lat_lon_deg", parse_visloc_tile)
BOUNDS_FILES = ("satellite_coordinates_range.csv", "satellite_ coordinates_range.csv")  # the release has the blank
_CORNERS = ("LT_lat", "LT_lon", "RB_lat", "RB_lon")  # the release writes LT_lat_map and so on


def read_split(root: Path | str, pairs_file: str, train_ratio: float = 1.0, json_only: bool = False) -> Split:
    """One split of a data set in UAV-VisLoc's processed form; its gallery is every tile in the satellite folder.

    Args:
        pairs_file: the JSON file, relative to ``root``.
        train_ratio: share of the drone pictures that is kept, above 0, at most 1.
        json_only: look for no picture; the gallery is then the tiles that the pairs name.

    Raises:
        DataError: the first thing that is wrong, with file, entry and key, or with the map that can't be placed.
    """
    root = Path(root)
    pairs, tiles = read_pairs_and_tiles(root, pairs_file, LAYOUT, json_only)
    split = join_split(root, pairs, tiles, tile_places(root, tiles, pairs))
    return share_of_queries(split, train_ratio)


def tile_places(root: Path, tiles: list[str], pairs: PairsFile) -> np.ndarray:
    """(S,2) float64: latitude and longitude of the tile centers.

    Raises:
        DataError: tiles of a map without bounds or size, which no pair names either.
    """
    bounds = read_bounds(root)
    maps: dict[str, VislocMap | str] = {}  # a string says what is missing
    places, lost = [], {}
    for tile in tiles:
        name = parse_visloc_tile(tile).map
        if name not in maps:
            maps[name] = _visloc_map(root, name, bounds)
        this_map = maps[name]
        if isinstance(this_map, VislocMap):
            places.append(this_map.center_deg(tile))
        elif is_place(pairs.stated_place.get(tile), LAYOUT.place_unit):
            places.append(tuple(pairs.stated_place[tile]))
        else:
            lost.setdefault(name, []).append(tile)
    for name, tiles_of_map in lost.items():
        raise DataError(
            f"{root}: {len(tiles_of_map)} tiles of map {name} (first {tiles_of_map[0]}) have no place: no pair states "
            f"one, and {maps[name]}"
        )
    return np.array(places, np.float64)


def tile_bounds(root: Path, tiles: list[str]) -> np.ndarray:
    """(S,4) float64: lowest latitude and longitude of the tiles, then highest, from the corners of their maps.

    Raises:
        DataError: a name that is no tile name, a map without corners or size.
    """
    bounds = read_bounds(root)
    maps: dict[str, VislocMap] = {}
    edges = []
    for tile in tiles:
        name = parse_visloc_tile(tile).map
        if name not in maps:
            this_map = _visloc_map(root, name, bounds)
            if isinstance(this_map, str):
                raise DataError(f"{root}: tile {tile} has no place: {this_map}")
            maps[name] = this_map
        top, left, bottom, right = maps[name].bounds_deg(tile)
        edges.append((bottom, left, top, right))
    return np.array(edges, np.float64)


def read_bounds(root: Path) -> dict[str, dict[str, float]] | None:
    """Map name -> LT_lat, LT_lon, RB_lat, RB_lon (degrees) and, where given, width_px, height_px; None: no file.

    Raises:
        DataError: the file lacks a column, or a value is no number.
    """
    path = next((root / name for name in BOUNDS_FILES if (root / name).is_file()), None)
    if path is None:
        return None
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        header = [column.strip().removesuffix("_map") for column in next(rows, [])]
        missing = [column for column in _CORNERS if column not in header]
        if missing:
            raise DataError(f"{path}: column {missing[0]} is missing; expected mapname, {', '.join(_CORNERS)}")
        return dict(_bounds_row(path, header, row) for row in rows if any(cell.strip() for cell in row))


def _bounds_row(path: Path, header: list[str], row: list[str]) -> tuple[str, dict[str, float]]:
    cells = dict(zip(header, row, strict=False))
    name = row[0].strip().removeprefix("satellite").rpartition(".")[0] or row[0].strip().removeprefix("satellite")
    values = {}
    for column in (*_CORNERS, "width_px", "height_px"):
        if column in _CORNERS or cells.get(column, "").strip():
            values[column] = _number(path, name, column, cells.get(column, ""))
    for column in ("width_px", "height_px"):
        if values.get(column, 1) < 1:
            raise DataError(f"{path}: map {name}: {column} is {values[column]}; expected 1 or more")
    if not is_place([values["LT_lat"], values["LT_lon"]], "lat_lon_deg"):
        raise DataError(
            f"{path}: map {name}: LT is {values['LT_lat']}, {values['LT_lon']}; expected a place in degrees"
        )
    return name, values


def _number(path: Path, name: str, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{path}: map {name}: {column} is {text!r}; expected a number")
    return value


def _visloc_map(root: Path, name: str, bounds: dict[str, dict[str, float]] | None) -> VislocMap | str:
    """The map, or what is missing and how to supply it."""
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
    return VislocMap(*(bounds[name][corner] for corner in _CORNERS), height_px=size[0], width_px=size[1])


def _map_size(root: Path, name: str, bounds: dict[str, float]) -> tuple[int, int] | None:
    """(height, width) in pixels."""
    if "width_px" in bounds and "height_px" in bounds:
        return int(bounds["height_px"]), int(bounds["width_px"])
    for path in (root / name / f"satellite{name}.tif", root / f"satellite{name}.tif"):
        if path.is_file():
            try:
                # the header alone; Image.open refuses maps of this many pixels
                with TiffImagePlugin.TiffImageFile(path) as picture:
                    return picture.height, picture.width
            except (OSError, SyntaxError, ValueError) as error:
                raise DataError(f"{path} is no readable TIFF ({error}); fetch it again") from None
    return None
