"""A small data set in VIGOR's layout on the equator, where a pixel has the same size in degrees both ways.

Tile (r, c) has its center 320 c px to the right of and 320 r px below that of tile (0, 0), so every point is in four.
"""

import math
from pathlib import Path

M_PER_PX = 156543.03392 / 2**20  # Web-Mercator at zoom 20: 0.149 m
DEG_PER_PX = M_PER_PX / (math.pi / 180 * 6371008.8)
STEP_PX = 320
# city -> (x, y) of its panoramas, in pixels from the center of tile (0, 0) to the right and down
PANORAMAS = {"Arnau": {"a1": (100, 60), "a2": (330, 40), "a3": (290, 200)}, "Bern": {"b1": (20, 10), "b2": (500, 150)}}


def tile(row: int, column: int, suffix: str = ".png") -> str:
    return f"satellite_{-STEP_PX * row * DEG_PER_PX:.15f}_{STEP_PX * column * DEG_PER_PX:.15f}{suffix}"


def panorama(name: str, x: float, y: float) -> str:
    return f"{name},{-y * DEG_PER_PX:.7f},{x * DEG_PER_PX:.7f},.jpg"


def label(name: str, x: int, y: int) -> str:
    """The line of a panorama, its nearest tile first: the panorama is at 320 - column, 320 + row of each."""
    near = [(row, column) for row in (0, 1) for column in (x // STEP_PX, x // STEP_PX + 1)]
    near.sort(key=lambda at: max(abs(y - STEP_PX * at[0]), abs(x - STEP_PX * at[1])))
    offsets = [f"{tile(*at)} {y - STEP_PX * at[0]:.1f} {STEP_PX * at[1] - x:.1f}" for at in near]
    return " ".join([panorama(name, x, y), *offsets])


def lines_of(city: str) -> list[str]:
    return [label(name, *place) for name, place in PANORAMAS[city].items()]


def write_vigor(
    root: Path, panoramas: str = "{}/panorama", tiles: str = "{}/satellite", names=tuple(PANORAMAS)
) -> Path:
    """Two cities with 6 tiles each and labels without images; the first panorama of a city is its test half.

    Args:
        panoramas, tiles: directories of the images of a city.
        names: of the two cities.
    """
    for city, name in zip(PANORAMAS, names, strict=True):
        lines = lines_of(city)
        write_lines(root, name, "satellite_list", [tile(row, column) for column in (2, 1, 0) for row in (0, 1)])
        write_lines(root, name, "pano_label_balanced", lines)
        write_lines(root, name, "same_area_balanced_train", lines[1:])
        write_lines(root, name, "same_area_balanced_test", lines[:1])
        for directory in (panoramas, tiles):
            (root / directory.format(name)).mkdir(parents=True, exist_ok=True)
    return root


def write_lines(root: Path, city: str, stem: str, lines: list[str], labels: str = "splits") -> Path:
    """A label file as released, without an end of its last line."""
    path = root / labels / city / f"{stem}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))
    return path
