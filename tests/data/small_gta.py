"""A small data set in GTA-UAV's layout: entries of its pairs file, and its images."""

from pathlib import Path

import cv2
import numpy as np

# 1024 px at 0.5 m/px, zoom 1: four tiles of 512 px, 256 m a side, centers at 128 and 384 m
TILES = ["1_0_0_0.png", "1_0_0_1.png", "1_0_1_0.png", "1_0_1_1.png"]
CENTERS = {"1_0_0_0.png": [128.0, 128.0], "1_0_0_1.png": [128.0, 384.0], "1_0_1_0.png": [384.0, 128.0]}


def gta_entry(name: str, place: list, positive: dict[str, float], semipositive: dict[str, float]) -> dict:
    """One object of the pairs file; ``semipositive`` are the tiles in addition to the positives."""
    every = {**positive, **semipositive}
    return {
        "drone_img_dir": "drone/images",
        "drone_img_name": name,
        "drone_loc_x_y": place,
        "sate_img_dir": "satellite",
        "pair_pos_sate_img_list": list(positive),
        "pair_pos_sate_weight_list": list(positive.values()),
        "pair_pos_sate_loc_x_y_list": [CENTERS[tile] for tile in positive],
        "pair_pos_semipos_sate_img_list": list(every),
        "pair_pos_semipos_sate_weight_list": list(every.values()),
        "pair_pos_semipos_sate_loc_x_y_list": [CENTERS[tile] for tile in every],
        "drone_metadata": {"height": 100.0, "drone_yaw": None},
    }


def gta_entries() -> list[dict]:
    return [
        gta_entry("100_0001_0000000001.png", [130.0, 120.0], {"1_0_0_0.png": 0.5}, {"1_0_0_1.png": 0.2}),
        gta_entry("100_0001_0000000002.png", [380.0, 130.0], {"1_0_1_0.png": 0.75}, {}),
        gta_entry("100_0001_0000000003.png", [256.0, 128.0], {}, {"1_0_0_0.png": 0.25, "1_0_1_0.png": 0.3}),
    ]


def write_image(path: Path, height: int = 6, width: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).integers(0, 255, (height, width, 3), np.uint8)
    cv2.imwrite(str(path), noise)
