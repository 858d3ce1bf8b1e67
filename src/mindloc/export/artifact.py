"""An exported encoder of any format: what goes in and comes out, its comparison with the live one, file and card.

Suffixes: B pictures, D dimension.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mindloc.errors import ExportError
from mindloc.inference.exported import CARD_VERSION, card_path, input_shape
from mindloc.inference.exported_engine import RunFile
from mindloc.runtime.atomic import atomic_write, atomic_write_text

_COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class ExportSpec:
    """What goes in and comes out."""

    views: tuple[str, ...]  # whose pictures go in
    size_px: tuple[int, int]  # height, width
    batch_size: int | None  # None: any
    mean: tuple[float, ...]  # of RGB pixels scaled to 0..1
    std: tuple[float, ...]
    cut_border: float = 0.0  # share that was cropped from each side before resizing
    takes_pixels: bool = False  # uint8 (B, H, W, 3), normalized inside
    unit_length: bool = False  # descriptors are divided by their norm inside
    precision: str = "fp32"

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        return input_shape(self.batch_size, self.size_px, self.takes_pixels)

    def trial_batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Seeded pictures to compare on, (as the file takes them, as the live encoder does).

        The fixed batch, or three sizes of a free one. They are normalized here in float64, apart from the graph.
        """
        random = np.random.default_rng(0)
        for size in [self.batch_size] if self.batch_size else [1, 2, 3]:
            pixels = random.integers(0, 256, (size, *self.size_px, 3), dtype=np.uint8)
            normal = (pixels / 255.0 - np.array(self.mean)) / np.array(self.std)
            live = np.ascontiguousarray(normal.transpose(0, 3, 1, 2), np.float32)
            yield (pixels if self.takes_pixels else live), live


def compare(live: RunFile, exported: RunFile, spec: ExportSpec, tolerance: float) -> dict[str, Any]:
    """For the card: the dimension, and the largest difference as a share of the descriptors' largest entry.

    Raises:
        ExportError: it exceeds ``tolerance``, or shapes differ, or either holds NaN.
    """
    worst, dimension, what = 0.0, 0, " and ".join(spec.views)
    for fed, image_B3HW in spec.trial_batches():
        expected_BD, got_BD = live(image_B3HW), exported(fed)
        if spec.unit_length:
            expected_BD = expected_BD / np.linalg.norm(expected_BD, axis=1, keepdims=True)
        if got_BD.shape != expected_BD.shape:
            raise ExportError(
                f"the exported {what} encoder returns shape {got_BD.shape}, the live one {expected_BD.shape}; "
                "this is a defect of the export: nothing was written"
            )
        difference = float(np.abs(got_BD - expected_BD).max() / max(float(np.abs(expected_BD).max()), 1e-30))
        if not difference <= tolerance:  # NaN fails too
            raise ExportError(
                f"the exported {what} encoder differs from the live one by {difference:.1e} of the largest entry, "
                f"allowed are {tolerance:.0e}; nothing was written: try another precision or MindSpore version"
            )
        worst, dimension = max(worst, difference), expected_BD.shape[1]
    check = {"compared": True, "largest_difference": worst, "tolerance": tolerance, "relative_to": "largest entry"}
    return {"dimension": dimension, "check": check}


@contextmanager
def partial_folder(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` for what is not yet checked; gone afterwards, whatever happens.

    Raises:
        ExportError: the disk is full or refuses.
    """
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by an export that was killed
    try:
        partial.mkdir(parents=True)
        yield partial
    except OSError as error:
        raise ExportError(f"can't write {path}: {error.strerror or error}; take another folder") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def publish(partial: Path, path: Path, spec: ExportSpec, facts: dict[str, Any]) -> None:
    """Put a checked file under its name, and its card beside it.

    The card names the file's sha256 and is written last: a file without a fitting card is an unfinished export.

    Args:
        facts: format, dimension, encryption, check, checkpoint_sha256, config, versions.

    Raises:
        ExportError: the disk is full or refuses; what stood there before survives.
    """
    digest = hashlib.sha256()
    with partial.open("rb") as source, atomic_write(path, "export", ExportError) as target:
        while block := source.read(_COPY_BYTES):
            digest.update(block)
            target.write(block)
    card = {"version": CARD_VERSION, "file": path.name, "sha256": digest.hexdigest(), **_interface(spec), **facts}
    atomic_write_text(card_path(path), json.dumps(card, indent=2, ensure_ascii=False) + "\n", ExportError)


def _interface(spec: ExportSpec) -> dict[str, Any]:
    normal = "RGB scaled to 0..1, then (x - mean) / std"
    return {
        "views": list(spec.views),
        "precision": spec.precision,
        "input": {
            "name": "images",
            "shape": spec.input_shape,  # null: any number of pictures
            "layout": "batch, height, width, RGB" if spec.takes_pixels else "batch, RGB, height, width",
            "dtype": "uint8" if spec.takes_pixels else "float32",
            "pixels": "RGB 0..255; the file normalizes them" if spec.takes_pixels else normal,
            "cut_border": spec.cut_border,  # of each side, before the picture is resized by area to the shape
            "mean": list(spec.mean),
            "std": list(spec.std),
        },
        "output": {
            "name": "descriptor",
            "length": "1" if spec.unit_length else "any: divide by the Euclidean norm before comparing",
        },
    }
