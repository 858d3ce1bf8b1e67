"""The interface of the readers of data sets: arguments, report, result.

A reader is one module and one entry of ``registry.READERS``, which names its views and its function
``read(data, split, report) -> Split``. If tile names define the ground they cover, the
entry also names ``read_ground(data, directory, names) -> Ground``. This module calls both functions.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mindloc.config.sections import DataConfig
from mindloc.data.split import Split, share_of_queries
from mindloc.errors import ConfigError, DataError, SplitAbsentError
from mindloc.geo.points import PlaceUnit, lon_from, wrapped_lon
from mindloc.registry import READERS, imported
from mindloc.runtime.console import status_line

SplitName = Literal["train", "test"]


class Report:
    """Receives what a reader finds. This one raises the first problem; the one in data/check.py collects all."""

    cross_checks = False  # whether a reader makes the checks that report a ``doubt``

    def problem(self, kind: str, text: str) -> None:
        """Report a problem: its kind, for counting, and one line with what, where and the way out."""
        raise DataError(text)

    def doubt(self, kind: str, text: str) -> None:
        """Report a contradiction that prevents no training run; only check-data counts it as a problem."""

    def note(self, text: str) -> None:
        """Report something unusual that may be intended."""

    def breakdown(self, counts: dict[str, int]) -> None:
        """Report the number of images of each kind, such as the reference images of each zoom."""


STOP = Report()


def read_split(data: DataConfig, split: SplitName) -> Split:
    """Read the training or test split; of the training queries, only the fraction ``data.train_ratio``.

    Raises:
        SplitAbsentError: the data set does not have this split.
        DataError: the first problem, with file, entry and key.
    """
    whole = read_whole(data, split)
    return share_of_queries(whole, data.train_ratio) if split == "train" else whole


def find_split(data: DataConfig, split: SplitName) -> Split | None:
    """Like ``read_split``, but None if the data set has no such split."""
    try:
        return read_split(data, split)
    except SplitAbsentError:
        return None


def read_whole(data: DataConfig, split: SplitName, report: Report = STOP) -> Split:
    """Read a split with all its queries; problems go to ``report``, and their entries are left out.

    Raises:
        SplitAbsentError: the data set does not have this split; raised by the reader.
        DataError: nothing can be used, even if the report collects problems.
    """
    entry = READERS[data.reader]
    with status_line(f"reading the {split} split"):
        whole = entry.build(data, split, report)
    views = (whole.query.view, whole.reference.view)
    if views != entry.views:
        raise ValueError(f"reader {data.reader} returns views {views}; expected {entry.views} as in the registry")
    return whole


@dataclass(frozen=True)
class Ground:
    """The ground that N tiles cover, in ``unit``."""

    unit: PlaceUnit
    # float64: minimum of both coordinates, then maximum of both; across the 180th meridian the latter exceeds 180
    bounds_N4: np.ndarray

    @property
    def place_N2(self) -> np.ndarray:
        """Centers of the tiles."""
        place_N2 = (self.bounds_N4[:, :2] + self.bounds_N4[:, 2:]) / 2
        if self.unit == "lat_lon_deg":
            place_N2[:, 1] = wrapped_lon(place_N2[:, 1])
        return place_N2

    def __str__(self) -> str:
        low_N2, high_N2 = self.bounds_N4[:, :2], self.bounds_N4[:, 2:]
        if self.unit == "lat_lon_deg":  # across the 180th meridian the short way
            shift_N = lon_from(low_N2[:, 1], low_N2[0, 1]) - low_N2[:, 1]
            shift_N2 = np.stack([np.zeros_like(shift_N), shift_N], axis=1)
            low_N2, high_N2 = low_N2 + shift_N2, high_N2 + shift_N2
        low, high = low_N2.min(axis=0), high_N2.max(axis=0)
        tiles, between = len(self.bounds_N4), f"{low[0]:.6g}, {low[1]:.6g} to {high[0]:.6g}, {high[1]:.6g}"
        shared = tiles - len(np.unique(self.bounds_N4, axis=0))
        repeated = f"; {shared} at the same place as another: extract each area separately" if shared else ""
        return f"{tiles} tiles from {between} ({self.unit}){repeated}"


def read_ground(data: DataConfig, directory: Path, names: list[str]) -> Ground:
    """The ground of the tiles ``names`` below ``directory``, which the reader of ``data`` computes from their names.

    Raises:
        ConfigError: the names of this data set do not state the ground.
        DataError: a name is not a tile name, or the map of a tile is unknown.
    """
    ground = READERS[data.reader].ground
    if ground is None:
        raise ConfigError(f"image names state no places with data.reader={data.reader}; leave --places out")
    return imported(ground)(data, directory, names)


def repeated_ground(bounds_N4: np.ndarray, names: list[str]) -> str | None:
    """A note on tiles that cover exactly the same ground as another tile; None if there are none."""
    known = np.flatnonzero(~np.isnan(bounds_N4).any(axis=1))
    _, first, back = np.unique(bounds_N4[known].round(9), axis=0, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[back] != np.arange(len(known)))
    if not len(again):
        return None
    one, other = known[first[back[again[0]]]], known[again[0]]
    return (
        f"{len(again)} of {len(names)} tiles cover the same ground as another one (first {names[one]} and "
        f"{names[other]}); two areas whose tiles have the same names need a map each"
    )
