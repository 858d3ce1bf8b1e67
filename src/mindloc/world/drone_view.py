"""Photograph a painted map from a posed camera: a perspective picture in which roofs and crowns stand above the ground.

Each pixel's ray is followed downwards from the height of the tallest thing in view until it meets the map's surface.
Where it meets the side of a house, a wall is drawn.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from mindloc.world.materials import ROOFS, is_one_of

_STEP_PX = 1.6  # how far a ray may move over the map between two looks, in pixels of the picture
_IS_ROOF = is_one_of(ROOFS)
_WALL_BGR = np.float32([172, 186, 192])


@dataclass
class Level:
    """The map at one scale: picture (BGR uint8), height in meters (float32), material numbers, meters per pixel."""

    picture: np.ndarray
    height_m: np.ndarray
    material: np.ndarray
    m_per_px: float


def build_levels(picture, layers, coarsest_m_per_px: float) -> list[Level]:
    """The map halved again and again until a pixel is about ``coarsest_m_per_px``."""
    height_m = layers.height_cm.astype(np.float32) * np.float32(0.01)
    height_m = cv2.GaussianBlur(height_m, (0, 0), 0.7)  # pixel steps along turned eaves would make saw-toothed walls
    levels = [Level(picture, height_m, layers.material, layers.m_per_px)]
    while levels[-1].m_per_px * 2 <= coarsest_m_per_px and min(levels[-1].material.shape) > 64:
        last = levels[-1]
        half = (last.material.shape[1] // 2, last.material.shape[0] // 2)
        if (half[0] * 2, half[1] * 2) != last.material.shape[::-1]:
            break  # an odd side can't be halved without moving the map
        levels.append(
            Level(
                cv2.resize(last.picture, half, interpolation=cv2.INTER_AREA),
                cv2.resize(last.height_m, half, interpolation=cv2.INTER_AREA),
                np.ascontiguousarray(last.material[::2, ::2]),
                last.m_per_px * 2,
            )
        )
    return levels


def rays(axes_33, size_px: tuple[int, int], half_width_tan: float) -> np.ndarray:
    """Ground meters that each pixel's ray moves per meter of descent, shape (rows, columns, 2) float32."""
    rows, columns = size_px
    x = ((np.arange(columns) + 0.5) / columns * 2 - 1) * half_width_tan
    y = ((np.arange(rows) + 0.5) / rows * 2 - 1) * half_width_tan * rows / columns
    right, down, forward = np.asarray(axes_33, np.float64)
    ray = x[None, :, None] * right + y[:, None, None] * down + forward
    return (ray[..., :2] / -ray[..., 2:]).astype(np.float32)


def project(point_N3, place_2, height_m: float, axes_33, size_px: tuple[int, int], half_width_tan: float) -> np.ndarray:
    """Where points (x, y, meters above ground) appear in the picture: (column, row) in pixels, shape (N, 2).

    The top left corner of the picture is (0, 0); pixel centers lie at halves.
    """
    rows, columns = size_px
    away_N3 = np.asarray(point_N3, np.float64) - [place_2[0], place_2[1], height_m]
    right, down, depth = (
        away_N3 @ np.asarray(axes_33).T[:, 0],
        away_N3 @ np.asarray(axes_33).T[:, 1],
        away_N3 @ np.asarray(axes_33).T[:, 2],
    )
    focal_px = columns / 2 / half_width_tan
    return np.stack([columns / 2 + focal_px * right / depth, rows / 2 + focal_px * down / depth], axis=1)


def photograph(
    levels: list[Level], sun_3, place_2, height_m: float, axes_33, size_px: tuple[int, int], half_width_tan: float
) -> np.ndarray:
    """The picture, (rows, columns, 3) uint8 BGR.

    Args:
        levels: from ``build_levels``.
        sun_3: unit vector toward the sun (east, south, up), lights the walls.
        place_2: camera (x, y), meters.
        height_m: above ground.
        axes_33: from ``geo.footprint.camera_axes``.
        size_px: rows, columns.
        half_width_tan: tangent of half the horizontal field of view.
    """
    slope = rays(axes_33, size_px, half_width_tan)
    ground_m_per_px = 2 * height_m * half_width_tan / size_px[1]
    level = max(
        (one for one in levels if one.m_per_px <= ground_m_per_px * 1.15),
        key=lambda one: one.m_per_px,
        default=levels[0],
    )
    surface = _Surface(level, place_2, height_m, slope)
    hit_z = surface.descend(ground_m_per_px)
    x, y = surface.at(hit_z)
    picture = cv2.remap(level.picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    return np.clip(_with_sides(picture, surface, sun_3, hit_z, x, y), 0, 255).astype(np.uint8)


class _Surface:
    """The part of a level that one camera sees."""

    def __init__(self, level: Level, place_2, height_m: float, slope):
        self.level, self.height_m = level, height_m
        self.slope_x, self.slope_y = (
            slope[..., 0] / np.float32(level.m_per_px),
            slope[..., 1] / np.float32(level.m_per_px),
        )
        self.x0, self.y0 = place_2[0] / level.m_per_px - 0.5, place_2[1] / level.m_per_px - 0.5
        self.steepest = float(np.hypot(slope[..., 0], slope[..., 1]).max())

    def at(self, z):
        """Map pixels that the rays pass at height ``z``, a number or one per pixel."""
        fall = np.float32(self.height_m) - z
        return np.float32(self.x0) + fall * self.slope_x, np.float32(self.y0) + fall * self.slope_y

    def _land(self, x, y):
        return cv2.remap(self.level.height_m, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def _tallest(self) -> float:
        x, y = self.at(np.float32(0))
        rows, columns = self.level.height_m.shape
        left, right = np.clip([x.min() - 2, x.max() + 3], 0, columns).astype(int)
        top, bottom = np.clip([y.min() - 2, y.max() + 3], 0, rows).astype(int)
        part = self.level.height_m[top:bottom, left:right]
        return float(part.max()) if part.size else 0.0

    def descend(self, ground_m_per_px: float):
        """Heights at which the rays meet the land, shape (rows, columns)."""
        tallest = self._tallest()
        steps = int(np.clip(np.ceil(tallest * self.steepest / (_STEP_PX * ground_m_per_px)), 2, 24)) if tallest else 0
        shape = self.slope_x.shape
        hit_z = np.zeros(shape, np.float32)
        found = np.zeros(shape, bool)
        top = tallest + 0.01  # the first look is above everything
        step, gap_before = np.float32(top / max(steps, 1)), np.full(shape, -top, np.float32)
        for z in np.linspace(top, 0, steps + 1, dtype=np.float32)[:-1]:
            gap = self._land(*self.at(z)) - z
            meets = (gap >= 0) & ~found
            if meets.any():
                share = gap[meets] / np.maximum((gap - gap_before)[meets], 1e-6)  # straight line between the two looks
                hit_z[meets] = z + step * np.clip(share, 0, 1)
                found |= meets
            gap_before = gap
        return hit_z


def _with_sides(picture, surface: _Surface, sun_3, hit_z, x, y) -> np.ndarray:
    """Draw walls where a ray met a house well below its roof."""
    inside_z = np.maximum(hit_z - 0.6, 0)
    inside_x, inside_y = surface.at(inside_z)
    above = surface._land(inside_x, inside_y)
    level = surface.level
    column = np.clip(np.round(inside_x), 0, level.material.shape[1] - 1).astype(np.int32)
    row = np.clip(np.round(inside_y), 0, level.material.shape[0] - 1).astype(np.int32)
    sunk = above - hit_z  # how far below the top of the thing the ray went in
    aside = (sunk > 0.9) & (hit_z > 0)
    wall = aside & _IS_ROOF[level.material[row, column]]
    crown = aside & ~wall
    picture *= np.where(crown, np.maximum(1 - 0.16 * sunk, 0.45), 1)[..., None]  # crowns are darker toward their feet
    if not wall.any():
        return picture
    step = np.float32(1.5)
    east = surface._land(x + step, y) - surface._land(x - step, y)
    south = surface._land(x, y + step) - surface._land(x, y - step)
    length = np.maximum(np.hypot(east, south), 1e-3)
    facing = -(east * sun_3[0] + south * sun_3[1]) / length
    light = (
        np.where(facing > 0, 0.62 + 0.5 * facing, 0.5)[..., None] * (0.8 + 0.2 * np.minimum(hit_z / 4, 1))[..., None]
    )
    return np.where(wall[..., None], _WALL_BGR * light, picture)
