"""Pictures with about as many bytes as real aerial ones: noise on three scales, .3 byte per pixel as JPEG."""

from pathlib import Path

import cv2
import numpy as np

SIZES = {"drone": (384, 512), "satellite": (256, 256)}  # height, width


def made_up_picture(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    image = np.zeros((height, width, 3))
    for scale in (64, 16, 4):
        noise = random.normal(0, 28, (height // scale, width // scale, 3))
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(image + 120, 0, 255).astype(np.uint8)


def make_pictures(folder: Path, count: int) -> tuple[list[Path], list[Path]]:
    """JPEG files: drone pictures and tiles."""
    random, views = np.random.default_rng(0), []
    for view, size in SIZES.items():
        views.append([folder / f"{view}{index}.jpg" for index in range(count)])
        for path in views[-1]:
            cv2.imwrite(str(path), made_up_picture(random, *size))
    return views[0], views[1]
