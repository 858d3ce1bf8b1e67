"""An exported encoder of any format: its input and outputs, its comparison with the live encoder, its file and card.

Shapes: B images, D dimension, R images of all trial batches.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mindloc.errors import ExportError
from mindloc.inference.exported import CARD_VERSION, RunFile, card_path, input_shape, output_name
from mindloc.runtime.files import atomic_write, atomic_write_text
from mindloc.vocabulary import CENTROIDS, GLOBAL, PHI, SideName

_COPY_BYTES = 1 << 20
_OF_NODES = (PHI, CENTROIDS)  # descriptors that consist of nodes sorted by area
_DRAWS = 3  # maximum draws of random images to compare on, since nodes of equal area have no fixed order


@dataclass(frozen=True)
class ExportSpec:
    """Input and outputs of an exported encoder."""

    sides: dict[SideName, str]  # sides that the file encodes -> view of each
    size_px: tuple[int, int]  # height, width
    batch_size: int | None  # None: any
    mean: tuple[float, ...]  # of RGB pixels scaled to 0..1
    std: tuple[float, ...]
    descriptors: tuple[str, ...] = (GLOBAL,)  # in the order of the file's outputs
    cut_border: float = 0.0  # fraction that was cropped from each edge before resizing
    takes_pixels: bool = False  # uint8 (B, H, W, 3), normalized inside
    unit_length: bool = False  # a global descriptor is divided by its norm inside
    precision: str = "fp32"

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        return input_shape(self.batch_size, self.size_px, self.takes_pixels)

    @property
    def name(self) -> str:
        """Name of the encoder in messages: what its images show."""
        return " and ".join(self.sides.values())

    @property
    def divided(self) -> tuple[bool, ...]:
        """For each descriptor, whether the file divides it by its norm. Omega and Phi have length 1 already, and
        centroids are positions, which are not normalized."""
        return tuple(self.unit_length and name == GLOBAL for name in self.descriptors)

    def trial_batches(self, draw: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield batches of random images to compare on: (input of the file, input of the live encoder).

        One batch of the fixed size, or batches of 1, 2 and 3 images if any size is allowed. The images are normalized
        here in float64, independently of the graph.
        """
        random = np.random.default_rng(draw)
        for size in [self.batch_size] if self.batch_size else [1, 2, 3]:
            pixels = random.integers(0, 256, (size, *self.size_px, 3), dtype=np.uint8)
            normal = (pixels / 255.0 - np.array(self.mean)) / np.array(self.std)
            live = np.ascontiguousarray(normal.transpose(0, 3, 1, 2), np.float32)
            yield (pixels if self.takes_pixels else live), live


def compare(live: RunFile, exported: RunFile, spec: ExportSpec, tolerance: float) -> tuple[list[int], dict[str, Any]]:
    """Compare both encoders on random images. Returns (dimension of each descriptor, the comparison for the card).

    A difference is relative to the largest entry of its descriptor. Nodes whose areas are equal up to rounding may be
    swapped in Phi and the centroids, so an image on which these differ is replaced by another one, at most twice.

    Raises:
        ExportError: a difference exceeds ``tolerance`` or is NaN, or shapes differ.
    """
    dimensions, share_R = _differences(live, exported, spec, 0)
    for draw in range(1, _DRAWS):
        if not any(_exceeds(share_R[name], tolerance) for name in share_R if name in _OF_NODES):
            break
        for name, more_R in _differences(live, exported, spec, draw)[1].items():
            share_R[name] = (np.minimum if name in _OF_NODES else np.maximum)(share_R[name], more_R)
    for name, of_images_R in share_R.items():
        if _exceeds(of_images_R, tolerance):
            raise ExportError(
                f"the exported {spec.name} encoder's {output_name(name)} differs from the live one by "
                f"{of_images_R.max():.1e} of the largest entry, more than the allowed {tolerance:.0e}; nothing was "
                "written: try a different precision or MindSpore version"
            )
    of_each = {output_name(name): float(of_images_R.max()) for name, of_images_R in share_R.items()}
    check = {"compared": True, "largest_difference": max(of_each.values()), "of_each": of_each}
    return dimensions, {**check, "tolerance": tolerance, "relative_to": "largest entry"}


def _differences(
    live: RunFile, exported: RunFile, spec: ExportSpec, draw: int
) -> tuple[list[int], dict[str, np.ndarray]]:
    """(Dimension of each descriptor, descriptor -> largest difference of each image, shape (R,))."""
    shapes, shares = [], {name: [] for name in spec.descriptors}
    for fed, image_B3HW in spec.trial_batches(draw):
        expected, got = live(image_B3HW), exported(fed)
        shapes = [rows_BD.shape for rows_BD in expected]
        if [rows_BD.shape for rows_BD in got] != shapes:
            raise ExportError(
                f"the exported {spec.name} encoder returns shapes {[rows_BD.shape for rows_BD in got]}, "
                f"the live one {shapes}; this is a defect of the export: nothing was written"
            )
        for name, divided, expected_BD, got_BD in zip(spec.descriptors, spec.divided, expected, got, strict=True):
            if divided:
                expected_BD = expected_BD / np.linalg.norm(expected_BD, axis=1, keepdims=True)
            largest = max(float(np.abs(expected_BD).max()), 1e-30)
            shares[name].append(np.abs(got_BD - expected_BD).max(axis=1) / largest)
    return [width for _, width in shapes], {name: np.concatenate(parts) for name, parts in shares.items()}


def _exceeds(share_R: np.ndarray, tolerance: float) -> bool:
    return not share_R.max() <= tolerance  # also True for NaN


def publish(partial: Path, path: Path, spec: ExportSpec, dimensions: list[int], facts: dict[str, Any]) -> None:
    """Copy a checked file to ``path`` and write its card beside it.

    The card contains the file's sha256 and is written last: a file without a matching card is an unfinished export.

    Args:
        dimensions: dimension of each descriptor.
        facts: format, encryption, check, checkpoint_sha256, config, versions.

    Raises:
        ExportError: the disk is full or not writable; an older file is kept.
    """
    digest = hashlib.sha256()
    with partial.open("rb") as source, atomic_write(path, "export", ExportError) as target:
        while block := source.read(_COPY_BYTES):
            digest.update(block)
            target.write(block)
    card = {"version": CARD_VERSION, "file": path.name, "sha256": digest.hexdigest()}
    card |= {**_interface(spec, dimensions), **facts}
    atomic_write_text(card_path(path), json.dumps(card, indent=2, ensure_ascii=False) + "\n", ExportError)


def _interface(spec: ExportSpec, dimensions: list[int]) -> dict[str, Any]:
    normal = "RGB scaled to 0..1, then (x - mean) / std"
    return {
        "sides": spec.sides,
        "precision": spec.precision,
        "input": {
            "name": "images",
            "shape": spec.input_shape,  # null: any number of images
            "layout": "batch, height, width, RGB" if spec.takes_pixels else "batch, RGB, height, width",
            "dtype": "uint8" if spec.takes_pixels else "float32",
            "pixels": "RGB 0..255; the file normalizes them" if spec.takes_pixels else normal,
            "cut_border": spec.cut_border,  # of each edge, before the image is resized by area to the shape
            "mean": list(spec.mean),
            "std": list(spec.std),
        },
        "outputs": [
            {"name": output_name(name), "dimension": dimension, "length": _length(name, spec.unit_length)}
            for name, dimension in zip(spec.descriptors, dimensions, strict=True)
        ],
    }


def _length(descriptor: str, unit_length: bool) -> str:
    if descriptor == CENTROIDS:
        return "any: pairs (row, column) in 0..1 of the image's grid, compared as they are"
    one = descriptor != GLOBAL or unit_length
    return "1" if one else "any: divide by the Euclidean norm before comparing"
