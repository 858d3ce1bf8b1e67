"""The loader's work in PyTorch: DataLoader, OpenCV and albumentations with the augmentations of Game4Loc's public code.

benchmarks/loader.py starts this script in an interpreter that has these packages, with a JSON object as argument. The
last line that the script prints is a JSON object too. Nothing of mindloc is imported here.
"""

import json
import multiprocessing
import random
import sys
import time
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from turns import cpu_s, memory_mib

MEAN = STD = (0.5, 0.5, 0.5)


def recipe(side_px: int) -> A.Compose:
    """Game4Loc's augmentation of a training image in terms of albumentations 2, without the flip (see ``Pairs``)."""
    holes = {"num_holes_range": (10, 25), "hole_height_range": (0.1, 0.2), "hole_width_range": (0.1, 0.2)}
    return A.Compose(
        [
            A.ImageCompression(quality_range=(90, 100), p=0.5),
            A.Resize(side_px, side_px, interpolation=cv2.INTER_LINEAR_EXACT, p=1.0),
            A.ColorJitter(brightness=0.15, contrast=0.15, saturation=0.15, hue=0.15, p=0.5),
            A.OneOf([A.AdvancedBlur(p=1.0), A.Sharpen(p=1.0)], p=0.3),
            A.OneOf([A.GridDropout(ratio=0.4, p=1.0), A.CoarseDropout(**holes, p=1.0)], p=0.3),
            A.RandomRotate90(p=1.0),
            A.Normalize(MEAN, STD),
            ToTensorV2(),
        ]
    )


class Pairs(Dataset):
    """Drone image and tile of a pair, flipped together and then augmented separately."""

    def __init__(self, query: list[str], reference: list[str], length: int, side_px: int):
        self._query, self._reference, self._length = query, reference, length
        self._changes = recipe(side_px)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        query = _read(self._query[index % len(self._query)])
        reference = _read(self._reference[index % len(self._reference)])
        if random.random() < 0.5:
            query, reference = cv2.flip(query, 1), cv2.flip(reference, 1)
        return self._changes(image=query)["image"], self._changes(image=reference)["image"]


def measure(request: dict) -> dict:
    """Images per second, processor time per image and memory; the first and the last batches are not timed."""
    size, timed = request["batch_size"], request["timed"]
    length = (request["before"] + timed + request["after"]) * size
    pairs = Pairs(request["query"], request["reference"], length, request["side_px"])
    workers = request["workers"]
    loader = DataLoader(
        pairs, size, shuffle=True, num_workers=workers, persistent_workers=True, worker_init_fn=_one_thread
    )
    batches = iter(loader)
    for _ in range(request["before"]):
        next(batches)
    children = [child.pid for child in multiprocessing.active_children()]
    started, cpu_started = time.perf_counter(), cpu_s(children)
    for _ in range(timed):
        next(batches)
    seconds, spent_s = time.perf_counter() - started, cpu_s(children) - cpu_started
    images = 2 * timed * size
    return {
        "workers": workers,
        "images_per_s": images / seconds,
        "cpu_ms_per_image": 1000 * spent_s / images,
        "memory_mib": memory_mib(children),
        "versions": {
            "torch": torch.__version__,
            "albumentations": A.__version__,
            "opencv": cv2.__version__,
            "python": sys.version.split()[0],
        },
    }


def _read(path: str) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)


def _one_thread(_worker: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
