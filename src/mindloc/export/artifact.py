"""What every exported encoder is, whatever its format: one file, one card beside it, and a check that both were earned.

Suffixes: B pictures, D dimension.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mindloc.errors import ExportError
from mindloc.runtime.atomic import atomic_write, atomic_write_text

CARD_VERSION = 1
_COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class ExportSpec:
    """What goes in and comes out."""

    view: str
    size_px: tuple[int, int]  # height, width
    batch_size: int | None  # None: any
    mean: tuple[float, float, float]  # of RGB pixels scaled to 0..1
    std: tuple[float, float, float]
    cut_border: float = 0.0  # share that was cropped from each side before resizing

    @property
    def output(self) -> str:
        return f"{self.view}.global"

    @property
    def input_shape(self) -> list[int | None]:
        return [self.batch_size, 3, *self.size_px]

    def trial_batches(self) -> list[np.ndarray]:
        """Seeded pictures to compare on: the fixed batch, or three sizes of a free one."""
        random = np.random.default_rng(0)
        sizes = [self.batch_size] if self.batch_size else [1, 2, 3]
        return [random.standard_normal((size, 3, *self.size_px)).astype(np.float32) for size in sizes]


def largest_difference(
    live: Callable[[np.ndarray], np.ndarray],
    exported: Callable[[np.ndarray], np.ndarray],
    spec: ExportSpec,
    tolerance: float,
) -> tuple[float, int]:
    """(largest difference, dimension) over the trial batches, as a share of the descriptors' largest entry.

    Raises:
        ExportError: it exceeds ``tolerance``, or shapes differ, or either holds NaN.
    """
    worst, dimension = 0.0, 0
    for image_B3HW in spec.trial_batches():
        expected_BD, got_BD = live(image_B3HW), exported(image_B3HW)
        if got_BD.shape != expected_BD.shape:
            raise ExportError(
                f"the exported {spec.view} encoder returns shape {got_BD.shape}, the live one {expected_BD.shape}; "
                "this is a defect of the export: nothing was written"
            )
        difference = float(np.abs(got_BD - expected_BD).max() / max(float(np.abs(expected_BD).max()), 1e-30))
        if not difference <= tolerance:  # NaN fails too
            raise ExportError(
                f"the exported {spec.view} encoder differs from the live one by {difference:.1e} of the largest entry, "
                f"allowed are {tolerance:.0e}; nothing was written: try another precision or MindSpore version"
            )
        worst, dimension = max(worst, difference), expected_BD.shape[1]
    return worst, dimension


def publish(partial: Path, path: Path, spec: ExportSpec, facts: dict[str, Any]) -> None:
    """Put a checked file under its name, and its card beside it.

    The card names the file's sha256 and is written last: a file without a fitting card is an unfinished export.

    Raises:
        ExportError: the disk is full or refuses; what stood there before survives.
    """
    digest = hashlib.sha256()
    with partial.open("rb") as source, atomic_write(path, "export", ExportError) as target:
        while block := source.read(_COPY_BYTES):
            digest.update(block)
            target.write(block)
    card = {
        "version": CARD_VERSION,
        "file": path.name,
        "sha256": digest.hexdigest(),
        "view": spec.view,
        "input": {
            "shape": spec.input_shape,  # null: any number of pictures
            "dtype": "float32",
            "cut_border": spec.cut_border,  # of each side, before the picture is resized to the shape
            "pixels": "RGB scaled to 0..1, then (x - mean) / std",
            "mean": list(spec.mean),
            "std": list(spec.std),
        },
        "output": {"name": spec.output, "length": "any: divide by the Euclidean norm before comparing"},
        **facts,
    }
    atomic_write_text(card_path(path), json.dumps(card, indent=2, ensure_ascii=False) + "\n", ExportError)


def card_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")
