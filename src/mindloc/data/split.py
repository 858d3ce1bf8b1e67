"""What a reader returns: file names, places and overlaps of one split, and no pixels.

Letters: D drone pictures, S satellite tiles, E edges (overlaps), P pairs, 2 the two coordinates of a place.

A share of a split's drone pictures.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from mindloc.errors import DataError
from mindloc.geo.points import PlaceUnit

PairMode = Literal["pos", "pos_semipos"]


@dataclass(frozen=True)
class Edges:
    """Overlaps of drone pictures with tiles, stored by drone picture (compressed sparse rows).

    The tiles of drone picture d are ``satellite[start[d]:start[d + 1]]``, with their IoU in ``weight``, in file order.
    """

    start: np.ndarray  # (D+1,) int64
    satellite: np.ndarray  # (E,) int32
    weight: np.ndarray  # (E,) float32, IoU of the ground footprints, 0..1

    def __len__(self) -> int:
        return len(self.satellite)

    @property
    def drone_count(self) -> int:
        return len(self.start) - 1

    def drone(self) -> np.ndarray:
        """(E,) int32: the drone picture of every edge."""
        return np.repeat(np.arange(self.drone_count, dtype=np.int32), np.diff(self.start))

    def satellites_of(self, drone: int) -> np.ndarray:
        return self.satellite[self.start[drone] : self.start[drone + 1]]

    def take(self, drone_N: np.ndarray) -> "Edges":
        """The edges of some drone pictures, renumbered in the order given."""
        count_N = np.diff(self.start)[drone_N]
        start = np.concatenate([[0], np.cumsum(count_N)])
        edge = np.repeat(self.start[drone_N] - start[:-1], count_N) + np.arange(start[-1])
        return Edges(start, self.satellite[edge], self.weight[edge])

    def by_satellite(self, satellite_count: int) -> "EdgesBySatellite":
        """The same edges stored by tile."""
        order = np.argsort(self.satellite, kind="stable")
        start = np.zeros(satellite_count + 1, np.int64)
        np.cumsum(np.bincount(self.satellite, minlength=satellite_count), out=start[1:])
        return EdgesBySatellite(start, self.drone()[order], self.weight[order])


@dataclass(frozen=True)
class EdgesBySatellite:
    """Overlaps stored by tile: the drone pictures of tile s are ``drone[start[s]:start[s + 1]]``, ascending."""

    start: np.ndarray  # (S+1,) int64
    drone: np.ndarray  # (E,) int32
    weight: np.ndarray  # (E,) float32

    def __len__(self) -> int:
        return len(self.drone)

    def drones_of(self, satellite: int) -> np.ndarray:
        return self.drone[self.start[satellite] : self.start[satellite + 1]]


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    Files are relative to ``root``, with forward slashes. ``satellite_files`` holds EVERY tile of the satellite folder,
    sorted, also those that no pair names: it is the gallery.
    """

    root: Path
    drone_files: list[str]
    satellite_files: list[str]
    drone_place: np.ndarray  # (D,2) float64
    satellite_place: np.ndarray  # (S,2) float64, tile centers
    place_unit: PlaceUnit  # plane_m: [x, y], y down, meters; lat_lon_deg: [latitude, longitude]
    positive: Edges  # IoU > 0.39
    semipositive: Edges  # IoU > 0.14, the positives included
    drone_metadata: list[dict]  # height, drone_yaw, cam_pitch, ... as the file has them; any may be missing or None

    def edges(self, mode: PairMode) -> Edges:
        """The overlaps that count as right in ``mode``: positives alone, or positives and semi-positives."""
        if mode == "pos":
            return self.positive
        if mode == "pos_semipos":
            return self.semipositive
        raise ValueError(f"pair mode is {mode!r}; expected pos or pos_semipos")

    def pair_list(self, mode: PairMode) -> tuple[np.ndarray, np.ndarray]:
        """Every pair of ``mode``: (P,2) int32 [drone, satellite] and (P,) float32 IoU, in file order."""
        edges = self.edges(mode)
        return np.stack([edges.drone(), edges.satellite], axis=1), edges.weight

    def take_drones(self, drone_N: np.ndarray) -> "Split":
        """The same split with some of its drone pictures, in the order given; the gallery stays whole."""
        return replace(
            self,
            drone_files=[self.drone_files[drone] for drone in drone_N],
            drone_place=self.drone_place[drone_N],
            positive=self.positive.take(drone_N),
            semipositive=self.semipositive.take(drone_N),
            drone_metadata=[self.drone_metadata[drone] for drone in drone_N],
        )

    def drone_paths(self) -> list[Path]:
        return [self.root / name for name in self.drone_files]

    def satellite_paths(self) -> list[Path]:
        return [self.root / name for name in self.satellite_files]


_ORDER_SEED = 20240925  # fixed: the share belongs to the data, not to a run's seed


def share_of_drones(split: Split, ratio: float) -> Split:
    """The split with ``ratio`` of its drone pictures, in file order, the same ones at every call.

    A smaller share is part of every larger one, so that runs with growing shares compare.

    Raises:
        DataError: the ratio is not above 0 and at most 1, or no pair is left.
    """
    if not 0 < ratio <= 1:
        raise DataError(f"data.train_ratio is {ratio}; expected a share above 0, at most 1")
    if ratio == 1:
        return split
    total = len(split.drone_files)
    kept = np.random.default_rng(_ORDER_SEED).permutation(total)[: max(1, round(ratio * total))]
    part = split.take_drones(np.sort(kept))
    if not len(part.semipositive):
        raise DataError(
            f"data.train_ratio={ratio} leaves {len(kept)} of {total} drone pictures and no pair; set a larger share"
        )
    return part
