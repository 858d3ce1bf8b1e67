"""Check of a data set: counts, problems, and the batch sizes that exclusive sampling can fill."""

import functools
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mindloc.config.sections import DataConfig
from mindloc.data.exclusion import OverlapGraph
from mindloc.data.images import read_image
from mindloc.data.readers import Report, SplitName, read_whole
from mindloc.data.sampler import kept_shares
from mindloc.data.split import Split
from mindloc.errors import DataError, ImageError, SplitAbsentError
from mindloc.registry import READERS
from mindloc.runtime.console import progress_bar, wrapped
from mindloc.vocabulary import MODES, SIDES, PairMode

BATCH_SIZES = (4, 8, 12, 16, 32, 64)
_EXAMPLES = 3  # problems of one kind that the report shows
_WORKERS = 2
_ASPECT_OFF = 1.1  # an image of an expected aspect may be that much wider or higher


@dataclass(frozen=True)
class Problem:
    """One problem of a data set: its kind, for counting, and one line with what and where."""

    kind: str
    text: str


@dataclass
class SplitCount:
    """Counts of one split."""

    name: SplitName
    queries: int = 0
    references: int = 0  # only those in a pair
    pairs: dict[PairMode, int] = field(default_factory=dict)
    queries_with: dict[PairMode, int] = field(default_factory=dict)  # with at least one pair of the mode


def _row(title: str, text: str) -> str:
    """One entry of the report, wrapped to several lines if it is long."""
    return wrapped(text, start=f"{title:<18} ", indent=" " * 19)


@dataclass
class CheckReport(Report):
    """Result of ``check_data``; ``text()`` is the printed report."""

    cross_checks = True

    reader: str
    root: str
    batch_sizes: Sequence[int] = BATCH_SIZES
    splits: list[SplitCount] = field(default_factory=list)
    images: dict[str, int] = field(default_factory=dict)  # view -> count
    kinds: Counter = field(default_factory=Counter)  # kind of reference image, such as its zoom -> count
    image_sizes: dict[str, Counter] = field(default_factory=dict)  # view -> (width, height) -> count
    kept: dict[PairMode, list[float]] = field(default_factory=dict)  # fraction of the training pairs, by batch size
    notes: list[str] = field(default_factory=list)
    found: dict[Problem, None] = field(default_factory=dict)  # without duplicates, in order

    def problem(self, kind: str, text: str) -> None:
        self.found[Problem(kind, text)] = None

    def doubt(self, kind: str, text: str) -> None:
        self.problem(kind, text)

    def note(self, text: str) -> None:
        if text not in self.notes:  # both splits have the same reference side
            self.notes.append(text)

    def breakdown(self, counts: dict[str, int]) -> None:
        self.kinds |= counts  # both splits have the same reference side

    @property
    def problems(self) -> list[Problem]:
        return list(self.found)

    @property
    def ok(self) -> bool:
        """True without problems; notes do not count."""
        return not self.found

    def text(self) -> str:
        counts = self._count_lines()
        lines = [f"{self.reader} data in {self.root}", *([""] if counts else []), *counts, *self._sampling_lines(), ""]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines + self._problem_lines())

    def _count_lines(self) -> list[str]:
        lines = [f"{view + ' images':<18} {count}" for view, count in self.images.items()]
        if self.kinds:
            lines.append(_row("", ", ".join(f"{kind}: {count}" for kind, count in self.kinds.items())))
        for split in self.splits:
            counts = f"{split.queries} query images, {split.references} reference images in pairs"
            lines.append(_row(split.name, counts))
            lines += [
                f"  {mode:<16} {split.pairs[mode]} pairs, {split.queries_with[mode]} query images with one"
                for mode in split.pairs
            ]
        for view, sizes in self.image_sizes.items():
            common = ", ".join(f"{count} of {width}x{height}" for (width, height), count in sizes.most_common(4))
            lines.append(_row("decoded", f"{sizes.total()} {view} images ({common})"))
        return lines

    def _sampling_lines(self) -> list[str]:
        if not self.kept:
            return []
        lines = ["", "training pairs that sampling.mode=exclusive keeps, by batch size"]
        lines.append(" " * 13 + "".join(f"{size:>8}" for size in self.batch_sizes))
        for mode, shares in self.kept.items():
            cells = "".join(f"{share:>8.1%}" if share else f"{'none':>8}" for share in shares)
            lines.append(f"  {mode:<11}{cells}")
        if not all(share for shares in self.kept.values() for share in shares):
            lines.append("  if few or none are kept: sampling.mode=exclusive_padded and masked use every pair")
        return lines

    def _problem_lines(self) -> list[str]:
        if self.ok:
            return ["ok: no problems" + ("; check that the notes above are intended" if self.notes else "")]
        lines = []
        for kind, count in Counter(problem.kind for problem in self.found).most_common():
            lines.append(f"{kind}: {count}")
            texts = [problem.text for problem in self.found if problem.kind == kind]
            lines += [f"  {text}" for text in texts[:_EXAMPLES]]
            if count > _EXAMPLES:
                lines.append(f"  ... and {count - _EXAMPLES} more")
        return [*lines, f"NOT OK, problems: {len(self.found)}"]


def check_data(
    data: DataConfig,
    splits: Sequence[SplitName] = ("train", "test"),
    read_images: bool = True,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> CheckReport:
    """Find all problems of a data set, not only the first; one of two splits may be absent.

    Args:
        splits: names of the splits, which have one root directory.
        read_images: decode every image; False: only check that the files exist.
    """
    report = CheckReport(data.reader, data.source(splits[0])[0], batch_sizes)
    found, absent = {}, {}
    for name in splits:
        try:
            split = _read(data, name, report)
        except SplitAbsentError as error:
            absent[name] = str(error)
        else:
            found |= {} if split is None else {name: split}
    for name, text in absent.items():
        if len(absent) == len(splits):
            report.problem("unusable", text)
        else:
            report.note(f"no {name} split; that is correct if the data set is not used for it ({text})")
    if len(found) == 2:
        _check_shared_queries(found["train"], found["test"], report)
    _check_images(found.values(), READERS[data.reader].aspect, read_images, report)
    if "train" in found:
        report.kept = _kept(found["train"], batch_sizes)
    return report


def _read(data: DataConfig, name: SplitName, report: CheckReport) -> Split | None:
    """Read and count the usable part of a split; None if nothing is usable.

    Raises:
        SplitAbsentError: the split does not exist.
    """
    count = SplitCount(name)
    try:
        split = read_whole(data, name, report=report)
    except SplitAbsentError:
        raise
    except DataError as error:
        report.splits.append(count)
        report.problem("unusable", str(error))
        return None
    report.splits.append(count)
    count.queries, count.references = len(split.query), len(np.unique(split.semipositive.reference))
    for mode in MODES:
        count.pairs[mode] = len(split.edges(mode))
        count.queries_with[mode] = int(np.count_nonzero(np.diff(split.edges(mode).start)))
    return split


def _check_shared_queries(train: Split, test: Split, report: CheckReport) -> None:
    """Report query images that are in both the training and the test split."""
    for name in sorted(set(train.query.files) & set(test.query.files)):
        text = f"{train.root / name} is in the training and in the test pairs; keep it in one of them"
        report.problem(f"{train.query.view} image in both splits", text)


def _check_images(splits: Iterable[Split], aspect: Mapping[str, float], read: bool, report: CheckReport) -> None:
    """Check that every image exists and, with ``read``, that it can be decoded; each file is checked once.

    Args:
        aspect: view -> width over height of its images; others are noted.
    """
    files: dict[str, dict[Path, None]] = {}  # view -> files in order
    for side in SIDES:
        for split in splits:
            files.setdefault(split.side(side).view, {}).update(dict.fromkeys(split.paths(side)))
    report.images = {view: len(paths) for view, paths in files.items()}
    for view, paths in files.items():
        sizes: Counter = Counter()
        remarks: dict[str, list[Path]] = {}
        with ThreadPoolExecutor(_WORKERS) as pool:
            all_found = pool.map(_decode if read else _find, paths)
            bar = progress_bar(all_found, total=len(paths), desc=f"{view} images", unit="img")
            for path, found in zip(paths, bar, strict=True):
                if isinstance(found, Problem):
                    report.problem(found.kind, found.text)
                elif found is not None:
                    sizes[found.size] += 1
                    for remark in (*found.remarks, *_of_aspect(found.size, aspect.get(view))):
                        remarks.setdefault(remark, []).append(path)
        for remark, of_remark in remarks.items():
            report.note(f"{len(of_remark)} {view} images {remark} (first {of_remark[0]})")
        if read:
            report.image_sizes[view] = sizes


def _of_aspect(size: tuple[int, int], expected: float | None) -> Iterator[str]:
    """The remark on an image that is wider or higher than the others should be."""
    width, height = size
    if expected and not 1 / _ASPECT_OFF <= width / height / expected <= _ASPECT_OFF:
        yield f"are not {expected:g} times as wide as high: cropped?"


class _Found(NamedTuple):
    size: tuple[int, int]  # width, height
    remarks: tuple[str, ...]


def _find(path: Path) -> Problem | None:
    if path.is_file():
        return None
    found = _spellings(path.parent).get(_spelling(path.name))
    if found:
        return Problem("missing file", f"{path} is missing, but {found} is there; rename it as spelled in the pairs")
    return Problem("missing file", f"{path} is missing; add it, or remove its entry from the pairs")


@functools.lru_cache(maxsize=4)
def _spellings(directory: Path) -> dict[str, str]:
    """For each file in a directory: its name with case and Unicode form normalized -> its actual name."""
    return {_spelling(entry.name): entry.name for entry in os.scandir(directory)} if directory.is_dir() else {}


def _spelling(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _decode(path: Path) -> _Found | Problem:
    """Decode an image: its size and the remarks on it, or the problem that prevents decoding."""
    missing = _find(path)
    if missing is not None:
        return missing
    try:
        pixels_HW3, remarks = read_image(path)
    except ImageError as error:
        return Problem("unreadable image", str(error))
    return _Found((pixels_HW3.shape[1], pixels_HW3.shape[0]), remarks)


def _kept(split: Split, batch_sizes: Sequence[int]) -> dict[PairMode, list[float]]:
    graph = OverlapGraph(split.semipositive, len(split.reference))
    return {
        mode: kept_shares(split.edges(mode).pairs(), graph, batch_sizes) for mode in MODES if len(split.edges(mode))
    }
