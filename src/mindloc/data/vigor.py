"""Reader of VIGOR: street-level panoramas (ground) and satellite tiles of cities, places in degrees.

Layouts: ``ROOT/{City}/{panorama,satellite}`` as released, or ``ROOT/{ground,satellite}/{City}`` as in Sample4Geo; the
directory of tiles may also be ``satelite``. Labels: ``ROOT/splits/{City}``, or SliceMatch's ``ROOT/splits__corrected``
with files named ``*__corrected.txt``, which are read where both are there.

References:
    VIGOR, arXiv:2011.12172; SliceMatch, arXiv:2211.14651, for the corrected labels; Sample4Geo, arXiv:2303.11851.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from mindloc.config.sections import DataConfig
from mindloc.data.readers import STOP, Ground, Report, SplitName
from mindloc.data.split import Edges, Places, Side, Split
from mindloc.data.vigor_labels import Labels, check_labels, parse_tile, read_labels, read_tile_list
from mindloc.errors import DataError, SplitAbsentError
from mindloc.geo.vigor import overlap_iou, tile_bounds, tile_m_per_px

LABEL_DIRECTORIES = ("splits__corrected", "splits")
PANORAMA_DIRECTORIES, TILE_DIRECTORIES = ("panorama", "ground"), ("satellite", "satelite")
CROSS_AREA: dict[SplitName, tuple[str, ...]] = {"train": ("NewYork", "Seattle"), "test": ("SanFrancisco", "Chicago")}
# city -> panoramas, tiles; one tile of San Francisco is in the release and not in its list
PUBLISHED = {
    "Chicago": (25479, (22308,)),
    "NewYork": (27769, (23279,)),
    "SanFrancisco": (28215, (24255, 24256)),
    "Seattle": (23751, (20776,)),
}


def read(data: DataConfig, split: SplitName, report: Report = STOP) -> Split:
    """Read one split; its reference side is every tile in the lists of the split's cities.

    Every panorama has one positive tile and three semi-positive ones. Their columns are "iou" (E,), the overlap with a
    tile around the panorama, and "offset_px" (E, 2), (row, column) as in the file; see geo/vigor.py.

    Raises:
        SplitAbsentError: no city of the split has its label file.
        DataError: the first problem, with file and line; no city can be used, even if the report collects problems.
    """
    root = Path(data.source(split)[0])
    cities = _read_cities(root, _cities(data, root, split), _label_names(data, split), report)
    for city in cities:
        _note_counts(root, city, data, split, report)
        if report.cross_checks:
            check_labels(city.labels, city.name, report)
    _note_totals(cities, data, report)
    return _join(root, cities)


def read_ground(data: DataConfig, directory: Path, names: list[str]) -> Ground:
    """The ground of tiles, from their names and the scale of their city, which is the name of their directory or of
    the one above it.

    Raises:
        DataError: a name is not a tile name.
    """
    place_N2 = np.array([parse_tile(PurePosixPath(name).name) for name in names], np.float64).reshape(-1, 2)
    files = [f"{directory.resolve().as_posix()}/{name}" for name in names]
    return Ground("lat_lon_deg", tile_bounds(place_N2, _m_per_px(files, place_N2)))


def reference_m_per_px(split: Split) -> np.ndarray:
    """(N,) meters per pixel, at 640 px, of the tiles of a split that ``read`` returned."""
    return _m_per_px(split.reference.files, split.reference.places.coordinate_N2)


def _m_per_px(files: list[str], place_N2: np.ndarray) -> np.ndarray:
    city_N = np.array([_city_of(file) for file in files])
    m_per_px_N = np.empty(len(files))
    for city in np.unique(city_N):
        of_city = city_N == city
        m_per_px_N[of_city] = tile_m_per_px(str(city), place_N2[of_city, 0])
    return m_per_px_N


def _city_of(file: str) -> str:
    """The city in the path of a tile: NewYork/satellite/NAME or satellite/NewYork/NAME."""
    above, directory, _ = ["", "", *file.split("/")][-3:]
    return above if directory in TILE_DIRECTORIES else directory


# cities and their files ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _City:
    """A city whose files were read."""

    name: str
    labels: Labels
    panorama_directory: str  # relative to the root
    tile_directory: str


def _label_names(data: DataConfig, split: SplitName) -> tuple[str, str]:
    """The corrected label file and the other one."""
    stem = f"same_area_balanced_{split}" if data.area == "same" else "pano_label_balanced"
    return f"{stem}__corrected.txt", f"{stem}.txt"


def _cities(data: DataConfig, root: Path, split: SplitName) -> list[str]:
    """The cities of a split: those that the config names, the published ones, or the directories of other data."""
    named = data.test_cities if (data.area, split) == ("cross", "test") else data.cities
    if named:
        return list(named)
    labels = _label_directory(root)
    found = _directories(labels)
    published = {city.casefold() for city in PUBLISHED}
    if any(name.casefold() in published for name in found):
        return list(PUBLISHED if data.area == "same" else CROSS_AREA[split])
    half = (len(found) + 1) // 2
    chosen = found if data.area == "same" else found[:half] if split == "train" else found[half:]
    if not chosen:
        here = f"has one city, {found[0]}, which is for training" if found else "has no directory of a city"
        raise SplitAbsentError(
            f"{labels} {here}; name cities in data.cities and data.test_cities, or set data.area=same"
        )
    return chosen


def _label_directory(root: Path) -> Path:
    found = [root / name for name in LABEL_DIRECTORIES if (root / name).is_dir()]
    if not found:
        raise SplitAbsentError(
            f"{root / LABEL_DIRECTORIES[1]} is missing; check data.root, or copy the label files there"
        )
    return found[0]


def _directories(parent: Path) -> list[str]:
    """Names of the directories in ``parent``, sorted, without hidden ones."""
    try:
        with os.scandir(parent) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{parent} can't be listed: {error.strerror}; check its permissions") from None


def _read_cities(root: Path, names: list[str], label_names: tuple[str, str], report: Report) -> list[_City]:
    """The cities that can be used; what the others lack goes to ``report``."""
    found, absent, problems = [], [], []
    for name in names:
        try:
            found.append(_read_city(root, name, label_names, report))
        except SplitAbsentError as error:
            absent.append(error)
        except DataError as error:
            problems.append(error)
    if absent and not found and not problems:
        raise absent[0]
    for error in absent + problems:
        report.problem("city", str(error))
    if not found:
        raise DataError(f"{root}: none of the cities {', '.join(names)} can be used; correct what is reported of each")
    return found


def _read_city(root: Path, name: str, label_names: tuple[str, str], report: Report) -> _City:
    """Read the lists of a city, and find its images.

    Raises:
        SplitAbsentError: the label file is missing.
        DataError: anything else is missing, or a file has no usable line.
    """
    directory = _label_directory(root) / name
    if not directory.is_dir():
        _refuse_other_case(root, [f"{directory.parent.name}/{name}"])
    path = next((directory / label for label in label_names if (directory / label).is_file()), None)
    if path is None:
        raise SplitAbsentError(f"{directory / label_names[1]} is missing; {_way_out(root, label_names)}")
    tile_list = directory / "satellite_list.txt"
    if not tile_list.is_file():
        raise DataError(f"{tile_list} is missing; copy it from the VIGOR release, or write it: a tile's name per line")
    panoramas = _image_directory(root, name, PANORAMA_DIRECTORIES, "panoramas")
    tiles = _image_directory(root, name, TILE_DIRECTORIES, "tiles")
    return _City(name, read_labels(path, read_tile_list(tile_list, report), report), panoramas, tiles)


def _way_out(root: Path, label_names: tuple[str, str]) -> str:
    labels = _label_directory(root)
    there = [name for name in _directories(labels) if any((labels / name / label).is_file() for label in label_names)]
    names = (
        f"name the cities that have it: data.cities=[{', '.join(there)}]" if there else "check data.area and data.root"
    )
    return f"copy it from the VIGOR release, or {names}"


def _image_directory(root: Path, city: str, names: tuple[str, ...], what: str) -> str:
    """The directory of the panoramas or tiles of a city, relative to the root."""
    places = [f"{city}/{name}" for name in names] + [f"{name}/{city}" for name in names]
    found = next((place for place in places if (root / place).is_dir()), None)
    if found is None:
        _refuse_other_case(root, places)
        text = f"{root}: the {what} of {city} are in none of {', '.join(places)}"
        raise DataError(f"{text}; put them there, or leave the city out in data.cities")
    return found


def _refuse_other_case(root: Path, places: Iterable[str]) -> None:
    """Raise where one of the directories is there in another letter case."""
    wanted = {place.casefold(): place for place in places}
    above = {place.partition("/")[0] for place in wanted}
    for first in _directories(root):
        for second in _directories(root / first) if first.casefold() in above else ():
            place = wanted.get(f"{first}/{second}".casefold())
            if place:
                text = f"{root / place} is missing, but {first}/{second} is there"
                raise DataError(f"{text}; rename it, or spell the city so in data.cities")


# what was read -------------------------------------------------------------------------------------------------------


def _join(root: Path, cities: list[_City]) -> Split:
    tile_files = [f"{city.tile_directory}/{name}" for city in cities for name in city.labels.tiles.names]
    order = sorted(range(len(tile_files)), key=tile_files.__getitem__)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    start = np.cumsum([0] + [len(city.labels.tiles.names) for city in cities])
    tile_Q4 = rank[np.concatenate([low + city.labels.tile_Q4 for low, city in zip(start, cities, strict=False)])]
    offset_px_Q42 = np.concatenate([city.labels.offset_px_Q42 for city in cities])
    tile_place = np.concatenate([city.labels.tiles.place_T2 for city in cities])[order]
    panoramas = [f"{city.panorama_directory}/{name}" for city in cities for name in city.labels.panoramas]
    place = np.concatenate([city.labels.place_Q2 for city in cities])
    return Split(
        root=root,
        query=Side("ground", panoramas, Places(place, "lat_lon_deg")),
        reference=Side("satellite", [tile_files[at] for at in order], Places(tile_place, "lat_lon_deg")),
        positive=_edges(tile_Q4[:, :1], offset_px_Q42[:, :1]),
        semipositive=_edges(tile_Q4, offset_px_Q42),
    )


def _edges(tile_QK: np.ndarray, offset_px_QK2: np.ndarray) -> Edges:
    """K edges of each panorama."""
    queries, each = tile_QK.shape
    offset_px_E2 = offset_px_QK2.reshape(-1, 2)
    columns = {"iou": overlap_iou(offset_px_E2).astype(np.float32), "offset_px": offset_px_E2.astype(np.float32)}
    return Edges(np.arange(queries + 1, dtype=np.int64) * each, tile_QK.reshape(-1).astype(np.int32), columns)


def _note_counts(root: Path, city: _City, data: DataConfig, split: SplitName, report: Report) -> None:
    """Count the panoramas and tiles of a city, and note where they differ from the published data."""
    labels, names = city.labels, city.labels.tiles.names
    report.breakdown({f"{city.name} tiles": len(names), f"{city.name} {split} panoramas": len(labels.panoramas)})
    if city.name in PUBLISHED:
        panoramas, tile_counts = PUBLISHED[city.name]
        if data.area == "same":  # the training half has the one that is left over
            panoramas = (panoramas + (split == "train")) // 2
        if labels.lines != panoramas:
            report.note(f"{labels.path}: {labels.lines} panoramas, and {panoramas} in the published file")
        if len(names) not in tile_counts:
            shown = " or ".join(map(str, tile_counts))
            report.note(f"{labels.tiles.path}: {len(names)} tiles, and {shown} in the published file")
    if report.cross_checks:
        more = {name for name in os.listdir(root / city.tile_directory) if name.startswith("satellite_")} - set(names)
        if more:
            text = f"{root / city.tile_directory}: {len(more)} tiles are not in {labels.tiles.path} (first {min(more)})"
            report.note(f"{text}: they can't be answers")


def _note_totals(cities: list[_City], data: DataConfig, report: Report) -> None:
    """Note totals that differ from the published ones, where all cities were read."""
    if {city.name for city in cities} != PUBLISHED.keys() or data.area != "same":
        return
    tiles = sum(len(city.labels.tiles.names) for city in cities)
    expected = [sum(count[at] for _, count in PUBLISHED.values()) for at in (0, -1)]
    if tiles not in expected:
        report.note(f"{tiles} tiles in all, and {' or '.join(map(str, expected))} in the published data")
