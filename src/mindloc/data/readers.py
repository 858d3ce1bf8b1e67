"""What a reader of a data set is given, where it reports, and what it gives back.

A reader is one module and one entry of ``registry.READERS``, which names its function and its views:
``read(data, split, report) -> Split``. Where names of tiles tell their ground, the entry also names
``read_ground(data, directory, names) -> Ground``. Both are called through this module.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mindloc.config.sections import DataConfig
from mindloc.data.split import Split, share_of_queries
from mindloc.errors import ConfigError, DataError, SplitAbsentError
from mindloc.geo.points import PlaceUnit
from mindloc.registry import READERS, imported

SplitName = Literal["train", "test"]


class Report:
    """What a reader finds in a data set; this one stops at the first problem, that of the check collects them all."""

    def problem(self, kind: str, text: str) -> None:
        """Something is wrong: its kind, for counting, and one line that says what, where, and the way out."""
        raise DataError(text)

    def note(self, text: str) -> None:
        """Something is unusual, and may be meant."""

    def breakdown(self, counts: dict[str, int]) -> None:
        """How many reference images there are of each kind, for example of each zoom."""


STOP = Report()


def read_split(data: DataConfig, split: SplitName) -> Split:
    """The training or test split of a data set; of the training queries the share ``data.train_ratio``.

    Raises:
        SplitAbsentError: the data set has no such split.
        DataError: the first thing that is wrong, with file, entry and key.
    """
    whole = read_whole(data, split)
    return share_of_queries(whole, data.train_ratio) if split == "train" else whole


def find_split(data: DataConfig, split: SplitName) -> Split | None:
    """As ``read_split``; None where the data set has no such split."""
    try:
        return read_split(data, split)
    except SplitAbsentError:
        return None


def read_whole(data: DataConfig, split: SplitName, report: Report = STOP) -> Split:
    """Every query of a split; what is wrong goes to ``report`` and is left out.

    Raises:
        SplitAbsentError: the data set has no such split, which the reader raises.
        DataError: nothing of it can be used, whatever the report does.
    """
    entry = READERS[data.reader]
    whole = entry.build(data, split, report)
    views = (whole.query.view, whole.reference.view)
    if views != entry.views:
        raise ValueError(f"reader {data.reader} gives the views {views} and is registered with {entry.views}")
    return whole


@dataclass(frozen=True)
class Ground:
    """The ground that N tiles cover, in ``unit``."""

    unit: PlaceUnit
    bounds_N4: np.ndarray  # float64: lowest of both coordinates, then highest of both

    @property
    def place_N2(self) -> np.ndarray:
        """Their centers."""
        return (self.bounds_N4[:, :2] + self.bounds_N4[:, 2:]) / 2

    def __str__(self) -> str:
        low, high = self.bounds_N4[:, :2].min(axis=0), self.bounds_N4[:, 2:].max(axis=0)
        return (
            f"{len(self.bounds_N4)} tiles from {low[0]:.6g}, {low[1]:.6g} to {high[0]:.6g}, {high[1]:.6g} ({self.unit})"
        )


def read_ground(data: DataConfig, directory: Path, names: list[str]) -> Ground:
    """The ground of the tiles ``names`` in ``directory``, as the reader of ``data`` reads it from their names.

    Raises:
        ConfigError: names of this data set tell no ground.
        DataError: a name that is not a tile name, a tile whose map is unknown.
    """
    ground = READERS[data.reader].ground
    if ground is None:
        raise ConfigError(f"names of images tell no place with data.reader={data.reader}; leave --places out")
    return imported(ground)(data, directory, [Path(name).name for name in names])
