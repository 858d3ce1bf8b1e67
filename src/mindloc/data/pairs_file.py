"""The JSON file of pairs that GTA-UAV and UAV-VisLoc share: read, checked, every problem located.

Reading and checking are one pass: what is wrong goes to a ``report`` function, and what is left is usable. A reader's
``report`` raises at the first problem, the check's collects them all.

Letters: D drone pictures, E entries of the tile lists of all drone pictures one after the other, S tiles.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from mindloc.data.split import Edges, Places, PlaceUnit, Side, Split
from mindloc.errors import DataError
from mindloc.runtime.files import read_json
from mindloc.vocabulary import MODES, PairMode

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a data set: its kind, for counting, and one line that says what and where."""

    kind: str
    text: str


Report = Callable[[Problem], None]


def stop(problem: Problem) -> NoReturn:
    """A ``Report`` that stops at the first problem."""
    raise DataError(problem.text)


@dataclass(frozen=True)
class Layout:
    """What differs between the two variants of the file."""

    name: str
    place_key: str  # in drone_{place_key} and pair_*_sate_{place_key}_list
    place_unit: PlaceUnit
    parse_tile: Callable[[str], object]  # raises DataError for what is no tile name

    def list_key(self, mode: PairMode, what: str) -> str:
        return f"pair_{mode}_sate_{what}_list"


@dataclass(frozen=True)
class TileLists:
    """The tiles of every drone picture in one mode: those of d are ``tile[start[d]:start[d + 1]]``."""

    start: np.ndarray  # (D+1,) int64
    tile: list[Any]  # E names as the file has them
    weight: list[Any]  # E weights as the file has them


@dataclass(frozen=True)
class PairsFile:
    """A file of pairs whose entries have the right keys and lists of equal length; tiles and weights unchecked."""

    path: Path
    layout: Layout
    satellite_folder: str
    entry: list[int]  # D indices of the entries in the file
    drone_files: list[str]
    drone_place: np.ndarray  # (D,2) float64
    drone_metadata: list[dict]
    lists: dict[PairMode, TileLists]
    stated_place: dict[str, Any]  # tile name -> center as the file has it, where it has one

    def where(self, drone: int, key: str) -> str:
        return _where(self.path, self.entry[drone], key, self.drone_files[drone])


def _where(path: Path, entry: int, key: str, drone_file: str = "") -> str:
    return f"{path}: entry {entry}{f' ({drone_file})' if drone_file else ''}, {key}"


def read_pairs_file(path: Path, layout: Layout, report: Report = stop) -> PairsFile:
    """Every usable entry of the file; each other one goes to ``report``.

    Raises:
        DataError: the file is missing, no JSON, no list, or has no usable entry, whatever ``report`` does.
    """
    reader = _EntryReader(path, layout, report)
    for index, entry in enumerate(_load_entries(path)):
        reader.add(index, entry)
    return reader.result()


def read_pairs_and_tiles(root: Path, pairs_file: str, layout: Layout, json_only: bool) -> tuple[PairsFile, list[str]]:
    """The pairs, and the tiles of their satellite folder, or with ``json_only`` those that the pairs name.

    Raises:
        DataError: the first thing that is wrong.
    """
    pairs = read_pairs_file(root / pairs_file, layout)
    return pairs, tiles_of_pairs(pairs) if json_only else list_tiles(root / pairs.satellite_folder, layout)


def join_split(root: Path, pairs: PairsFile, tiles: list[str], tile_place: np.ndarray) -> Split:
    """The split of pairs and tiles, which lie at ``tile_place`` (S,2).

    Raises:
        DataError: a pair that can't be used.
    """
    edges, unit = connect(pairs, tiles), pairs.layout.place_unit
    return Split(
        root=root,
        query=Side("drone", pairs.drone_files, Places(pairs.drone_place, unit)),
        reference=Side("satellite", [f"{pairs.satellite_folder}/{tile}" for tile in tiles], Places(tile_place, unit)),
        positive=edges["pos"],
        semipositive=edges["pos_semipos"],
        query_metadata=pairs.drone_metadata,
    )


def _load_entries(path: Path) -> list:
    if not path.exists():
        raise DataError(f"{path} is missing; expected the JSON file of pairs: check data.root and data.*_pairs")
    entries = read_json(path, DataError, "file of pairs", "fetch or write it again", kind=list)
    if not entries:
        raise DataError(f"{path} is an empty list; expected one object per drone picture")
    return entries


class _EntryReader:
    """Collects the columns of a ``PairsFile`` entry by entry."""

    def __init__(self, path: Path, layout: Layout, report: Report):
        self.path, self.layout, self.report = path, layout, report
        self.satellite_folder: str | None = None
        self.seen: dict[str, int] = {}  # drone file -> entry
        self.place: list[list[float]] = []
        self.metadata: list[dict] = []
        self.count: dict[PairMode, list[int]] = {mode: [] for mode in MODES}
        self.tile: dict[PairMode, list] = {mode: [] for mode in MODES}
        self.weight: dict[PairMode, list] = {mode: [] for mode in MODES}
        self.stated_place: dict[str, Any] = {}

    def add(self, index: int, entry: Any) -> None:
        problem = self._problem(index, entry)
        if problem is not None:
            self.report(problem)
            return
        drone_file = f"{entry['drone_img_dir'].strip('/')}/{entry['drone_img_name']}"
        self.seen[drone_file] = index
        self.place.append(entry[f"drone_{self.layout.place_key}"])
        self.metadata.append(entry.get("drone_metadata") or {})
        for mode in MODES:
            tiles, weights, places = self._lists(entry, mode)
            self.count[mode].append(len(tiles))
            self.tile[mode] += tiles
            self.weight[mode] += weights
        if places is not None:  # of the last mode, which is the superset
            self.stated_place.update(
                (tile, place) for tile, place in zip(tiles, places, strict=True) if type(tile) is str
            )

    def _lists(self, entry: dict, mode: PairMode) -> tuple[Any, Any, Any]:
        key = self.layout.list_key
        return (
            entry.get(key(mode, "img")),
            entry.get(key(mode, "weight")),
            entry.get(key(mode, self.layout.place_key)),
        )

    def _problem(self, index: int, entry: Any) -> Problem | None:
        if not isinstance(entry, dict):
            return Problem(
                "broken entry", f"{self.path}: entry {index} is a {type(entry).__name__}; expected an object"
            )
        for key in ("drone_img_dir", "drone_img_name", "sate_img_dir"):
            if not isinstance(entry.get(key), str) or not entry[key]:
                return self._broken(index, key, entry.get(key), "a name")
        drone_file = f"{entry['drone_img_dir'].strip('/')}/{entry['drone_img_name']}"
        if drone_file in self.seen:
            where = _where(self.path, index, "drone_img_name")
            text = f"{where}: {drone_file} stands in entry {self.seen[drone_file]} too; merge the two entries"
            return Problem("duplicate name", text)
        folder = entry["sate_img_dir"].strip("/")
        if self.satellite_folder is None:
            self.satellite_folder = folder
        if folder != self.satellite_folder:
            return self._broken(index, "sate_img_dir", folder, f"{self.satellite_folder!r}, as in the entries before")
        key = f"drone_{self.layout.place_key}"
        if not is_place(entry.get(key), self.layout.place_unit):
            return self._broken(index, key, entry.get(key), PLACE_FORM[self.layout.place_unit])
        if not isinstance(entry.get("drone_metadata"), dict | None):
            return self._broken(index, "drone_metadata", entry["drone_metadata"], "an object")
        return self._list_problem(index, entry, drone_file)

    def _list_problem(self, index: int, entry: dict, drone_file: str) -> Problem | None:
        for mode in MODES:
            lists = self._lists(entry, mode)
            keys = [self.layout.list_key(mode, what) for what in ("img", "weight", self.layout.place_key)]
            for key, values in zip(keys, lists, strict=True):
                optional = key == keys[2]
                if not isinstance(values, list) and not (optional and values is None):
                    return self._broken(index, key, values, "a list", drone_file)
            lengths = {len(values) for values in lists if values is not None}
            if len(lengths) > 1:
                text = ", ".join(f"{key} has {len(v)}" for key, v in zip(keys, lists, strict=True) if v is not None)
                where = _where(self.path, index, keys[0], drone_file)
                return Problem("list lengths", f"{where}: lists of different lengths: {text}; expected equal lengths")
        return None

    def _broken(self, index: int, key: str, value: Any, expected: str, drone_file: str = "") -> Problem:
        found = "missing" if value is None else f"{_short(value)}"
        return Problem("broken entry", f"{_where(self.path, index, key, drone_file)} is {found}; expected {expected}")

    def result(self) -> PairsFile:
        if not self.seen:
            raise DataError(f"{self.path} holds no usable entry; python -m mindloc check-data lists what is wrong")
        return PairsFile(
            path=self.path,
            layout=self.layout,
            satellite_folder=self.satellite_folder or "",
            entry=list(self.seen.values()),
            drone_files=list(self.seen),
            drone_place=np.array(self.place, np.float64),
            drone_metadata=self.metadata,
            lists={
                mode: TileLists(
                    np.concatenate([[0], np.cumsum(self.count[mode])]).astype(np.int64),
                    self.tile[mode],
                    self.weight[mode],
                )
                for mode in MODES
            },
            stated_place=self.stated_place,
        )


PLACE_FORM = {
    "plane_m": "[x, y], two numbers in meters",
    "lat_lon_deg": "[latitude, longitude] in degrees, latitude (-90..90) first",
}


def is_place(value: Any, unit: PlaceUnit) -> bool:
    """Whether a value out of a JSON file is a place in ``unit``."""
    if not isinstance(value, list) or len(value) != 2 or not all(_is_number(number) for number in value):
        return False
    return unit == "plane_m" or (abs(value[0]) <= 90 and abs(value[1]) <= 180)


_LARGEST = 1e300


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < _LARGEST  # NaN compares False; a huge int stays an int


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def list_tiles(folder: Path, layout: Layout, report: Report = stop) -> list[str]:
    """The file names of every tile in ``folder``, sorted; other files than pictures are no concern of ours.

    Raises:
        DataError: the folder is missing or holds no tile, whatever ``report`` does.
    """
    try:
        names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
    except OSError as error:
        raise DataError(f"{folder} can't be listed: {error.strerror}; expected the satellite tiles there") from None
    tiles: dict[str, str] = {}  # name without its ending -> file name
    for name in names:
        stem = name.rpartition(".")[0]
        if not _is_tile_name(name, layout):
            report(Problem("tile name", f"{folder / name}: {name!r} is no {layout.name} tile name; move it elsewhere"))
        elif stem in tiles:
            report(Problem("duplicate name", f"{folder}: {tiles[stem]} and {name} are one tile; keep one of them"))
        else:
            tiles[stem] = name
    if not tiles:
        raise DataError(f"{folder} holds no tile; expected .png or .jpg files with {layout.name} tile names")
    return list(tiles.values())


def tiles_of_pairs(pairs: PairsFile) -> list[str]:
    """The file names of every tile that a pair names, sorted: the gallery of a data set without pictures."""
    named = {tile for lists in pairs.lists.values() for tile in lists.tile if type(tile) is str}
    return sorted(tile for tile in named if _is_tile_name(tile, pairs.layout))


def _is_tile_name(name: str, layout: Layout) -> bool:
    try:
        layout.parse_tile(name)
    except DataError:
        return False
    return True


def connect(pairs: PairsFile, tiles: list[str], report: Report = stop) -> dict[PairMode, Edges]:
    """The overlaps of both modes as edges between drone pictures and ``tiles``; unusable ones go to ``report``.

    Raises:
        DataError: not one pair is left, whatever ``report`` does.
    """
    index = {tile: number for number, tile in enumerate(tiles)}
    edges = {mode: _connect(pairs, mode, index, report) for mode in MODES}
    if not len(edges["pos_semipos"]):
        key = pairs.layout.list_key("pos_semipos", "img")
        raise DataError(
            f"{pairs.path}: {key} holds no usable pair in any of {len(pairs.entry)} entries; "
            "take the file that came with these tiles, or name at least one tile there"
        )
    _report_lone_positives(pairs, edges, tiles, report)
    return edges


def _connect(pairs: PairsFile, mode: PairMode, index: dict[str, int], report: Report) -> Edges:
    lists = pairs.lists[mode]
    drone_E = np.repeat(np.arange(len(pairs.entry)), np.diff(lists.start))
    weight_E = _weights(lists.weight)
    satellite_E = np.array([index.get(tile, -1) if type(tile) is str else -1 for tile in lists.tile], np.int64)
    bad_weight_E = ~((weight_E >= 0) & (weight_E <= 1))
    twice_E = _repeats(drone_E, satellite_E, len(index))
    for at in np.flatnonzero(bad_weight_E | (satellite_E < 0) | twice_E):
        drone = int(drone_E[at])
        if satellite_E[at] < 0:
            report(_tile_problem(pairs, drone, mode, lists.tile[at], index))
        if bad_weight_E[at]:
            where = pairs.where(drone, pairs.layout.list_key(mode, "weight"))
            found = f"the weight of {_short(lists.tile[at])} is {_short(lists.weight[at])}"
            report(Problem("weight", f"{where}: {found}; expected a number from 0 to 1 (IoU)"))
        if twice_E[at]:
            where = pairs.where(drone, pairs.layout.list_key(mode, "img"))
            report(Problem("duplicate name", f"{where}: tile {lists.tile[at]} stands twice; keep one of them"))
    good_E = ~bad_weight_E & (satellite_E >= 0) & ~twice_E
    start = np.zeros(len(pairs.entry) + 1, np.int64)
    np.cumsum(np.bincount(drone_E[good_E], minlength=len(pairs.entry)), out=start[1:])
    return Edges(start, satellite_E[good_E].astype(np.int32), {"iou": weight_E[good_E].astype(np.float32)})


def _weights(values: list) -> np.ndarray:
    """(E,) float64, NaN for what is no number: a string or a boolean would convert silently."""
    if set(map(type, values)) <= {float}:
        return np.array(values, np.float64)
    return np.array([float(v) if _is_number(v) else np.nan for v in values], np.float64)


def _repeats(drone_E: np.ndarray, satellite_E: np.ndarray, satellite_count: int) -> np.ndarray:
    """(E,) bool: the same drone picture and tile came before."""
    known = np.flatnonzero(satellite_E >= 0)
    repeats = np.zeros(len(drone_E), bool)
    _, first = np.unique(drone_E[known] * satellite_count + satellite_E[known], return_index=True)
    repeats[known] = True
    repeats[known[first]] = False
    return repeats


def _tile_problem(pairs: PairsFile, drone: int, mode: PairMode, tile: Any, index: dict[str, int]) -> Problem:
    where = pairs.where(drone, pairs.layout.list_key(mode, "img"))
    if not isinstance(tile, str) or not _is_tile_name(tile, pairs.layout):
        return Problem("tile name", f"{where}: {_short(tile)} is no {pairs.layout.name} tile name; correct the name")
    stem = tile.rpartition(".")[0]
    other = next((stem + suffix for suffix in PICTURE_SUFFIXES if stem + suffix in index), None)
    hint = f"{other} is there: use one ending for all" if other else "add the tile, or take the pair out"
    return Problem("absent tile", f"{where}: tile {tile} is not in {pairs.satellite_folder}/; {hint}")


def _report_lone_positives(pairs: PairsFile, edges: dict[PairMode, Edges], tiles: list[str], report: Report) -> None:
    """A positive that is no (semi-)positive would slip past exclusive sampling, which knows the latter alone."""
    key = {mode: edges[mode].query() * np.int64(len(tiles)) + edges[mode].reference for mode in MODES}
    for lone in key["pos"][~np.isin(key["pos"], key["pos_semipos"])]:
        drone, tile = divmod(int(lone), len(tiles))
        where = pairs.where(drone, pairs.layout.list_key("pos_semipos", "img"))
        text = f"{where}: positive tile {tiles[tile]} is missing there; expected every positive in this list as well"
        report(Problem("positive outside pos_semipos", text))
