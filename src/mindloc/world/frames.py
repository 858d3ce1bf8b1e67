"""The frames of a world (its drone images), and the tiles that each frame overlaps.

Poses, pairs and splits are drawn before anything is painted.

Shapes: F frames, T tiles of the gallery, E edges (a frame and a tile), C candidates.
"""

from dataclasses import dataclass

import numpy as np

from mindloc.errors import DataError
from mindloc.geo.footprints import iou_with_bounds, polygon_area
from mindloc.geo.tiles import OFFSET_UNITS, TileGrid
from mindloc.world.camera import Poses, draw_poses
from mindloc.world.spec import WorldSpec

DRONE_DIRECTORY, SATELLITE_DIRECTORY = "drone/images", "satellite"
POSITIVE_IOU = 0.39  # a pair with a higher IoU is positive, as in GTA-UAV's own scripts
SEMIPOSITIVE_IOU = 0.14
BLOCK_FRAMES = 8192  # frames that are processed together; limits the memory of the candidates
ROUNDS = 40  # number of poses that are tried for a frame; the last one is kept even if it is unsuitable
_STREAM_FRAMES, _STREAM_POSES = 1, 2  # numbers of random streams, different for each purpose; images.py has the others


@dataclass(frozen=True)
class Gallery:
    """The tiles of a world."""

    grid: TileGrid
    tile_T4: np.ndarray  # (zoom, offset, x, y), sorted
    bounds_T4: np.ndarray  # (left, top, right, bottom), meters
    lattices: dict  # (zoom, offset) -> table (side, side): [x, y] is the tile's row in tile_T4, -1 if it was left out


def build_gallery(spec: WorldSpec) -> Gallery:
    """All tiles of the spec's zooms and offsets; with ``spec.tiles``, only that many, nearest to the map's middle."""
    grid = TileGrid(spec.map_px, spec.m_per_px)
    tile_T4 = np.concatenate(
        [grid.tiles(zoom, offset) for zoom in sorted(set(spec.zooms)) for offset in sorted(set(spec.offsets))]
    )
    if spec.tiles is not None and spec.tiles < len(tile_T4):
        away_T = np.abs(grid.center_of(tile_T4) - spec.map_m / 2).max(axis=1)
        tile_T4 = tile_T4[np.argsort(away_T.round(6), kind="stable")[: spec.tiles]]
    tile_T4 = tile_T4[np.lexsort(tile_T4.T[::-1])]
    lattices = {}
    for zoom, offset in np.unique(tile_T4[:, :2], axis=0).tolist():
        rows = np.flatnonzero((tile_T4[:, 0] == zoom) & (tile_T4[:, 1] == offset))
        table = np.full((2**zoom, 2**zoom), -1, np.int32)
        table[tile_T4[rows, 2], tile_T4[rows, 3]] = rows
        lattices[zoom, offset] = table
    return Gallery(grid, tile_T4, grid.bounds_of(tile_T4), lattices)


@dataclass
class Overlaps:
    """Semi-positive edges, sorted by frame and then by falling IoU: start[f] to start[f + 1] are those of frame f."""

    start: np.ndarray  # (F + 1,) int64
    tile_E: np.ndarray  # int32
    iou_E: np.ndarray  # float64

    def best(self) -> np.ndarray:
        """Highest IoU of each frame, 0 if it has no edge, shape (F,)."""
        best_F = np.zeros(len(self.start) - 1)
        owner = np.flatnonzero(np.diff(self.start))
        best_F[owner] = self.iou_E[self.start[owner]]
        return best_F


def find_overlaps(footprint_F42, gallery: Gallery, least_iou: float = SEMIPOSITIVE_IOU) -> Overlaps:
    """All pairs (frame, tile) whose IoU is above ``least_iou``."""
    frames, tiles, ious = [], [], []
    for first in range(0, len(footprint_F42), BLOCK_FRAMES):
        block_F42 = footprint_F42[first : first + BLOCK_FRAMES]
        for (zoom, offset), table in gallery.lattices.items():
            frame_C, tile_C = _candidates(block_F42, gallery, zoom, offset, table, least_iou)
            iou_C = iou_with_bounds(block_F42[frame_C], gallery.bounds_T4[tile_C])
            keep = iou_C > least_iou
            frames.append(frame_C[keep] + first)
            tiles.append(tile_C[keep])
            ious.append(iou_C[keep])
    frame_E, tile_E, iou_E = np.concatenate(frames), np.concatenate(tiles), np.concatenate(ious)
    order = np.lexsort((tile_E, -iou_E, frame_E))
    start = np.concatenate([[0], np.cumsum(np.bincount(frame_E, minlength=len(footprint_F42)))])
    return Overlaps(start.astype(np.int64), tile_E[order].astype(np.int32), iou_E[order])


def _candidates(footprint_F42, gallery: Gallery, zoom: int, offset: int, table, least_iou: float):
    """Pairs (frame, tile) of one lattice whose IoU may exceed ``least_iou``: an upper bound of the IoU, computed from
    bounding boxes and areas, exceeds it.
    """
    side = float(gallery.grid.side_m(zoom))
    area_F = polygon_area(footprint_F42)
    frame_F = np.flatnonzero(np.minimum(area_F, side**2) > least_iou * np.maximum(area_F, side**2))
    low_F2, high_F2 = footprint_F42[frame_F].min(axis=1), footprint_F42[frame_F].max(axis=1)
    shift = offset / OFFSET_UNITS
    first_F2 = np.clip(np.floor(low_F2 / side - shift), 0, 2**zoom).astype(np.int64)
    last_F2 = np.clip(np.floor(high_F2 / side - shift), -1, 2**zoom - 1).astype(np.int64)
    span_F2 = np.maximum(last_F2 - first_F2 + 1, 0)
    count_F = span_F2.prod(axis=1)
    owner_C = np.repeat(np.arange(len(frame_F)), count_F)
    within_C = np.arange(len(owner_C)) - np.repeat(np.cumsum(count_F) - count_F, count_F)
    x_C = first_F2[owner_C, 0] + within_C % span_F2[owner_C, 0]
    y_C = first_F2[owner_C, 1] + within_C // span_F2[owner_C, 0]
    tile_C = table[x_C, y_C]
    left_top_C2 = (np.stack([x_C, y_C], axis=1) + shift) * side
    shared_C2 = np.minimum(high_F2[owner_C], left_top_C2 + side) - np.maximum(low_F2[owner_C], left_top_C2)
    bound_C = np.minimum(np.maximum(shared_C2, 0).prod(axis=1), area_F[frame_F][owner_C])
    keep = (tile_C >= 0) & (bound_C > least_iou * (area_F[frame_F][owner_C] + side**2 - bound_C))
    return frame_F[owner_C[keep]], tile_C[keep]


@dataclass
class Frames:
    """All frames of a world. There are two ways to split them, "same area" and "cross area"; each frame is a train or a
    test frame in both.
    """

    poses: Poses
    footprint_F42: np.ndarray
    overlaps: Overlaps
    names: list[str]
    same_test_F: np.ndarray  # bool; test frames of the same-area split, drawn at random
    cross_test_F: np.ndarray  # bool; test frames of the cross-area split: those east of ``border_m``
    straddles_F: np.ndarray  # bool; has a tile that crosses the border, so it is in no cross-area list
    border_m: float


def draw_frames(spec: WorldSpec, gallery: Gallery) -> Frames:
    """Draw the pose of every frame; draw it again if the frame has no positive, or has a tile that crosses the border
    between train and test.

    Raises:
        DataError: the footprints do not fit into the map, or a split has no frames.
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
    """The x (meters) where the test region starts: a tile edge of the lowest zoom that leaves room on both sides."""
    if spec.test_share in (0, 1):
        return spec.map_m * (1 - spec.test_share)
    for zoom in sorted(spec.zooms):
        column = round((1 - spec.test_share) * 2**zoom)
        if 0 < column < 2**zoom:
            return column * spec.map_m / 2**zoom
    return spec.map_m * (1 - spec.test_share)


def _unsuitable(spec: WorldSpec, gallery: Gallery, poses: Poses, border_m: float, any_will_do_F, index) -> np.ndarray:
    """The frames among ``index`` that need a positive and have none, or have a tile that crosses the border."""
    part = Poses(**{name: column[index] for name, column in vars(poses).items()})
    overlaps = find_overlaps(part.footprints(spec), gallery)
    lacks = (overlaps.best() <= POSITIVE_IOU) & ~any_will_do_F[index]
    return index[lacks | _straddles(gallery, overlaps, border_m)]


def _straddles(gallery: Gallery, overlaps: Overlaps, border_m: float) -> np.ndarray:
    """(F,) bool: the frame overlaps a tile that crosses the border."""
    slack = 1e-6
    bounds_E4 = gallery.bounds_T4[overlaps.tile_E]
    across_E = (bounds_E4[:, 0] < border_m - slack) & (bounds_E4[:, 2] > border_m + slack)
    frame_E = np.repeat(np.arange(len(overlaps.start) - 1), np.diff(overlaps.start))
    return np.bincount(frame_E, weights=across_E, minlength=len(overlaps.start) - 1) > 0


def _names(spec: WorldSpec, poses: Poses) -> list[str]:
    """File names {level}_{flight}_{frame}; frames are numbered through the whole world, not per flight."""
    level_m = [round(level) for level in spec.levels_m]
    pairs = zip(poses.level_F.tolist(), poses.flight_F.tolist(), strict=True)
    return [
        f"{level_m[level]}_{flight + 1:04}_{frame:010}.{spec.drone_format}"
        for frame, (level, flight) in enumerate(pairs, start=1)
    ]


def tile_files(spec: WorldSpec, gallery: Gallery) -> list[str]:
    """File name {zoom}_{offset}_{x}_{y} of every tile of the gallery."""
    return [f"{zoom}_{offset}_{x}_{y}.{spec.tile_format}" for zoom, offset, x, y in gallery.tile_T4.tolist()]
