"""The simulated cameras: random poses of the drone, photographs of a painted map, and the look of each flight's camera.

``draw_poses``: where each frame is taken from, and its footprint on the ground.

``photograph``: a perspective image of the map in which roofs and tree crowns are above the ground. Each pixel's ray is
followed downwards from the height of the tallest object in view until it meets the map's surface. If it meets the side
of a house, a wall is drawn.

``apply_look``: the effects of light, air and camera, such as color cast, contrast, haze, blur, vignette and noise.

Shapes: F frames, N points.
"""

from dataclasses import dataclass, fields

import cv2
import numpy as np

from mindloc.errors import DataError
from mindloc.geo.footprints import camera_axes, footprints_m
from mindloc.world.materials import ROOFS, is_one_of
from mindloc.world.spec import WorldSpec


@dataclass
class Poses:
    """Cameras of F frames; angles are in degrees as in GTA-UAV's metadata, see geo/points.py.

    cam_* is the camera's attitude in the world. drone_* is the airframe's attitude, for which the gimbal compensates.
    """

    level_F: np.ndarray  # index into the flight levels
    flight_F: np.ndarray  # number of the flight, from 0; each flight has its own season, light and camera
    height_F: np.ndarray  # meters above ground
    place_F2: np.ndarray  # (x, y), meters
    cam_roll_F: np.ndarray
    cam_pitch_F: np.ndarray
    cam_yaw_F: np.ndarray
    drone_roll_F: np.ndarray
    drone_pitch_F: np.ndarray
    drone_yaw_F: np.ndarray

    def __len__(self) -> int:
        return len(self.height_F)

    def axes(self) -> np.ndarray:
        """Camera axes, shape (F, 3, 3)."""
        return camera_axes(self.cam_yaw_F, self.cam_pitch_F, self.cam_roll_F)

    def footprints(self, spec: WorldSpec) -> np.ndarray:
        """Ground corners, shape (F, 4, 2), meters."""
        return footprints_m(self.place_F2, self.height_F, self.axes(), spec.aspect, spec.half_width_tan)

    def put(self, index, others: "Poses") -> None:
        """Overwrite the frames ``index`` with the frames of ``others``."""
        for column in fields(self):
            getattr(self, column.name)[index] = getattr(others, column.name)


def draw_poses(spec: WorldSpec, rng: np.random.Generator, level_F, flight_F, region_F4) -> Poses:
    """Random poses, with each frame's whole footprint inside the frame's region.

    Args:
        level_F, flight_F: not drawn here, since a frame keeps them when its pose is drawn again.
        region_F4: (left, top, right, bottom) in meters.

    Raises:
        DataError: a footprint is larger than its region even if the camera looks straight down with north up.
    """
    count = len(level_F)
    jitter_F = rng.uniform(1 - spec.height_jitter, 1 + spec.height_jitter, count)
    oblique_F = rng.random(count) < spec.oblique_share
    tilt_F = np.where(oblique_F, rng.uniform(*spec.oblique_tilt_deg, count), 0.0)
    wobble_2F = np.clip(rng.normal(0, 1, (2, count)), -3, 3) * spec.attitude_deg
    yaw_F = rng.uniform(-180, 180, count)
    body_3F = rng.normal(0, 1, (3, count)) * np.array([[4.0], [4.0], [1.0]])
    poses = Poses(
        level_F=level_F,
        flight_F=flight_F,
        height_F=np.asarray(spec.levels_m)[level_F] * jitter_F,
        place_F2=np.zeros((count, 2)),
        cam_roll_F=wobble_2F[0],
        cam_pitch_F=-90 + tilt_F + wobble_2F[1],
        cam_yaw_F=yaw_F,
        drone_roll_F=body_3F[0],
        drone_pitch_F=body_3F[1],
        drone_yaw_F=(yaw_F + body_3F[2] + 180) % 360 - 180,
    )
    # if a footprint is larger than its region, the camera looks straight down; if it still is, also with north up
    outside_F = _too_large(poses.footprints(spec), region_F4)
    poses.cam_roll_F[outside_F], poses.cam_pitch_F[outside_F] = 0, -90
    outside_F = outside_F & _too_large(poses.footprints(spec), region_F4)
    poses.cam_yaw_F[outside_F] = poses.drone_yaw_F[outside_F] = 0
    poses.place_F2 = _places(poses.footprints(spec), region_F4, rng.random((count, 2)))
    return poses


def _too_large(footprint_F42, region_F4) -> np.ndarray:
    """(F,) bool: True if the footprint does not fit into its region."""
    region_F2 = region_F4[:, 2:] - region_F4[:, :2]
    return (np.ptp(footprint_F42, axis=1) > region_F2).any(axis=1)


def _places(footprint_F42, region_F4, share_F2) -> np.ndarray:
    """Camera places that put footprints (given around a camera at 0, 0) inside their regions."""
    low_F2 = region_F4[:, :2] - footprint_F42.min(axis=1)
    high_F2 = region_F4[:, 2:] - footprint_F42.max(axis=1)
    if (high_F2 < low_F2).any():
        worst = int((high_F2 - low_F2).min(axis=1).argmin())
        width, depth = np.ptp(footprint_F42[worst], axis=0)
        left, top, right, bottom = region_F4[worst]
        raise DataError(
            f"a drone image covers {width:.0f} x {depth:.0f} m, but its part of the map is only "
            f"{right - left:.0f} x {bottom - top:.0f} m; lower heights_m or the tilt, or enlarge the map"
        )
    return low_F2 + share_F2 * (high_F2 - low_F2)


@dataclass(frozen=True)
class Look:
    """Light and camera of one flight; every frame deviates from it a little.

    Args:
        gain_3: factors of blue, green and red.
        gamma: exponent of the brightness 0..1; below 1 is brighter.
        saturation: 0 is gray, 1 as painted.
        contrast: factor of the distance from middle gray.
        haze: fraction of a pale color that is mixed in.
        blur_px: standard deviation of a Gaussian blur.
        sharpen: strength of the camera's sharpening.
        noise: standard deviation in gray levels.
        vignette: fraction of the light that is lost in the corners.
    """

    gain_3: tuple[float, float, float]
    gamma: float
    saturation: float
    contrast: float
    haze: float
    blur_px: float
    sharpen: float
    noise: float
    vignette: float


def draw_look(rng: np.random.Generator) -> Look:
    """Draw the light and camera of one flight."""
    warmth, tint = rng.normal(0, 0.07), rng.normal(0, 0.03)
    brightness = rng.uniform(0.92, 1.22)
    return Look(
        gain_3=(brightness * (1 - warmth), brightness * (1 + tint), brightness * (1 + warmth)),
        gamma=rng.uniform(0.8, 1.12),
        saturation=rng.uniform(0.75, 1.25),
        contrast=rng.uniform(0.85, 1.15),
        haze=rng.uniform(0, 0.15),
        blur_px=rng.uniform(0.3, 0.9),
        sharpen=rng.uniform(0, 0.5),
        noise=rng.uniform(1.0, 4.0),
        vignette=rng.uniform(0, 0.22),
    )


def satellite_look(rng: np.random.Generator) -> Look:
    """Draw the look of the satellite images: cool, with high contrast and little haze, the same for the whole map."""
    return Look(
        (1.1, 1.04, 1.03),
        rng.uniform(0.9, 1.0),
        rng.uniform(0.62, 0.78),
        rng.uniform(0.98, 1.08),
        0.05,
        0.0,
        0.3,
        0.0,
        0.0,
    )


def apply_look(image, look: Look, rng: np.random.Generator, stray: float = 1.0) -> np.ndarray:
    """The image after the effects of ``look``, uint8 BGR.

    Args:
        image: uint8 BGR.
        stray: how much this frame may deviate from its flight's look; 0 means not at all.
    """
    brightness = 1 + stray * np.clip(rng.normal(0, 0.06), -0.15, 0.15)
    gain = np.float32(look.gain_3) * np.float32(brightness * (1 + stray * rng.normal(0, 0.012, 3)))
    table = np.linspace(0, 1, 256, dtype=np.float32)[:, None] * gain
    table = np.clip(table, 0, None) ** np.float32(look.gamma)
    table = (table - 0.45) * np.float32(look.contrast) + 0.45
    haze = look.haze * (1 + 0.3 * stray * rng.uniform(-1, 1))
    table = table * (1 - haze) + haze * np.float32([0.86, 0.83, 0.80])
    lut = np.clip(table * 255, 0, 255).astype(np.uint8).reshape(256, 1, 3)
    image = cv2.LUT(image, lut)
    image = image.astype(np.float32)
    gray = image @ np.float32([0.114, 0.587, 0.299])
    image = gray[..., None] + np.float32(look.saturation) * (image - gray[..., None])
    if look.blur_px > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), look.blur_px)
    if look.sharpen > 0:
        image += np.float32(look.sharpen) * (image - cv2.GaussianBlur(image, (0, 0), 1.2))
    if look.vignette > 0:
        image *= _vignette(image.shape[:2], look.vignette)[..., None]
    if look.noise > 0:
        image += np.float32(look.noise) * rng.standard_normal(image.shape, np.float32)
    return np.clip(image, 0, 255).astype(np.uint8)


def _vignette(shape, strength: float) -> np.ndarray:
    y = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
    return 1 - np.float32(strength) * (x**2 + y**2) / 2


_STEP_PX = 1.6  # largest horizontal distance between two samples of a ray, in image pixels on the ground
_IS_ROOF = is_one_of(ROOFS)
_WALL_BGR = np.float32([172, 186, 192])


@dataclass
class Level:
    """The map at one scale: image (BGR uint8), height in meters (float32), material numbers, meters per pixel."""

    image: np.ndarray
    height_m: np.ndarray
    material: np.ndarray
    m_per_px: float


def build_levels(image, layers, coarsest_m_per_px: float) -> list[Level]:
    """The map at full size and halved repeatedly, while a pixel is at most ``coarsest_m_per_px`` meters."""
    height_m = layers.height_cm.astype(np.float32) * np.float32(0.01)
    height_m = cv2.GaussianBlur(height_m, (0, 0), 0.7)  # pixel steps along turned eaves would make saw-toothed walls
    levels = [Level(image, height_m, layers.material, layers.m_per_px)]
    while levels[-1].m_per_px * 2 <= coarsest_m_per_px and min(levels[-1].material.shape) > 64:
        last = levels[-1]
        half = (last.material.shape[1] // 2, last.material.shape[0] // 2)
        if (half[0] * 2, half[1] * 2) != last.material.shape[::-1]:
            break  # halving an odd side would shift the map
        levels.append(
            Level(
                cv2.resize(last.image, half, interpolation=cv2.INTER_AREA),
                cv2.resize(last.height_m, half, interpolation=cv2.INTER_AREA),
                np.ascontiguousarray(last.material[::2, ::2]),
                last.m_per_px * 2,
            )
        )
    return levels


def rays(axes_33, size_px: tuple[int, int], half_width_tan: float) -> np.ndarray:
    """Horizontal meters that each pixel's ray moves per meter of descent, shape (rows, columns, 2) float32."""
    rows, columns = size_px
    x = ((np.arange(columns) + 0.5) / columns * 2 - 1) * half_width_tan
    y = ((np.arange(rows) + 0.5) / rows * 2 - 1) * half_width_tan * rows / columns
    right, down, forward = np.asarray(axes_33, np.float64)
    ray = x[None, :, None] * right + y[:, None, None] * down + forward
    return (ray[..., :2] / -ray[..., 2:]).astype(np.float32)


def project(point_N3, place_2, height_m: float, axes_33, size_px: tuple[int, int], half_width_tan: float) -> np.ndarray:
    """Image positions (column, row) in pixels of points (x, y, height above ground) in meters, shape (N, 2).

    The top left corner of the image is (0, 0), so the center of the first pixel is (0.5, 0.5).
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
    """The image that the camera takes, (rows, columns, 3) uint8 BGR.

    Args:
        levels: from ``build_levels``.
        sun_3: unit vector toward the sun (east, south, up); it lights the walls.
        place_2: (x, y) of the camera, meters.
        height_m: height of the camera above ground.
        axes_33: from ``geo.footprints.camera_axes``.
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
    image = cv2.remap(level.image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    return np.clip(_with_sides(image, surface, sun_3, hit_z, x, y), 0, 255).astype(np.uint8)


class _Surface:
    """The surface of the map at one level, as sampled by the rays of one camera."""

    def __init__(self, level: Level, place_2, height_m: float, slope):
        self.level, self.height_m = level, height_m
        self.slope_x, self.slope_y = (
            slope[..., 0] / np.float32(level.m_per_px),
            slope[..., 1] / np.float32(level.m_per_px),
        )
        self.x0, self.y0 = place_2[0] / level.m_per_px - 0.5, place_2[1] / level.m_per_px - 0.5
        self.steepest = float(np.hypot(slope[..., 0], slope[..., 1]).max())

    def at(self, z):
        """Map pixels (x, y) above which the rays are at height ``z``, which is one number or one per ray."""
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
        """Heights at which the rays meet the surface, shape (rows, columns)."""
        tallest = self._tallest()
        steps = int(np.clip(np.ceil(tallest * self.steepest / (_STEP_PX * ground_m_per_px)), 2, 24)) if tallest else 0
        shape = self.slope_x.shape
        hit_z = np.zeros(shape, np.float32)
        found = np.zeros(shape, bool)
        top = tallest + 0.01  # the first sample is above everything
        step, gap_before = np.float32(top / max(steps, 1)), np.full(shape, -top, np.float32)
        for z in np.linspace(top, 0, steps + 1, dtype=np.float32)[:-1]:
            gap = self._land(*self.at(z)) - z
            meets = (gap >= 0) & ~found
            if meets.any():
                share = gap[meets] / np.maximum((gap - gap_before)[meets], 1e-6)  # linear between the two samples
                hit_z[meets] = z + step * np.clip(share, 0, 1)
                found |= meets
            gap_before = gap
        return hit_z


def _with_sides(image, surface: _Surface, sun_3, hit_z, x, y) -> np.ndarray:
    """The image with walls where a ray met a house well below its roof, and darker sides of tree crowns."""
    inside_z = np.maximum(hit_z - 0.6, 0)
    inside_x, inside_y = surface.at(inside_z)
    above = surface._land(inside_x, inside_y)
    level = surface.level
    column = np.clip(np.round(inside_x), 0, level.material.shape[1] - 1).astype(np.int32)
    row = np.clip(np.round(inside_y), 0, level.material.shape[0] - 1).astype(np.int32)
    sunk = above - hit_z  # how far below the top of the object the ray met it
    aside = (sunk > 0.9) & (hit_z > 0)
    wall = aside & _IS_ROOF[level.material[row, column]]
    crown = aside & ~wall
    image *= np.where(crown, np.maximum(1 - 0.16 * sunk, 0.45), 1)[..., None]  # crowns are darker toward their feet
    if not wall.any():
        return image
    step = np.float32(1.5)
    east = surface._land(x + step, y) - surface._land(x - step, y)
    south = surface._land(x, y + step) - surface._land(x, y - step)
    length = np.maximum(np.hypot(east, south), 1e-3)
    facing = -(east * sun_3[0] + south * sun_3[1]) / length
    light = (
        np.where(facing > 0, 0.62 + 0.5 * facing, 0.5)[..., None] * (0.8 + 0.2 * np.minimum(hit_z / 4, 1))[..., None]
    )
    return np.where(wall[..., None], _WALL_BGR * light, image)
