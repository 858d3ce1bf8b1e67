"""A data set of six drone images and nine tiles whose correct answers follow from their colors."""

import cv2
import numpy as np
import pytest

from mindloc.data.split import Edges, Places, Side, Split


@pytest.fixture
def color_split(tmp_path):
    """Tile i is at (100 i, 0) and has its own color; drone image d is 10 m from tile d and has the color of that tile.

    Positive: tile d. Semi-positive: also tile d + 1. Drone image 5 overlaps nothing.
    """
    root = tmp_path / "data"
    for directory in ("drone/images", "satellite"):
        (root / directory).mkdir(parents=True)
    drone_files = [f"drone/images/{index}.png" for index in range(6)]
    tiles = [f"satellite/4_0_0_{index}.png" for index in range(9)]
    for name in drone_files + tiles:
        index = int(name.split("_")[-1].split("/")[-1].removesuffix(".png"))
        color = cv2.cvtColor(np.uint8([[[20 * index, 255, 200]]]), cv2.COLOR_HSV2BGR)
        cv2.imwrite(str(root / name), np.broadcast_to(color, (24, 32, 3)))
    start = np.array([0, 1, 2, 3, 4, 5, 5])
    wide = np.array([0, 2, 4, 6, 8, 10, 10])
    return Split(
        root=root,
        query=Side("drone", drone_files, Places(np.array([[100.0 * index, 10.0] for index in range(6)]), "plane_m")),
        reference=Side("satellite", tiles, Places(np.array([[100.0 * index, 0.0] for index in range(9)]), "plane_m")),
        positive=Edges(start, np.arange(5, dtype=np.int32), {"iou": np.full(5, 0.8, np.float32)}),
        semipositive=Edges(
            wide, np.array([0, 1, 1, 2, 2, 3, 3, 4, 4, 5], np.int32), {"iou": np.full(10, 0.3, np.float32)}
        ),
    )
