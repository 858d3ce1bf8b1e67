"""The pairs file (JSON) of GTA-UAV and UAV-VisLoc: reading, and checks that locate every problem.

Reading and checking are one pass: problems go to a ``Report``, and the result contains only usable entries. Both data
sets pair drone images (query side) with satellite tiles (reference side).

Shapes: Q query images (usable entries of the file), E tiles in the concatenated lists of all of them, S tiles of the
data set.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mindloc.data.image_directory import IMAGE_SUFFIXES, list_images
from mindloc.data.readers import Report
from mindloc.data.split import Edges, Places, Side, Split
from mindloc.errors import DataError, SplitAbsentError
from mindloc.geo.points import PlaceUnit, paired_distance_m
from mindloc.reading import read_json
from mindloc.vocabulary import MODES, PairMode

_NAME_KEYS = ("drone_img_dir", "drone_img_name", "sate_img_dir")
_PLACE_FORM = {
    "plane_m": "[x, y], two numbers in meters",
    "lat_lon_deg": "[latitude, longitude] in degrees, latitude (-90..90) first",
}
_LARGEST = 1e300
FAR_M = 1.0  # a stated tile center farther than this from the computed one gets a note


@dataclass(frozen=True)
class Layout:
    """What differs between the two variants of the file."""

    name: str
    place_key: str  # in drone_{place_key} and pair_*_sate_{place_key}_list
    place_unit: PlaceUnit
    parse_tile: Callable[[str], object]  # raises DataError for other names

    def list_keys(self, mode: PairMode) -> tuple[str, str, str]:
        """Keys of a query image's tiles, their weights, and their centers, which are optional."""
        tile, weight, center = (f"pair_{mode}_sate_{what}_list" for what in ("img", "weight", self.place_key))
        return tile, weight, center

    def is_tile(self, name: Any) -> bool:
        try:
            return isinstance(name, str) and self.parse_tile(name) is not None
        except DataError:
            return False


@dataclass(frozen=True)
class TileLists:
    """The tiles of all query images in one mode: those of query q are ``tile[start[q]:start[q + 1]]``."""

    start: np.ndarray  # (Q+1,) int64
    tile: list[Any]  # E names as in the file
    weight: list[Any]  # E weights as in the file


@dataclass(frozen=True)
class PairsFile:
    """A pairs file whose entries have all keys and lists of equal length; tiles and weights are not checked yet."""

    path: Path
    layout: Layout
    tile_directory: str
    entry: list[int]  # Q indices of the entries in the file
    query_files: list[str]
    query_place: np.ndarray  # (Q,2) float64
    lists: dict[PairMode, TileLists]
    stated_center: dict[str, Any]  # tile name -> center as in the file, where stated
    pose: np.ndarray  # (Q,4) float64: height in meters, yaw, pitch, roll of the camera in degrees; NaN where not stated

    def where(self, query: int, key: str) -> str:
        return f"{self.path}: entry {self.entry[query]} ({self.query_files[query]}), {key}"


def read_pairs(path: Path, layout: Layout, report: Report) -> PairsFile:
    """Read all usable entries of the file; the problems of the others go to ``report``.

    Raises:
        SplitAbsentError: the file is missing.
        DataError: the file is not a JSON list or has no usable entry, even if the report collects problems.
    """
    if not path.exists():
        raise SplitAbsentError(f"pairs file {path} is missing; check data.root and data.*_pairs")
    values = read_json(path, DataError, "pairs file", "download or write it again", kind=list)
    if not values:
        raise DataError(f"pairs file {path} is an empty list; expected one object per drone image")
    usable: dict[str, tuple[int, _Entry]] = {}  # query file -> index in the file, entry
    tile_directory = None
    for index, value in enumerate(values):
        try:
            entry = _read_entry(value, layout)
            tile_directory = tile_directory or entry.tile_directory
            if entry.tile_directory != tile_directory:
                raise _broken("sate_img_dir", entry.tile_directory, f"{tile_directory!r}, as in the entries before")
            if entry.query_file in usable:
                other = f"{entry.query_file} is in entry {usable[entry.query_file][0]} too; merge the two entries"
                raise _Unusable("duplicate name", f", drone_img_name: {other}")
        except _Unusable as problem:
            report.problem(problem.kind, f"{path}: entry {index}{problem.text}")
        else:
            usable[entry.query_file] = (index, entry)
    if not usable:
        raise DataError(f"pairs file {path} has no usable entry; correct those that are named")
    entries = [entry for _, entry in usable.values()]
    return PairsFile(
        path=path,
        layout=layout,
        tile_directory=tile_directory or "",
        entry=[index for index, _ in usable.values()],
        query_files=list(usable),
        query_place=np.array([entry.place for entry in entries], np.float64),
        lists={mode: _joined([entry.lists[mode] for entry in entries]) for mode in MODES},
        stated_center=dict(_tile_centers(entries)),
        pose=np.array([entry.pose for entry in entries], np.float64),
    )


@dataclass(frozen=True)
class _Entry:
    """One entry of the file: a query image and its tiles."""

    query_file: str
    tile_directory: str
    place: list[float]
    lists: dict[PairMode, tuple[list, list, list | None]]  # tiles, weights, centers
    pose: tuple[float, ...]


class _Unusable(Exception):
    """An entry that can't be used: the kind of problem, and the rest of a message that starts with the entry."""

    def __init__(self, kind: str, text: str):
        super().__init__(text)
        self.kind, self.text = kind, text


def _broken(key: str, value: Any, expected: str, query_file: str = "") -> _Unusable:
    found = "missing" if value is None else _short(value)
    return _Unusable("broken entry", f"{_in(query_file)}, {key} is {found}; expected {expected}")


def _in(query_file: str) -> str:
    return f" ({query_file})" if query_file else ""


def _read_entry(value: Any, layout: Layout) -> _Entry:
    if not isinstance(value, dict):
        raise _Unusable("broken entry", f" is a {type(value).__name__}; expected an object")
    for key in _NAME_KEYS:
        if not isinstance(value.get(key), str) or len(value[key].splitlines()) != 1:
            raise _broken(key, value.get(key), "a name")
    query_directory, query_name, tile_directory = (_inside_root(key, value[key]) for key in _NAME_KEYS)
    place_key = f"drone_{layout.place_key}"
    if not is_place(value.get(place_key), layout.place_unit):
        raise _broken(place_key, value.get(place_key), _PLACE_FORM[layout.place_unit])
    query_file = f"{query_directory}/{query_name}"
    lists = {mode: _read_lists(value, layout.list_keys(mode), query_file) for mode in MODES}
    return _Entry(query_file, tile_directory, value[place_key], lists, _read_pose(value.get("drone_metadata")))


def _read_pose(metadata: Any) -> tuple[float, ...]:
    """(height, yaw, pitch, roll) of the camera; without pitch and roll it looks straight down. NaN if unusable."""
    metadata = metadata if isinstance(metadata, dict) else {}
    defaults = {"height": math.nan, "cam_yaw": math.nan, "cam_pitch": -90.0, "cam_roll": 0.0}
    numbers = tuple(metadata.get(key, default) for key, default in defaults.items())
    return numbers if all(map(_is_number, numbers)) and numbers[0] > 0 else (math.nan,) * len(defaults)


def _inside_root(key: str, path: str) -> str:
    """A path in the file with forward slashes, even if Windows wrote it; a path that leaves the root is an error."""
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts or (parts and parts[0].endswith(":")):
        raise _broken(key, path, "a path inside the root of the data set")
    return "/".join(parts)


def _read_lists(entry: dict, keys: tuple[str, str, str], query_file: str) -> tuple[list, list, list | None]:
    tiles, weights, centers = lists = [entry.get(key) for key in keys]
    present = {key: values for key, values in zip(keys, lists, strict=True) if key != keys[2] or values is not None}
    for key, values in present.items():
        if not isinstance(values, list):
            raise _broken(key, values, "a list", query_file)
    if len({len(values) for values in present.values()}) > 1:
        lengths = ", ".join(f"{key} has {len(values)}" for key, values in present.items())
        text = f"{_in(query_file)}, {keys[0]}: lists of different lengths: {lengths}; expected equal lengths"
        raise _Unusable("list lengths", text)
    return tiles, weights, centers


def _joined(lists: list[tuple[list, list, list | None]]) -> TileLists:
    start = np.concatenate([[0], np.cumsum([len(tiles) for tiles, _, _ in lists])]).astype(np.int64)
    tiles = [tile for tiles, _, _ in lists for tile in tiles]
    return TileLists(start, tiles, [weight for _, weights, _ in lists for weight in weights])


def _tile_centers(entries: list[_Entry]):
    """Yield (tile, center) from all lists with centers of the last mode, which include those of the other modes."""
    for entry in entries:
        tiles, _, centers = entry.lists[MODES[-1]]
        for tile, center in zip(tiles, centers or [], strict=False):
            if type(tile) is str:
                yield tile, center


def is_place(value: Any, unit: PlaceUnit) -> bool:
    """Whether a value from a JSON file is a place in ``unit``."""
    if not isinstance(value, list) or len(value) != 2 or not all(_is_number(number) for number in value):
        return False
    return unit == "plane_m" or (abs(value[0]) <= 90 and abs(value[1]) <= 180)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < _LARGEST  # False for NaN; also works for huge ints


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def find_tiles(root: Path, pairs: PairsFile, report: Report) -> list[str]:
    """Sorted file names of all tiles in the directory of tiles; other files there are noted.

    Raises:
        DataError: the directory is missing or has no tiles, even if the report collects problems.
    """
    layout, directory = pairs.layout, root / pairs.tile_directory
    if not directory.is_dir():
        raise DataError(f"{directory} is missing; expected the satellite tiles there")
    found = list_images(directory, below=False)
    note = found.note()
    if note:
        report.note(f"{directory}: {note}")
    tiles: dict[str, str] = {}  # name without suffix -> file name
    for name in found.names:
        stem = name.rpartition(".")[0]
        if not layout.is_tile(name):
            report.problem(
                "tile name", f"{directory / name}: {name!r} is not a {layout.name} tile name; move the file elsewhere"
            )
        elif stem in tiles:
            text = f"{directory}: {tiles[stem]} and {name} are the same tile; keep one of them"
            report.problem("duplicate name", text)
        else:
            tiles[stem] = name
    if not tiles:
        raise DataError(f"{directory} has no tiles; expected .png or .jpg files with {layout.name} tile names")
    return list(tiles.values())


def join_split(root: Path, pairs: PairsFile, tiles: list[str], tile_place_S2: np.ndarray, report: Report) -> Split:
    """Create the split from pairs and tiles; pairs that can't be used are reported and left out."""
    unit = pairs.layout.place_unit
    index = {tile: number for number, tile in enumerate(tiles)}
    edges = {mode: _connect(pairs, mode, index, report) for mode in MODES}
    if not len(edges["pos_semipos"]):
        key = pairs.layout.list_keys("pos_semipos")[0]
        text = f"{pairs.path}: {key} has no usable pair in any of {len(pairs.entry)} entries; "
        report.problem("unusable", f"{text}use the pairs file of these tiles, or name at least one tile there")
    else:
        _report_lone_positives(pairs, edges, tiles, report)
    return Split(
        root=root,
        query=Side("drone", pairs.query_files, Places(pairs.query_place, unit)),
        reference=Side("satellite", [f"{pairs.tile_directory}/{tile}" for tile in tiles], Places(tile_place_S2, unit)),
        positive=edges["pos"],
        semipositive=edges["pos_semipos"],
    )


def stated_centers(pairs: PairsFile, tiles: list[str]) -> np.ndarray:
    """(S, 2) centers of the tiles as the file states them, NaN where it states none."""
    unknown = (math.nan, math.nan)
    stated = [pairs.stated_center.get(tile) for tile in tiles]
    places = [center if is_place(center, pairs.layout.place_unit) else unknown for center in stated]
    return np.array(places, np.float64)


def note_centers(pairs: PairsFile, tiles: list[str], place_S2: np.ndarray, hint: str, report: Report) -> None:
    """Note tile centers in the file that differ from ``place_S2``; ``hint`` says what to check."""
    off_S = paired_distance_m(place_S2, stated_centers(pairs, tiles), pairs.layout.place_unit)
    if (off_S > FAR_M).any():
        worst = int(np.nanargmax(off_S))
        report.note(
            f"{pairs.path}: {np.count_nonzero(off_S > FAR_M)} of {np.count_nonzero(~np.isnan(off_S))} tile centers "
            f"differ from the computed ones (most {tiles[worst]}, {off_S[worst]:.0f} m): {hint}"
        )


def _connect(pairs: PairsFile, mode: PairMode, index: dict[str, int], report: Report) -> Edges:
    lists = pairs.lists[mode]
    tile_key, weight_key, _ = pairs.layout.list_keys(mode)
    query_E = np.repeat(np.arange(len(pairs.entry)), np.diff(lists.start))
    weight_E = _weights(lists.weight)
    tile_E = np.array([index.get(tile, -1) if type(tile) is str else -1 for tile in lists.tile], np.int64)
    bad_weight_E = ~((weight_E >= 0) & (weight_E <= 1))
    twice_E = _repeats(query_E, tile_E, len(index))
    for at in np.flatnonzero(bad_weight_E | (tile_E < 0) | twice_E):
        query, tile = int(query_E[at]), lists.tile[at]
        if tile_E[at] < 0:
            report.problem(*_tile_problem(pairs, pairs.where(query, tile_key), tile, index))
        if bad_weight_E[at]:
            found = f"the weight of {_short(tile)} is {_short(lists.weight[at])}"
            text = f"{pairs.where(query, weight_key)}: {found}; expected a number from 0 to 1 (IoU)"
            report.problem("weight", text)
        if twice_E[at]:
            text = f"{pairs.where(query, tile_key)}: tile {tile} is listed twice; keep one of them"
            report.problem("duplicate name", text)
    good_E = ~bad_weight_E & (tile_E >= 0) & ~twice_E
    start = np.zeros(len(pairs.entry) + 1, np.int64)
    np.cumsum(np.bincount(query_E[good_E], minlength=len(pairs.entry)), out=start[1:])
    return Edges(start, tile_E[good_E].astype(np.int32), {"iou": weight_E[good_E].astype(np.float32)})


def _weights(values: list) -> np.ndarray:
    """(E,) float64; NaN for values that are not numbers, since NumPy would silently convert strings and booleans."""
    if set(map(type, values)) <= {float}:
        return np.array(values, np.float64)
    return np.array([float(v) if _is_number(v) else np.nan for v in values], np.float64)


def _repeats(query_E: np.ndarray, tile_E: np.ndarray, tile_count: int) -> np.ndarray:
    """(E,) bool: True where the pair of query image and tile occurred before."""
    known = np.flatnonzero(tile_E >= 0)
    repeats = np.zeros(len(query_E), bool)
    _, first = np.unique(query_E[known] * tile_count + tile_E[known], return_index=True)
    repeats[known] = True
    repeats[known[first]] = False
    return repeats


def _tile_problem(pairs: PairsFile, where: str, tile: Any, index: dict[str, int]) -> tuple[str, str]:
    """(kind, message) for a tile that does not exist."""
    if not pairs.layout.is_tile(tile):
        return "tile name", f"{where}: {_short(tile)} is not a {pairs.layout.name} tile name; correct the name"
    stem = tile.rpartition(".")[0]
    other = next((stem + suffix for suffix in IMAGE_SUFFIXES if stem + suffix in index), None)
    hint = f"{other} exists: use one suffix for all" if other else "add the tile, or remove the pair"
    return "absent tile", f"{where}: tile {tile} is not in {pairs.tile_directory}/; {hint}"


def _report_lone_positives(pairs: PairsFile, edges: dict[PairMode, Edges], tiles: list[str], report: Report) -> None:
    """Report positives that are missing in pos_semipos, since exclusive sampling reads only that list."""
    key = {mode: edges[mode].query() * np.int64(len(tiles)) + edges[mode].reference for mode in MODES}
    for lone in key["pos"][~np.isin(key["pos"], key["pos_semipos"])]:
        query, tile = divmod(int(lone), len(tiles))
        where = pairs.where(query, pairs.layout.list_keys("pos_semipos")[0])
        text = f"{where}: positive tile {tiles[tile]} is missing in this list; expected every positive in it as well"
        report.problem("positive outside pos_semipos", text)
