"""The ground that a folder's tiles cover, read from their names; N tiles.

From a config to a split, its sampler and its batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mindloc.config.schema import Config
from mindloc.data import gta_uav, visloc
from mindloc.data.exclusion import OverlapGraph
from mindloc.data.hard_negatives import HardNegativeRule, NeighborTables
from mindloc.data.images import Normalization
from mindloc.data.loader import ImageBatches, view_files
from mindloc.data.sampler import SAMPLERS, Sampler
from mindloc.data.split import Split
from mindloc.geo.points import PlaceUnit
from mindloc.vocabulary import SideName


@dataclass(frozen=True)
class Ground:
    """Where N tiles lie, in ``unit``."""

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


def gta_uav_ground(names: list[str], map_px: int, m_per_px: float) -> Ground:
    """The ground of tiles that are named as GTA-UAV's, on a map of this side and scale; folders in names are ignored.

    Raises:
        DataError: a name that is no tile name.
    """
    return Ground(gta_uav.LAYOUT.place_unit, gta_uav.tile_bounds(_own(names), map_px, m_per_px))


def visloc_ground(folder: Path, names: list[str]) -> Ground:
    """The ground of tiles that are named as UAV-VisLoc's, by the corners of their maps beside ``folder``.

    Raises:
        DataError: a name that is no tile name, a map whose corners are nowhere.
    """
    return Ground(visloc.LAYOUT.place_unit, visloc.tile_bounds(folder.resolve().parent, _own(names)))


def _own(names: list[str]) -> list[str]:
    return [Path(name).name for name in names]


def build_split(config: Config, split: Literal["train", "test"], json_only: bool = False) -> Split:
    """The training or test split that ``config.data`` names.

    Raises:
        DataError: the first thing that is wrong with it.
    """
    data = config.data
    root, pairs, map_px, m_per_px = data.source(split)
    ratio = data.train_ratio if split == "train" else 1.0
    if data.reader == "visloc":
        return visloc.read_split(root, pairs, train_ratio=ratio, json_only=json_only)
    return gta_uav.read_split(root, pairs, map_px, m_per_px, train_ratio=ratio, json_only=json_only)


def build_hard_negative_rule(config: Config) -> HardNegativeRule | None:
    """When which neighbors count; None without hard negatives."""
    settings = config.sampling
    if settings.hard_negatives == "none":
        return None
    return HardNegativeRule(
        source=settings.hard_negatives,
        from_epoch=settings.hard_from_epoch,
        refresh_every=settings.refresh_every_epochs,
        per_pair=settings.companions,
        share=settings.hard_share,
    )


def build_sampler(config: Config, split: Split, neighbors: NeighborTables | None = None) -> Sampler:
    """The sampler of ``config.sampling`` over the pairs of the training mode.

    Overlaps are those of pos_semipos whatever the mode is, see data/sampler.py.

    Args:
        neighbors: tables that hard negatives are drawn by; None: none are.

    Raises:
        DataError: no pair in the training mode.
    """
    pair_P2 = split.edges(config.data.train_mode).pairs()
    graph = OverlapGraph(split.semipositive, len(split.reference))
    return SAMPLERS[config.sampling.mode](pair_P2, graph, config.train.batch_size, config.train.seed, neighbors)


def build_images(config: Config, side: SideName, paths: Sequence[Path], batch_size: int) -> ImageBatches:
    """Images of one side in the given order, brought to the encoder as in training but for the random changes."""
    normalization = Normalization(config.model.mean, config.model.std)
    return ImageBatches(view_files(config.view(side), paths), normalization, batch_size, config.data.workers)
