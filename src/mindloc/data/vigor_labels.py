"""Label files and tile lists of VIGOR: reading, and checks that locate every problem.

A line of a label file has 13 parts between blanks: a panorama, then four times a tile and its offset (row, column) in
pixels. The first tile is the positive, the others are semi-positives.

Shapes: Q panoramas (usable lines of a file), T tiles of a city, 4 the tiles of a panorama, 2 a place (latitude,
longitude) or an offset; see geo/vigor.py.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mindloc.data.readers import Report
from mindloc.errors import DataError
from mindloc.geo.points import paired_distance_m
from mindloc.geo.vigor import TILE_PX, overlap_iou, place_in_tile, tile_m_per_px
from mindloc.reading import read_lines

TILES = 4  # of a panorama
_PARTS = 1 + 3 * TILES
# the panorama is inside its positive tile, and a semi-positive overlaps a tile around the panorama; in the published
# files they are at most 183 and 366
_MOST_PX = np.array([TILE_PX / 2] + [TILE_PX] * (TILES - 1))
_DEGREES = r"(-?[0-9]+(?:\.[0-9]+)?)"
_PANORAMA = re.compile(rf"[^\s,/\\\0]+,{_DEGREES},{_DEGREES},\.[A-Za-z]+")
_TILE = re.compile(rf"satellite_{_DEGREES}_{_DEGREES}\.[A-Za-z]+")
_COPY = "copy the file from the VIGOR release again"

# a panorama of the corrected labels is at most 0.76 m from where its offsets put it, in the median 0.11 to 0.17 m from
# where that of its positive tile does
FAR_M = 1.0
_MEDIAN_M = 0.25  # above it the labels of a city are looked through for a mistake of all
_EXPLAINED = 0.6  # share of the distance that is left once that mistake is made good
_ORIGINAL_M_PER_PX = 0.114
_NEARER = 0.05  # by that IoU a semi-positive may be nearer than the positive; in the corrected labels by 0.006


def parse_tile(name: str) -> tuple[float, float]:
    """(latitude, longitude) of the center of a tile.

    Raises:
        DataError: the name is not a tile name, or not of a place on the globe.
    """
    return _place("tile", name, _TILE, "satellite_{latitude}_{longitude}.png")


def parse_panorama(name: str) -> tuple[float, float]:
    """(latitude, longitude) of a panorama.

    Raises:
        DataError: the name is not a panorama name, or not of a place on the globe.
    """
    return _place("panorama", name, _PANORAMA, "{id},{latitude},{longitude},.jpg")


def _place(what: str, name: str, form: re.Pattern, shown: str) -> tuple[float, float]:
    match = form.fullmatch(name)
    if match is None:
        raise DataError(f"{what} name is {_short(name)}; expected {shown}")
    lat, lon = float(match[1]), float(match[2])
    if not (abs(lat) <= 90 and abs(lon) <= 180):
        hint = ": are they exchanged?" if abs(lat) <= 180 and abs(lon) <= 90 else ""
        raise DataError(f"{what} name is {_short(name)}; expected a latitude in -90..90, then a longitude{hint}")
    return lat, lon


def _short(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= 80 else shown[:77] + "..."


@dataclass(frozen=True)
class TileList:
    """The tiles of a city in the order of their list."""

    path: Path
    names: list[str]
    place_T2: np.ndarray  # float64


def read_tile_list(path: Path, report: Report) -> TileList:
    """All tiles of a city; the problems of lines go to ``report``.

    Raises:
        DataError: the file can't be read or has no usable line, even if the report collects problems.
    """
    places: dict[str, tuple[float, float]] = {}
    for number, line in enumerate(read_lines(path, DataError, _COPY, "tile list"), 1):
        name, where = line.strip(), f"{path} line {number}"
        if name in places:
            report.problem("duplicate name", f"{where}: {name} is listed twice; keep one of the lines")
        elif name:
            try:
                places[name] = parse_tile(name)
            except DataError as error:
                report.problem("tile name", f"{where}: {error}; correct the line")
    if not places:
        raise DataError(f"tile list {path} names no tile; {_COPY}")
    return TileList(path, list(places), np.array(list(places.values()), np.float64))


@dataclass(frozen=True)
class Labels:
    """The usable lines of a label file."""

    path: Path
    tiles: TileList
    lines: int  # that are not empty
    line_Q: list[int]  # number of each line in the file, from 1
    panoramas: list[str]
    place_Q2: np.ndarray  # float64
    tile_Q4: np.ndarray  # int64, index in ``tiles``
    offset_px_Q42: np.ndarray  # float64


class _Unusable(Exception):
    """A line that can't be used: the kind of problem, and the rest of a message that starts with the line."""

    def __init__(self, kind: str, text: str):
        super().__init__(text)
        self.kind, self.text = kind, text


@dataclass(frozen=True)
class _Line:
    panorama: str
    place: tuple[float, float]
    tile_4: list[int]
    offset_8: list[float]


def read_labels(path: Path, tiles: TileList, report: Report) -> Labels:
    """All usable lines of a label file; the problems of the others go to ``report``. A damaged line is left out whole.

    Raises:
        DataError: the file can't be read or has no usable line, even if the report collects problems.
    """
    index = {name: number for number, name in enumerate(tiles.names)}
    usable: dict[str, tuple[int, _Line]] = {}
    text = [
        (number, line)
        for number, line in enumerate(read_lines(path, DataError, _COPY, "label file"), 1)
        if line.strip()
    ]
    if text and not any(tile in index for _, line in text for tile in line.split()[1::3]):
        raise DataError(f"label file {path} names no tile of {tiles.path}; put the two files of one city there")
    for number, line in text:
        try:
            found = _read_line(line, index, tiles.path)
            if found.panorama in usable:
                other = usable[found.panorama][0]
                raise _Unusable("duplicate name", f"{found.panorama} is in line {other} too; keep one of the lines")
        except _Unusable as problem:
            report.problem(problem.kind, f"{path} line {number}: {problem.text}")
        else:
            usable[found.panorama] = (number, found)
    if not usable:
        raise DataError(f"label file {path} has no usable line; {_COPY}")
    found_Q = [line for _, line in usable.values()]
    return Labels(
        path,
        tiles,
        len(text),
        [number for number, _ in usable.values()],
        list(usable),
        np.array([line.place for line in found_Q], np.float64),
        np.array([line.tile_4 for line in found_Q], np.int64),
        np.array([line.offset_8 for line in found_Q], np.float64).reshape(-1, TILES, 2),
    )


def _read_line(line: str, index: dict[str, int], tile_list: Path) -> _Line:
    parts = line.split()
    if len(parts) != _PARTS:
        expected = f"{_PARTS}, a panorama and {TILES} times a tile and two numbers"
        raise _Unusable("broken line", f"has {len(parts)} parts; expected {expected}; {_COPY}")
    try:
        place = parse_panorama(parts[0])
    except DataError as error:
        raise _Unusable("panorama name", f"{error}; correct the name") from None
    tiles = parts[1::3]
    for tile in tiles:
        if tile not in index:
            raise _absent(tile, tile_list)
        if tiles.count(tile) > 1:
            raise _Unusable("duplicate name", f"tile {tile} is listed twice; expected {TILES} different tiles")
    offsets = [_number(part) for at, part in enumerate(parts[1:]) if at % 3]
    for number, limit in enumerate(_MOST_PX):
        if not all(abs(offset) <= limit for offset in offsets[2 * number : 2 * number + 2]):
            at = 2 + 3 * number
            what = "semi-positive" if number else "positive"
            found = f"offset of the {what} tile {tiles[number]} is {_short(parts[at])}, {_short(parts[at + 1])}"
            raise _Unusable(
                "offset", f"{found}; expected (row, column) in pixels, each at most {limit:.0f}; correct it"
            )
    return _Line(parts[0], place, [index[tile] for tile in tiles], offsets)


def _absent(tile: str, tile_list: Path) -> _Unusable:
    try:
        parse_tile(tile)
    except DataError as error:
        return _Unusable("tile name", f"{error}; correct the name")
    return _Unusable("absent tile", f"tile {tile} is not in {tile_list}; add it there, or remove the line")


def _number(text: str) -> float:
    """NaN for what is not a number."""
    try:
        return float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        return math.nan


# labels against themselves -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stated:
    """What the labels of a city state, or would state without a mistake."""

    city: str
    place_Q2: np.ndarray
    tile_Q42: np.ndarray  # centers
    offset_px_Q42: np.ndarray
    how: str = ""  # what was done to them
    way_out: str = "correct the labels so"

    def off_m(self) -> np.ndarray:
        """(Q, 4) distance of each panorama to where its offset puts it in each of its tiles; inf: impossible places."""
        m_per_px_Q4 = tile_m_per_px(self.city, self.tile_Q42[..., 0])
        found_Q42 = place_in_tile(self.tile_Q42, self.offset_px_Q42, m_per_px_Q4)
        return np.nan_to_num(paired_distance_m(self.place_Q2[:, None], found_Q42, "lat_lon_deg"), nan=np.inf)


def check_labels(labels: Labels, city: str, report: Report) -> None:
    """Report panoramas that are not where their offsets put them, and labels that repeat one mistake.

    A mistake of all lines is reported once, and besides the lines that contradict what is left without it.
    """
    stated = _Stated(city, labels.place_Q2, labels.tiles.place_T2[labels.tile_Q4], labels.offset_px_Q42)
    off_Q4, others = stated.off_m(), [(other, other.off_m()) for other in _mistakes(stated)]
    median = float(np.median(off_Q4[:, 0]))
    likely, likely_Q4 = min(others, key=lambda other: float(np.median(other[1][:, 0])))
    left = float(np.median(likely_Q4[:, 0]))
    if median > _MEDIAN_M and left < _EXPLAINED * median:
        found = f"panoramas are {_length(median)} in the median from where their offsets put them"
        text = f"{labels.path}: {found}, and {_length(left)} with {likely.how}; {likely.way_out}"
        report.doubt("labels of a city", text)
        off_Q4, others = likely_Q4, []
    for row in np.flatnonzero((off_Q4 > FAR_M).any(axis=1)):
        hint = next((f" ({other.how} would fit)" for other, other_Q4 in others if (other_Q4[row] <= FAR_M).all()), "")
        report.doubt("place against offset", _far(labels, row, off_Q4[row], hint))
    iou_Q4 = overlap_iou(labels.offset_px_Q42)
    for row in np.flatnonzero(iou_Q4[:, 0] < iou_Q4.max(axis=1) - _NEARER):
        positive, nearest = (labels.tiles.names[labels.tile_Q4[row, n]] for n in (0, np.argmax(iou_Q4[row])))
        where = f"{labels.path} line {labels.line_Q[row]}"
        text = f"{where}: the positive tile {positive} overlaps less than {nearest}; put the nearest tile first"
        report.doubt("order of tiles", text)


def _far(labels: Labels, row: int, off_m_4: np.ndarray, hint: str) -> str:
    farthest = int(np.argmax(off_m_4))
    offset = ", ".join(f"{number:g}" for number in labels.offset_px_Q42[row, farthest])
    return (
        f"{labels.path} line {labels.line_Q[row]}: {labels.panoramas[row]} is {_length(off_m_4[farthest])} from where "
        f"the offset {offset} puts it in {labels.tiles.names[labels.tile_Q4[row, farthest]]}; expected at most "
        f"{_length(FAR_M)}{hint}: correct the name or the offset"
    )


def _length(meters: float) -> str:
    return f"{meters / 1000:.0f} km" if meters >= 10_000 else f"{meters:.2f} m"


def _mistakes(stated: _Stated) -> Iterator[_Stated]:
    """The labels without one of the mistakes that VIGOR and its copies are known for."""
    offset_px_Q42 = stated.offset_px_Q42
    m_per_px = float(np.mean(tile_m_per_px(stated.city, stated.tile_Q42[..., 0])))
    yield replace(
        stated,
        offset_px_Q42=offset_px_Q42 * (_ORIGINAL_M_PER_PX / m_per_px),
        how=f"{_ORIGINAL_M_PER_PX} in place of {m_per_px:.6f} m per pixel: these are the original labels",
        way_out="take SliceMatch's corrected ones, splits__corrected",
    )
    yield replace(stated, offset_px_Q42=offset_px_Q42 * [-1, 1], how="the sign of the rows changed")
    yield replace(stated, offset_px_Q42=offset_px_Q42 * [1, -1], how="the sign of the columns changed")
    yield replace(stated, offset_px_Q42=-offset_px_Q42, how="both signs of the offsets changed")
    yield replace(stated, offset_px_Q42=offset_px_Q42[..., ::-1], how="rows and columns exchanged")
    changes: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "latitude and longitude exchanged": _exchanged,
        "the sign of the latitude changed": lambda place: place * [-1, 1],
        "the sign of the longitude changed": lambda place: place * [1, -1],
    }
    for how, change in changes.items():
        panoramas, tiles = {"place_Q2": change(stated.place_Q2)}, {"tile_Q42": change(stated.tile_Q42)}
        yield replace(stated, **panoramas, how=f"{how} in the names of panoramas")
        yield replace(stated, **tiles, how=f"{how} in the names of tiles")
        yield replace(stated, **panoramas, **tiles, how=f"{how} in all names")


def _exchanged(place_N2: np.ndarray) -> np.ndarray:
    """NaN where the longitude can't be a latitude."""
    return np.where(np.abs(place_N2[..., 1:]) <= 90, place_N2[..., ::-1], np.nan)
