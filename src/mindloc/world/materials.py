"""The materials of a map pixel, as numbers 0..255, and how strongly each material varies when it is painted.

A material has several tints. A map stores the number of a tint, not its color, so the same map can be painted in every
season. Colors are red, green, blue, 0..255, as seen in full sun.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Material:
    """One material.

    Args:
        tints: number of its tints.
        spread: how much the tints differ, as a fraction of the color.
        grain: strength of the fine noise, as a fraction of the color.
        patch: strength of the coarse noise, as a fraction of the color.
    """

    tints: int
    spread: float
    grain: float
    patch: float


MATERIALS = {
    "meadow": Material(8, 0.13, 0.11, 0.24),
    "lawn": Material(8, 0.15, 0.10, 0.20),
    "crop": Material(18, 0.16, 0.07, 0.16),
    "soil": Material(5, 0.10, 0.07, 0.16),
    "undergrowth": Material(2, 0.08, 0.16, 0.22),
    "asphalt": Material(4, 0.05, 0.045, 0.10),
    "concrete": Material(4, 0.07, 0.05, 0.10),
    "track": Material(3, 0.06, 0.08, 0.14),
    "water": Material(2, 0.06, 0.03, 0.12),
    "pool": Material(2, 0.06, 0.02, 0.0),
    "bank": Material(2, 0.06, 0.12, 0.20),
    "roof_red": Material(10, 0.15, 0.06, 0.08),
    "roof_gray": Material(10, 0.18, 0.05, 0.08),
    "roof_brown": Material(6, 0.14, 0.06, 0.08),
    "roof_light": Material(8, 0.08, 0.025, 0.06),
    "solar": Material(1, 0.0, 0.02, 0.0),
    "tree": Material(24, 0.18, 0.22, 0.10),
    "conifer": Material(8, 0.14, 0.20, 0.10),
    "bush": Material(6, 0.14, 0.18, 0.10),
    "car": Material(10, 0.0, 0.02, 0.0),
    "marking": Material(1, 0.0, 0.05, 0.0),
    "court": Material(3, 0.08, 0.03, 0.08),
}


_starts = np.cumsum([0] + [material.tints for material in MATERIALS.values()])


FIRST = dict(zip(MATERIALS, _starts[:-1].tolist(), strict=True))  # material name -> its first number


ROOFS = ("roof_red", "roof_gray", "roof_brown", "roof_light", "solar")


CAR_COLORS = (
    (225, 226, 228),
    (205, 206, 210),
    (160, 163, 168),
    (60, 62, 66),
    (38, 40, 44),
    (235, 235, 232),
    (120, 34, 32),
    (48, 66, 110),
    (90, 92, 96),
    (140, 130, 112),
)


def numbers(name: str) -> np.ndarray:
    """The numbers of all tints of a material."""
    return FIRST[name] + np.arange(MATERIALS[name].tints)


def is_one_of(names) -> np.ndarray:
    """Boolean table (256,): True if a number belongs to one of these materials."""
    table = np.zeros(256, bool)
    for name in names:
        table[numbers(name)] = True
    return table


def strengths(kind: str) -> np.ndarray:
    """Table (256,) float32: the ``grain`` or ``patch`` (chosen by ``kind``) of the material of each number."""
    table = np.zeros(256, np.float32)
    for name, material in MATERIALS.items():
        table[numbers(name)] = getattr(material, kind)
    return table
