"""The specification of a generated world: plain values, and the check of them."""

from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from mindloc.errors import DataError

WORLD_VERSION = 1  # increased whenever the same spec and seed give different bytes

ImageFormat = Literal["png", "jpg"]


@dataclass(frozen=True)
class WorldSpec:
    """The settings of one world. The same spec gives the same bytes with any number of workers.

    Generating images needs about 28 bytes of memory per map pixel; the lists alone (``json_only``) need little.
    """

    seed: int = 1  # a different seed gives a different world
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
    # flight levels above ground, meters; None: two whose footprints are as large as tiles of the two highest zooms
    heights_m: tuple[float, ...] | None = None
    height_jitter: float = 0.1  # an image's height is its level times a factor between 1 - this and 1 + this
    field_of_view_deg: float = 60.0  # horizontal, degrees
    attitude_deg: float = 3.0  # standard deviation of roll and pitch, degrees
    oblique_share: float = 0.15  # share of the drone images that are tilted further
    oblique_tilt_deg: tuple[float, float] = (10.0, 25.0)  # tilt of the oblique images, degrees; minimum, maximum
    positive_share: float = 0.95  # share of the drone images that get a positive tile
    flights: int = 12  # number of flights; each has its own season, light and camera
    test_share: float = 0.25  # share of the drone images in the test lists; 0: no test lists, 1: no training lists
    json_only: bool = False  # write the lists without any image

    def check(self) -> "WorldSpec":
        """Return this spec, after checking every value.

        Raises:
            DataError: a value is out of range, or values do not fit together.
        """
        for bad, line in _checks(self):
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
        # the footprint of an image taken straight down has the area (2 h tan)^2 aspect; h makes it the area of a tile
        sides_m = [self.map_m / 2**zoom for zoom in sorted(self.zooms)[-2:]]
        return tuple(round(side / (2 * self.half_width_tan * self.aspect**0.5), 1) for side in sides_m)

    def as_dict(self) -> dict:
        """The settings as plain values for world.json."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def _checks(spec: WorldSpec):
    """Yield (True if the value is wrong, the error message) for each check."""
    yield spec.map_px < 256, f"map_px is {spec.map_px}; a map needs at least 256 pixels a side"
    yield not spec.m_per_px > 0, f"m_per_px is {spec.m_per_px}; it must be above 0"
    yield not spec.zooms, "zooms is empty; give at least one zoom, for example 2,3,4"
    yield min(spec.zooms, default=0) < 0, f"zooms are {spec.zooms}; the lowest zoom is 0, the whole map"
    too_fine = spec.map_px >> min(max(spec.zooms, default=0), 62) == 0
    yield (
        too_fine,
        f"zooms are {spec.zooms}; at the highest zoom a tile is less than one of the map's {spec.map_px} pixels wide",
    )
    yield not spec.offsets, "offsets is empty; give at least one offset, for example 0,128"
    yield not all(0 <= offset < 256 for offset in spec.offsets), f"offsets are {spec.offsets}; expected 0..255"
    yield spec.tiles is not None and spec.tiles < 1, f"tiles is {spec.tiles}; keep at least one, or None for all"
    yield spec.drones < 1, f"drones is {spec.drones}; at least one drone image is needed"
    yield spec.flights < 1, f"flights is {spec.flights}; at least one flight is needed"
    yield (
        min(*spec.drone_size_px, spec.tile_size_px) < 16,
        f"drone_size_px is {spec.drone_size_px} and tile_size_px {spec.tile_size_px}; "
        "images need at least 16 pixels a side",
    )
    for name in ("tile_format", "drone_format"):
        value = getattr(spec, name)
        yield value not in ("png", "jpg"), f"{name} is {value!r}; choose png or jpg"
    for name in ("oblique_share", "positive_share", "test_share"):
        value = getattr(spec, name)
        yield not 0 <= value <= 1, f"{name} is {value}; expected 0..1"
    yield not 0 <= spec.height_jitter < 1, f"height_jitter is {spec.height_jitter}; expected 0 up to 1"
    yield (
        any(not level > 0 for level in spec.heights_m or ()),
        f"heights_m is {spec.heights_m}; all heights must be above 0",
    )
    yield spec.heights_m == (), "heights_m is empty; give a height, or None for heights that fit the tiles"
    low, high = spec.oblique_tilt_deg
    yield not 0 <= low <= high, f"oblique_tilt_deg is {spec.oblique_tilt_deg}; expected low, high with 0 <= low <= high"
    # largest angle between straight down and the ray of an image corner (roll and pitch are cut at 3 deviations)
    corner = np.degrees(np.arctan(spec.half_width_tan * np.hypot(1, spec.aspect)))
    steepest = max(high, 0) + 3 * 2**0.5 * spec.attitude_deg + corner
    yield (
        not steepest < 85,
        (
            f"field of view, tilt and attitude add up to {steepest:.0f} degrees from straight down; "
            "keep it below 85 (smaller field_of_view_deg or oblique_tilt_deg)"
        ),
    )
