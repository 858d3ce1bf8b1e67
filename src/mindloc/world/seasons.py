"""Seasons: the color of every material, the sun, and how much soil shows between the rows of a crop.

A season gives each material one or more colors. A world draws the colors of its tints around these from its seed.
Colors are red, green, blue in 0..255.
"""

from dataclasses import dataclass

import numpy as np

from mindloc.world.materials import CAR_COLORS, MATERIALS, numbers

Color = tuple[float, float, float]


@dataclass(frozen=True)
class Season:
    """How the land looks at one time of the year.

    Args:
        colors: material -> one or more colors; the color of a tint is drawn between two of them.
        soil: color of bare soil between the rows of a crop.
        row_contrast: how clearly the rows are visible, 0..1.
        sun_elevation_deg: lowest and highest elevation.
        sun_azimuth_deg: lowest and highest azimuth, clockwise from north.
        shadow: fraction of each color channel that remains in full shadow.
    """

    name: str
    colors: dict[str, tuple[Color, ...]]
    soil: Color
    row_contrast: float
    sun_elevation_deg: tuple[float, float]
    sun_azimuth_deg: tuple[float, float]
    shadow: Color


BUILT = {
    "asphalt": ((108, 106, 104), (128, 125, 121)),
    "concrete": ((158, 153, 145), (182, 177, 168)),
    "pool": ((92, 182, 200), (120, 205, 214)),
    "roof_red": ((158, 88, 68), (182, 112, 88), (138, 78, 66)),
    "roof_gray": ((118, 116, 116), (148, 146, 144), (92, 92, 96)),
    "roof_brown": ((112, 88, 74), (132, 106, 90)),
    "roof_light": ((208, 207, 203), (228, 227, 222), (190, 198, 204)),
    "solar": ((38, 46, 72),),
    "marking": ((222, 220, 212),),
    "court": ((150, 84, 66), (74, 112, 92), (84, 104, 136)),
}

EARLY_SUMMER = Season(
    "early summer",
    {
        "meadow": ((92, 112, 62), (108, 122, 72), (82, 104, 60)),
        "lawn": ((90, 116, 62), (104, 124, 74)),
        "crop": ((76, 104, 54), (98, 120, 62), (62, 92, 50), (136, 136, 80), (112, 126, 70)),
        "soil": ((142, 116, 90), (158, 134, 106)),
        "undergrowth": ((54, 66, 40),),
        "track": ((164, 148, 122), (176, 160, 134)),
        "water": ((58, 72, 68), (66, 80, 72)),
        "bank": ((150, 140, 112), (96, 106, 66)),
        "tree": ((58, 80, 42), (70, 92, 48), (50, 72, 40), (80, 98, 54)),
        "conifer": ((42, 62, 42), (50, 68, 46)),
        "bush": ((66, 86, 46), (80, 98, 56)),
    },
    soil=(128, 108, 84),
    row_contrast=0.45,
    sun_elevation_deg=(48, 62),
    sun_azimuth_deg=(115, 165),
    shadow=(0.36, 0.41, 0.48),
)
LATE_SUMMER = Season(
    "late summer",
    {
        "meadow": ((146, 142, 78), (158, 150, 92), (128, 134, 70)),
        "lawn": ((120, 134, 68), (146, 144, 84)),
        "crop": ((184, 164, 98), (196, 178, 116), (142, 142, 66), (170, 150, 92), (104, 120, 52)),
        "soil": ((164, 128, 94), (176, 144, 110)),
        "undergrowth": ((78, 78, 42),),
        "track": ((190, 170, 136), (200, 180, 146)),
        "water": ((70, 84, 70), (80, 90, 72)),
        "bank": ((176, 164, 130), (140, 136, 84)),
        "tree": ((80, 94, 42), (96, 104, 48), (66, 84, 40), (112, 112, 52)),
        "conifer": ((52, 70, 42), (60, 76, 46)),
        "bush": ((92, 102, 50), (110, 112, 56)),
    },
    soil=(172, 144, 108),
    row_contrast=0.5,
    sun_elevation_deg=(35, 58),
    sun_azimuth_deg=(190, 250),
    shadow=(0.40, 0.42, 0.46),
)
AUTUMN = Season(
    "autumn",
    {
        "meadow": ((112, 112, 66), (128, 122, 76), (104, 110, 64)),
        "lawn": ((100, 114, 62), (116, 122, 74)),
        "crop": ((132, 108, 78), (146, 122, 90), (112, 116, 62), (96, 112, 56), (152, 132, 92)),
        "soil": ((120, 94, 72), (132, 106, 82)),
        "undergrowth": ((98, 80, 50),),
        "track": ((152, 136, 112), (164, 148, 122)),
        "water": ((52, 62, 62), (60, 68, 64)),
        "bank": ((140, 128, 100), (116, 108, 70)),
        "tree": ((152, 106, 44), (168, 134, 54), (110, 100, 48), (134, 78, 42), (92, 98, 48)),
        "conifer": ((48, 64, 44), (54, 68, 46)),
        "bush": ((122, 96, 50), (100, 98, 52)),
    },
    soil=(122, 98, 76),
    row_contrast=0.55,
    sun_elevation_deg=(27, 40),
    sun_azimuth_deg=(140, 215),
    shadow=(0.38, 0.42, 0.50),
)
EARLY_SPRING = Season(
    "early spring",
    {
        "meadow": ((122, 124, 78), (136, 130, 90), (106, 118, 70)),
        "lawn": ((104, 122, 68), (120, 128, 82)),
        "crop": ((98, 128, 60), (150, 126, 98), (134, 110, 84), (112, 138, 66), (158, 138, 108)),
        "soil": ((138, 110, 86), (150, 124, 98)),
        "undergrowth": ((116, 102, 78),),
        "track": ((168, 152, 126), (178, 162, 136)),
        "water": ((76, 84, 76), (88, 92, 80)),
        "bank": ((158, 146, 118), (126, 120, 84)),
        "tree": ((118, 106, 78), (122, 110, 84), (104, 106, 64), (112, 124, 62), (96, 114, 56)),
        "conifer": ((50, 68, 44), (58, 74, 50)),
        "bush": ((110, 108, 72), (100, 110, 62)),
    },
    soil=(144, 118, 92),
    row_contrast=0.65,
    sun_elevation_deg=(32, 46),
    sun_azimuth_deg=(120, 240),
    shadow=(0.42, 0.46, 0.53),
)

SATELLITE_SEASON = EARLY_SUMMER
DRONE_SEASONS = (LATE_SUMMER, AUTUMN, EARLY_SPRING)


@dataclass(frozen=True)
class Scenery:
    """The colors and the sun of one season in one world, as painting needs them.

    Args:
        color_256x3: color of each material number, float32, 0..255.
        sun_3: unit vector toward the sun, axes (east, south, up).
    """

    season: Season
    color_256x3: np.ndarray
    sun_3: np.ndarray


def draw_scenery(season: Season, rng: np.random.Generator, built_rng: np.random.Generator) -> Scenery:
    """Draw the tints and the sun of a season in one world.

    Args:
        season: the season to draw.
        rng: source of the sun, the plants and the soil.
        built_rng: source of roofs and roads; seeded equally for every season of a world, so a roof keeps its color.
    """
    color = np.zeros((256, 3), np.float32)
    for name, material in MATERIALS.items():
        tints = numbers(name)
        if name in BUILT:
            color[tints] = _tints(BUILT[name], material, built_rng)
        else:
            color[tints] = CAR_COLORS if name == "car" else _tints(season.colors[name], material, rng)
    azimuth = np.radians(rng.uniform(*season.sun_azimuth_deg))
    elevation = np.radians(rng.uniform(*season.sun_elevation_deg))
    level = np.cos(elevation)
    sun_3 = np.array([level * np.sin(azimuth), -level * np.cos(azimuth), np.sin(elevation)])
    return Scenery(season, np.clip(color, 4, 250), sun_3)


def _tints(colors: tuple[Color, ...], material, rng: np.random.Generator) -> np.ndarray:
    """Colors (n, 3) of the tints: each between two of ``colors``, with a small random change of brightness and hue."""
    count = material.tints
    anchor = np.asarray(colors, np.float64)
    one, two = anchor[rng.integers(0, len(anchor), (2, count))]
    mixed = one + rng.random((count, 1)) * (two - one)
    brightness = rng.uniform(1 - material.spread, 1 + material.spread, (count, 1))
    hue = rng.uniform(1 - material.spread / 4, 1 + material.spread / 4, (count, 3))
    return mixed * brightness * hue
