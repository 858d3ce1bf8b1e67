"""The frames of a world: poses, pairs and splits, decided before anything is painted. F = frames."""

from dataclasses import dataclass

import numpy as np

from mindloc.errors import DataError
from mindloc.world.camera import Poses, draw_poses
from mindloc.world.pairs import POSITIVE_IOU, Gallery, Overlaps, find_overlaps
from mindloc.world.spec import WorldSpec

ROUNDS = 40  # how often a frame is posed anew before it is taken as it is

_STREAM_FRAMES, _STREAM_POSES = 1, 2


@dataclass
class Frames:
    """All frames of a world; a frame is a train or a test frame in each of two splits."""

    poses: Poses
    footprint_F42: np.ndarray
    overlaps: Overlaps
    names: list[str]
    same_test_F: np.ndarray  # bool; train and test frames of one area, by lot
    cross_test_F: np.ndarray  # bool; west of ``border_m`` is train, east is test
    straddles_F: np.ndarray  # bool; has a tile on both sides of the border, so it is in no cross-area list
    border_m: float


def draw_frames(spec: WorldSpec, gallery: Gallery) -> Frames:
    """Pose every frame, anew where it has no positive or its tiles cross the border between train and test.

    Raises:
        DataError: the spec leaves no room for the footprints, or a split without frames.
    """
    rng = np.random.default_rng([spec.seed, _STREAM_FRAMES])
    count, border_m = spec.drones, _border_m(spec)
    test_count = round(spec.test_share * count)
    same_test_F = rng.permutation(count) < test_count
    cross_test_F = rng.permutation(count) < test_count
    flight_F = rng.integers(0, spec.flights, count)
    level_F = rng.integers(0, len(spec.levels_m), count)
    any_will_do_F = rng.random(count) >= spec.positive_share
    region_F4 = np.where(cross_test_F[:, None], [border_m, 0, spec.map_m, spec.map_m], [0, 0, border_m, spec.map_m])

    poses = draw_poses(spec, np.random.default_rng([spec.seed, _STREAM_POSES, 0]), level_F, flight_F, region_F4)
    again = _unsuitable(spec, gallery, poses, border_m, any_will_do_F, np.arange(count))
    for turn in range(1, ROUNDS):
        if not len(again):
            break
        turn_rng = np.random.default_rng([spec.seed, _STREAM_POSES, turn])
        poses.put(again, draw_poses(spec, turn_rng, level_F[again], flight_F[again], region_F4[again]))
        again = _unsuitable(spec, gallery, poses, border_m, any_will_do_F, again)

    footprint_F42 = poses.footprints(spec)
    overlaps = find_overlaps(footprint_F42, gallery)
    straddles_F = _straddles(gallery, overlaps, border_m)
    for side, chosen_F in (("train", ~cross_test_F), ("test", cross_test_F)):
        if chosen_F.any() and not (chosen_F & ~straddles_F).any():
            raise DataError(
                f"no {side} frame has all its tiles on its own side of the map; add finer zooms, lower "
                "heights_m, or set test_share to 0 or 1"
            )
    return Frames(poses, footprint_F42, overlaps, _names(spec, poses), same_test_F, cross_test_F, straddles_F, border_m)


def _border_m(spec: WorldSpec) -> float:
    """Where the test region begins: an edge of the coarsest tiles if they leave both sides room, else of finer ones."""
    if spec.test_share in (0, 1):
        return spec.map_m * (1 - spec.test_share)
    for zoom in sorted(spec.zooms):
        column = round((1 - spec.test_share) * 2**zoom)
        if 0 < column < 2**zoom:
            return column * spec.map_m / 2**zoom
    return spec.map_m * (1 - spec.test_share)


def _unsuitable(spec: WorldSpec, gallery: Gallery, poses: Poses, border_m: float, any_will_do_F, index) -> np.ndarray:
    """Which of the frames ``index`` lack a positive or have a tile across the border."""
    part = Poses(**{name: column[index] for name, column in vars(poses).items()})
    overlaps = find_overlaps(part.footprints(spec), gallery)
    lacks = (overlaps.best() <= POSITIVE_IOU) & ~any_will_do_F[index]
    return index[lacks | _straddles(gallery, overlaps, border_m)]


def _straddles(gallery: Gallery, overlaps: Overlaps, border_m: float) -> np.ndarray:
    """Frames with an edge to a tile that lies on both sides of the border, shape (F,)."""
    slack = 1e-6
    bounds_E4 = gallery.bounds_T4[overlaps.tile_E]
    across_E = (bounds_E4[:, 0] < border_m - slack) & (bounds_E4[:, 2] > border_m + slack)
    frame_E = np.repeat(np.arange(len(overlaps.start) - 1), np.diff(overlaps.start))
    return np.bincount(frame_E, weights=across_E, minlength=len(overlaps.start) - 1) > 0


def _names(spec: WorldSpec, poses: Poses) -> list[str]:
    """File names {level}_{flight}_{frame}: the frame counts on through the whole world."""
    level_m = [round(level) for level in spec.levels_m]
    pairs = zip(poses.level_F.tolist(), poses.flight_F.tolist(), strict=True)
    return [
        f"{level_m[level]}_{flight + 1:04}_{frame:010}.{spec.drone_format}"
        for frame, (level, flight) in enumerate(pairs, start=1)
    ]
