"""Where each drone frame is taken from: poses drawn at random, and their ground footprints. F = frames."""

from dataclasses import dataclass, fields

import numpy as np

from mindloc.errors import DataError
from mindloc.geo.footprint import camera_axes, footprints_m
from mindloc.world.spec import WorldSpec


@dataclass
class Poses:
    """Cameras of F frames; angles in degrees as in GTA-UAV's metadata, see geo/footprint.py.

    The camera's attitude in the world is cam_*; drone_* is the airframe's own, which the gimbal has taken out.
    """

    level_F: np.ndarray  # index into the flight levels
    flight_F: np.ndarray  # 0-based; one season, light and camera each
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
        """Overwrite the frames ``index`` by all of ``others``."""
        for column in fields(self):
            getattr(self, column.name)[index] = getattr(others, column.name)


def draw_poses(spec: WorldSpec, rng: np.random.Generator, level_F, flight_F, region_F4) -> Poses:
    """Random poses whose whole footprint lies in each frame's region.

    Args:
        level_F, flight_F: given, since a frame keeps them when it is posed anew.
        region_F4: (left, top, right, bottom) in meters.

    Raises:
        DataError: the footprints are larger than the region.
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
    poses.place_F2 = _places(poses.footprints(spec), region_F4, rng.random((count, 2)))
    return poses


def _places(footprint_F42, region_F4, share_F2) -> np.ndarray:
    """Camera places that put footprints (given around a camera at 0, 0) inside their regions."""
    low_F2 = region_F4[:, :2] - footprint_F42.min(axis=1)
    high_F2 = region_F4[:, 2:] - footprint_F42.max(axis=1)
    if (high_F2 < low_F2).any():
        worst = int((high_F2 - low_F2).min(axis=1).argmin())
        width, depth = np.ptp(footprint_F42[worst], axis=0)
        left, top, right, bottom = region_F4[worst]
        raise DataError(
            f"a drone picture covers {width:.0f} x {depth:.0f} m but its part of the map only "
            f"{right - left:.0f} x {bottom - top:.0f} m; lower heights_m or the tilt, or enlarge the map"
        )
    return low_F2 + share_F2 * (high_F2 - low_F2)
