"""One page on a data set: what is there, what is wrong, and which batch sizes its pairs can fill."""

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from mindloc.data import gta_uav, visloc
from mindloc.data.exclusion import OverlapGraph
from mindloc.data.pairs_file import MODES, PairsFile, Problem, connect, is_place, list_tiles, read_pairs_file
from mindloc.data.sampler import kept_shares
from mindloc.data.split import Edges, PairMode
from mindloc.errors import DataError, one_line
from mindloc.geo.points import paired_distance_m

BATCH_SIZES = (4, 8, 12, 16, 32, 64)
_EXAMPLES = 3  # problems of one kind that the page shows
_WORKERS = 2
_FAR_M = 1.0  # a stated tile center this far from the computed one is worth a note


@dataclass
class SplitCount:
    """What one split holds."""

    name: str
    pairs_file: str
    drones: int = 0
    drones_with: dict[PairMode, int] = field(default_factory=dict)  # at least one pair of the mode
    pairs: dict[PairMode, int] = field(default_factory=dict)
    tiles: int = 0  # that a pair names


@dataclass
class CheckReport:
    """What ``check_data`` found; ``text()`` is the page."""

    root: Path
    layout: str
    splits: list[SplitCount] = field(default_factory=list)
    tiles_by_zoom: dict[int, int] = field(default_factory=dict)
    picture_sizes: dict[str, Counter] = field(default_factory=dict)  # drone, satellite -> (width, height) -> count
    kept: dict[PairMode, list[float]] = field(default_factory=dict)  # of the training pairs, per batch size
    batch_sizes: tuple[int, ...] = BATCH_SIZES
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; notes do not count."""
        return not self.problems

    def text(self) -> str:
        lines = [f"{self.layout} data in {self.root}", "", *self._count_lines(), *self._sampling_lines(), ""]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines + self._problem_lines())

    def _count_lines(self) -> list[str]:
        zooms = ", ".join(f"zoom {zoom}: {count}" for zoom, count in sorted(self.tiles_by_zoom.items()))
        lines = [f"satellite tiles    {sum(self.tiles_by_zoom.values())} ({zooms})"]
        for split in self.splits:
            lines.append(
                f"{split.name:<18} {split.pairs_file}: {split.drones} drone pictures, {split.tiles} tiles in pairs"
            )
            for mode in split.pairs:
                lines.append(
                    f"  {mode:<16} {split.pairs[mode]} pairs, {split.drones_with[mode]} drone pictures with one"
                )
        for view, sizes in self.picture_sizes.items():
            common = ", ".join(f"{count} of {width}x{height}" for (width, height), count in sizes.most_common(4))
            lines.append(f"{view + ' pictures':<19}{sum(sizes.values())} decoded ({common})")
        return lines

    def _sampling_lines(self) -> list[str]:
        if not self.kept:
            return []
        lines = ["", "training pairs that exclusive sampling keeps, by batch size (sampling.mode=exclusive)"]
        lines.append(" " * 13 + "".join(f"{size:>8}" for size in self.batch_sizes))
        for mode, shares in self.kept.items():
            cells = "".join(f"{share:>8.1%}" if share else f"{'none':>8}" for share in shares)
            lines.append(f"  {mode:<11}{cells}")
        if not all(share for shares in self.kept.values() for share in shares):
            lines.append("  where a size keeps little or none: sampling.mode=exclusive_padded or masked use every pair")
        return lines

    def _problem_lines(self) -> list[str]:
        if self.ok:
            return ["ok: nothing is wrong" + (", if the notes above are meant" if self.notes else "")]
        lines = []
        for kind, count in Counter(problem.kind for problem in self.problems).most_common():
            lines.append(f"{kind}: {count}")
            texts = [problem.text for problem in self.problems if problem.kind == kind]
            lines += [f"  {text}" for text in texts[:_EXAMPLES]]
            if count > _EXAMPLES:
                lines.append(f"  ... and {count - _EXAMPLES} more")
        return [*lines, f"NOT OK, problems: {len(self.problems)}"]


def check_data(
    root: Path | str,
    train_pairs: str | None,
    test_pairs: str | None,
    map_px: int,
    m_per_px: float,
    reader: Literal["gta_uav", "visloc"] = "gta_uav",
    read_pictures: bool = True,
    batch_sizes: tuple[int, ...] = BATCH_SIZES,
) -> CheckReport:
    """Everything that is wrong with a data set, without stopping at the first thing.

    Args:
        train_pairs, test_pairs: JSON files relative to ``root``; None: that split is not looked at.
        map_px, m_per_px: of the square map (gta_uav only), pixels and meters per pixel.
        read_pictures: open and decode every picture; False: only look whether the files are there.
    """
    check = _Check(Path(root), reader, map_px, m_per_px)
    report = check.report
    report.batch_sizes = batch_sizes
    splits = [
        check.split(name, pairs_file)
        for name, pairs_file in (("train", train_pairs), ("test", test_pairs))
        if pairs_file is not None
    ]
    check.shared_drones(splits)
    check.pictures(read_pictures)
    if train_pairs is not None and splits[0] is not None:
        report.kept = _kept(splits[0], batch_sizes)
    return report


@dataclass(frozen=True)
class _CheckedSplit:
    drone_files: list[str]
    edges: dict[PairMode, Edges]
    satellite_count: int


class _Check:
    """One walk over a data set; everything found goes into ``report``."""

    def __init__(self, root: Path, reader: str, map_px: int, m_per_px: float):
        self.root, self.map_px, self.m_per_px = root, map_px, m_per_px
        self.layout = {"gta_uav": gta_uav.LAYOUT, "visloc": visloc.LAYOUT}[reader]
        self.report = CheckReport(root, self.layout.name)
        self._drone_files: dict[str, None] = {}  # of all splits, in order, each once
        self._folders: dict[str, list[str]] = {}  # satellite folder -> tiles

    def split(self, name: str, pairs_file: str) -> _CheckedSplit | None:
        count = SplitCount(name, pairs_file)
        self.report.splits.append(count)
        try:
            pairs = read_pairs_file(self.root / pairs_file, self.layout, self.report.problems.append)
            self._drone_files.update(dict.fromkeys(pairs.drone_files))
            count.drones = len(pairs.drone_files)
            tiles = self._tiles(pairs.satellite_folder)
            edges = connect(pairs, tiles, self.report.problems.append)
            self._places(pairs, tiles)
        except DataError as error:
            self.report.problems.append(Problem("unusable", str(error)))
            return None
        for mode in MODES:
            count.pairs[mode] = len(edges[mode])
            count.drones_with[mode] = int(np.count_nonzero(np.diff(edges[mode].start)))
        count.tiles = len(np.unique(edges["pos_semipos"].reference))
        return _CheckedSplit(pairs.drone_files, edges, len(tiles))

    def _tiles(self, folder: str) -> list[str]:
        if folder not in self._folders:
            tiles = list_tiles(self.root / folder, self.layout, self.report.problems.append)
            self._folders[folder] = tiles
            zooms = Counter(self.layout.parse_tile(tile).zoom for tile in tiles)
            self.report.tiles_by_zoom = dict(Counter(self.report.tiles_by_zoom) + zooms)
        return self._folders[folder]

    def _places(self, pairs: PairsFile, tiles: list[str]) -> None:
        """A note where the file puts tiles elsewhere than their names, the map's size and its scale do."""
        if self.layout is visloc.LAYOUT:
            place_S2 = visloc.tile_places(self.root, tiles, pairs)
        else:
            place_S2 = gta_uav.tile_places(tiles, self.map_px, self.m_per_px)
        stated = [
            (number, pairs.stated_place[tile])
            for number, tile in enumerate(tiles)
            if is_place(pairs.stated_place.get(tile), self.layout.place_unit)
        ]
        if not stated:
            return
        number_N, stated_N2 = np.array([n for n, _ in stated]), np.array([place for _, place in stated])
        off_N = paired_distance_m(place_S2[number_N], stated_N2, self.layout.place_unit)
        if off_N.max() > _FAR_M:
            worst = int(off_N.argmax())
            self.report.notes.append(
                f"{pairs.path} puts {np.count_nonzero(off_N > _FAR_M)} of {len(off_N)} tile centers elsewhere than "
                f"computed (worst {tiles[number_N[worst]]}, {off_N[worst]:.0f} m): check data.map_px and data.m_per_px"
            )

    def shared_drones(self, splits: list[_CheckedSplit | None]) -> None:
        """Drone pictures that are both trained on and tested."""
        if len(splits) == 2 and None not in splits:
            for name in sorted(set(splits[0].drone_files) & set(splits[1].drone_files)):
                text = f"{self.root / name} stands in the training and in the test pairs; keep it in one of them"
                self.report.problems.append(Problem("drone picture in both splits", text))

    def pictures(self, read: bool) -> None:
        satellite_files = [f"{folder}/{tile}" for folder, tiles in self._folders.items() for tile in tiles]
        for view, files in (("drone", self._drone_files), ("satellite", satellite_files)):
            sizes = self._look_at(files, read)
            if read:
                self.report.picture_sizes[view] = sizes

    def _look_at(self, files: Iterable[str], read: bool) -> Counter:
        sizes: Counter = Counter()
        look = _decode if read else _find
        with ThreadPoolExecutor(_WORKERS) as pool:
            for found in pool.map(look, (self.root / name for name in files)):
                if isinstance(found, Problem):
                    self.report.problems.append(found)
                elif found is not None:
                    sizes[found] += 1
        return sizes


def _find(path: Path) -> Problem | None:
    if path.is_file():
        return None
    return Problem("missing file", f"{path} is missing; add it, or take its entry out of the pairs")


def _decode(path: Path) -> tuple[int, int] | Problem:
    """(width, height) of a picture that decodes to its last row."""
    missing = _find(path)
    if missing is not None:
        return missing
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture.size
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = one_line(error)
        return Problem("unreadable picture", f"{path} can't be decoded ({reason}); fetch it again")


def _kept(split: _CheckedSplit, batch_sizes: tuple[int, ...]) -> dict[PairMode, list[float]]:
    graph = OverlapGraph(split.edges["pos_semipos"], split.satellite_count)
    kept = {}
    for mode in MODES:
        edges = split.edges[mode]
        if len(edges):
            kept[mode] = kept_shares(edges.pairs(), graph, batch_sizes)
    return kept
