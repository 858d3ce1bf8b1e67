"""The ground that a folder's tiles cover, read from their names; N tiles."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindloc.data import gta_uav, visloc
from mindloc.geo.points import PlaceUnit


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
