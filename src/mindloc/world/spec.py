"""What a generated world is made from: plain values, checked once."""

from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from mindloc.errors import DataError

WORLD_VERSION = 1  # rises whenever the same spec and seed give other bytes

ImageFormat = Literal["png", "jpg"]


@dataclass(frozen=True)
class WorldSpec:
    """One world. The same spec gives the same bytes, whatever the number of workers.

    Images need about 28 bytes of memory per map pixel; meta files alone need little.
    """

    seed: int = 1  # another seed is another world
    map_px: int = 4096  # side of the square map, pixels
    m_per_px: float = 0.3  # meters per map pixel
    zooms: tuple[int, ...] = (2, 3, 4)  # a tile of zoom z is map_px / 2^z map pixels wide
    offsets: tuple[int, ...] = (0, 128)  # shifts of the tile cut, in 256ths of a tile
    tiles: int | None = None  # number of tiles to keep, those nearest to the middle of the map; None: all
    tile_size_px: int = 256  # side of a tile image, pixels
    tile_format: ImageFormat = "png"  # of the tile images
    drones: int = 1500  # number of drone images
    drone_size_px: tuple[int, int] = (192, 256)  # height, width of a drone image, pixels
    drone_format: ImageFormat = "png"  # of the drone images
    # flight levels above ground, meters; None: two whose footprints are as large as tiles of the two finest zooms
    heights_m: tuple[float, ...] | None = None
    height_jitter: float = 0.1  # an image's height is its level times 1 +- this
    field_of_view_deg: float = 60.0  # horizontal, degrees
    attitude_deg: float = 3.0  # standard deviation of roll and pitch, degrees
    oblique_share: float = 0.15  # share of the drone images that are tilted further
    oblique_tilt_deg: tuple[float, float] = (10.0, 25.0)  # their tilt, degrees; minimum, maximum
    positive_share: float = 0.95  # share of the drone images that get a positive tile
    flights: int = 12  # number of flights; each has its own season, light and camera
    test_share: float = 0.25  # share of the drone images in the test lists; 0: no test lists, 1: no training lists
    json_only: bool = False  # write the lists without any image

    def check(self) -> "WorldSpec":
        """Return self.

        Raises:
            DataError: a value that no world can be made from.
        """
        for bad, line in _complaints(self):
            if bad:
                raise DataError(line)
        return self

    @property
    def map_m(self) -> float:
        """Side of the map, meters."""
        return self.map_px * self.m_per_px

    @property
    def half_width_tan(self) -> float:
        """Tangent of half the horizontal field of view."""
        return float(np.tan(np.radians(self.field_of_view_deg) / 2))

    @property
    def aspect(self) -> float:
        """Height over width of a drone image."""
        return self.drone_size_px[0] / self.drone_size_px[1]

    @property
    def levels_m(self) -> tuple[float, ...]:
        """Flight levels above ground, meters."""
        if self.heights_m is not None:
            return self.heights_m
        # straight down a footprint has the area (2 h tan)^2 aspect; make it that of a tile
        sides_m = [self.map_m / 2**zoom for zoom in sorted(self.zooms)[-2:]]
        return tuple(round(side / (2 * self.half_width_tan * self.aspect**0.5), 1) for side in sides_m)

    def as_dict(self) -> dict:
        """Plain values for world.json."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def _complaints(spec: WorldSpec):
    """Pairs of (is it wrong, one line)."""
    yield spec.map_px < 256, f"map_px is {spec.map_px}; a map needs at least 256 pixels a side"
    yield not spec.m_per_px > 0, f"m_per_px is {spec.m_per_px}; it must be above 0"
    yield not spec.zooms, "zooms is empty; name at least one, for example 2,3,4"
    yield min(spec.zooms, default=0) < 0, f"zooms are {spec.zooms}; they start at 0, the whole map"
    too_fine = spec.map_px >> min(max(spec.zooms, default=0), 62) == 0
    yield too_fine, f"zooms are {spec.zooms}; the finest tile is less than one of the map's {spec.map_px} pixels wide"
    yield not spec.offsets, "offsets is empty; name at least one, for example 0,128"
    yield not all(0 <= offset < 256 for offset in spec.offsets), f"offsets are {spec.offsets}; expected 0..255"
    yield spec.tiles is not None and spec.tiles < 1, f"tiles is {spec.tiles}; keep at least one, or None for all"
    yield spec.drones < 1, f"drones is {spec.drones}; at least one frame is needed"
    yield spec.flights < 1, f"flights is {spec.flights}; at least one is needed"
    yield min(*spec.drone_size_px, spec.tile_size_px) < 16, "images need at least 16 pixels a side"
    for name in ("tile_format", "drone_format"):
        value = getattr(spec, name)
        yield value not in ("png", "jpg"), f"{name} is {value!r}; choose png or jpg"
    for name in ("oblique_share", "positive_share", "test_share"):
        value = getattr(spec, name)
        yield not 0 <= value <= 1, f"{name} is {value}; expected 0..1"
    yield not 0 <= spec.height_jitter < 1, f"height_jitter is {spec.height_jitter}; expected 0 up to 1"
    yield any(not level > 0 for level in spec.heights_m or ()), f"heights_m is {spec.heights_m}; all must be above 0"
    yield spec.heights_m == (), "heights_m is empty; name a level, or None to follow the tiles"
    low, high = spec.oblique_tilt_deg
    yield not 0 <= low <= high, f"oblique_tilt_deg is {spec.oblique_tilt_deg}; expected low, high with 0 <= low <= high"
    # the far corner of an image looks at most this far from straight down (roll and pitch are cut at 3 deviations)
    corner = np.degrees(np.arctan(spec.half_width_tan * np.hypot(1, spec.aspect)))
    steepest = max(high, 0) + 3 * 2**0.5 * spec.attitude_deg + corner
    yield (
        not steepest < 85,
        (
            f"field of view, tilt and attitude add up to {steepest:.0f} degrees from straight down; "
            "keep it below 85 (smaller field_of_view_deg or oblique_tilt_deg)"
        ),
    )
