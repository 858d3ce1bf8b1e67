"""Engines: one call, ``encode({side: images})`` -> named descriptors, whichever program computes them.

The engine of checkpoints runs an encoder's own Cells on MindSpore; engines of exported files are in ``exported.py``.
The recall descriptors of any engine can be reduced, and any two engines can be compared on the same images.

Shapes: B images of a batch, N images, D dimension as encoded.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from mindloc.descriptors.ranking import float64_rows
from mindloc.descriptors.reduction import Reduction
from mindloc.descriptors.sets import RECALL_DESCRIPTORS
from mindloc.errors import DataError
from mindloc.runtime.compilation import compiling


class Engine(Protocol):
    """What extraction, evaluation and search need to know about an encoder."""

    batch_size: int  # most images per call
    descriptors: tuple[str, ...]  # of each image: ("global",), or ("omega", "phi") and maybe "centroids"

    @property
    def facts(self) -> dict[str, Any]:
        """Facts about the engine for the card of a descriptor set.

        They are: engine (its name in ENGINES of registry.py), precision of its arithmetic ("fp32", "fp16", "bf16",
        "int8"), checkpoint_sha256 (None: weights in training); for exported files also their hashes, what runs them,
        and how far int8 agrees with fp32.
        """
        ...

    def encode(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Descriptors of normalized images.

        Args:
            batch: side -> (B, 3, H, W) float32, B at most ``batch_size``. It has been read when this returns, since
                the next batch may overwrite it.

        Returns:
            ``{side}.{descriptor}`` -> (B, D) float32, as the encoder computes them: a global one may have any length.

        Raises:
            DataError: a batch is empty or larger than ``batch_size``.
        """
        ...


class MindSporeEngine:
    """Runs an encoder's Cells, always with the same shapes, so that each side is compiled once.

    Args:
        encoder: a ``PairEncoder``; one that is in training is switched to evaluation during each call only.
        batch_size: a smaller batch is padded with copies of its last image; their descriptors are dropped.
    """

    name = "mindspore"

    def __init__(self, encoder: Any, batch_size: int, precision: str = "fp32", checkpoint_sha256: str | None = None):
        self.batch_size = batch_size
        self.descriptors = encoder.descriptors
        self.precision = precision
        self.checkpoint_sha256 = checkpoint_sha256
        self._encoder = encoder
        self._cells: dict[str, Any] = {}

    @property
    def facts(self) -> dict[str, Any]:
        return {"engine": self.name, "precision": self.precision, "checkpoint_sha256": self.checkpoint_sha256}

    def encode(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See ``Engine.encode``."""
        with evaluating(self._encoder):
            return {key: value for side, images in batch.items() for key, value in self._encode(side, images).items()}

    def _encode(self, side: str, image_B3HW: np.ndarray) -> dict[str, np.ndarray]:
        import mindspore as ms

        images = ms.Tensor(filled_batch(image_B3HW, self.batch_size, self.batch_size, side))
        cell = self._cell(side, images)
        outputs, count = cell(images), len(image_B3HW)
        return {name: rows.asnumpy()[:count].astype(np.float32) for name, rows in zip(cell.names, outputs, strict=True)}

    def _cell(self, side: str, images: Any) -> Any:
        """The Cell of a side, compiled for the shape of ``images`` when it is first needed."""
        from mindloc.models.encoder import PlainOutputs  # here, so that this module needs no MindSpore

        if side not in self._cells:
            side_encoder = self._encoder.side_encoder(side)
            self._cells[side] = PlainOutputs(side_encoder, *side_encoder.outputs)
            self._cells[side].set_train(False)
            with compiling():
                self._cells[side].compile(images)
        return self._cells[side]


@contextmanager
def evaluating(cell: Any) -> Iterator[None]:
    """Context in which a Cell is in evaluation mode; its end restores the previous mode, also after an error."""
    training = cell.training
    if training:
        cell.set_train(False)
    try:
        yield
    finally:
        if training:
            cell.set_train(True)


def filled_batch(image_B3HW: np.ndarray, most: int, size: int, side: str) -> np.ndarray:
    """The batch as contiguous float32, filled up to ``size`` with copies of its last image.

    Raises:
        DataError: the batch is empty or has more than ``most`` images.
    """
    count = len(image_B3HW)
    if not 0 < count <= most:
        raise DataError(
            f"a batch has {count} {side} images, but the engine takes 1 to {most}; pass that many at a time"
        )
    padding = np.repeat(image_B3HW[-1:], size - count, axis=0)
    full = np.concatenate([image_B3HW, padding]) if len(padding) else image_B3HW
    return np.ascontiguousarray(full, np.float32)


class ReducedEngine:
    """Any engine, with its recall descriptor (``omega`` or ``global``) reduced; other descriptors are not changed.

    Args:
        reduction: read from its file; fitted to descriptors of the engine's checkpoint, see ``require_origin``.
    """

    def __init__(self, engine: Engine, reduction: Reduction):
        self.unreduced, self._reduction = engine, reduction
        self.batch_size, self.descriptors = engine.batch_size, engine.descriptors

    @property
    def facts(self) -> dict[str, Any]:
        """See ``Engine.facts``; in addition reduction_sha256, which concerns only the recall descriptor."""
        return {**self.unreduced.facts, "reduction_sha256": self._reduction.sha256}

    def encode(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See ``Engine.encode``.

        Raises:
            DataError: also if the reduction was fitted to descriptors of a different dimension.
        """
        descriptors = self.unreduced.encode(batch)
        for side in batch:
            for name in RECALL_DESCRIPTORS:
                if f"{side}.{name}" in descriptors:
                    descriptors[f"{side}.{name}"] = self._reduction.project(descriptors[f"{side}.{name}"])
        return descriptors


@dataclass(frozen=True)
class Agreement:
    """How far two engines agree in one descriptor, image by image."""

    images: int
    cosine_min: float
    cosine_mean: float
    largest_difference: float  # between entries of descriptors of length 1

    def __str__(self) -> str:
        return (
            f"cosine {self.cosine_min:.6f} at least, {self.cosine_mean:.6f} on average, "
            f"entries within {self.largest_difference:.1e}, over {self.images} images"
        )


@dataclass(frozen=True)
class EngineAgreement:
    """How far two engines agree in all descriptors of the same images."""

    of_each: dict[str, Agreement]  # descriptor -> its agreement

    @property
    def facts(self) -> dict[str, Any]:
        """For cards: descriptor -> numbers."""
        return {name: asdict(agreement) for name, agreement in self.of_each.items()}

    def __str__(self) -> str:
        if len(self.of_each) == 1:
            return str(*self.of_each.values())
        return "; ".join(f"{name} {agreement}" for name, agreement in self.of_each.items())


def compare_descriptors(*pairs: tuple[np.ndarray, np.ndarray]) -> Agreement:
    """Agreement of descriptors of any length, row by row.

    Args:
        pairs: (N, D) of both engines; N and D may differ between pairs, and the rows of all pairs count.
    """
    cosines, differences = [], []
    for one_ND, other_ND in pairs:
        unit_ND, other_unit_ND = float64_rows(one_ND, True), float64_rows(other_ND, True)
        cosines.append((unit_ND * other_unit_ND).sum(1))
        differences.append(np.abs(unit_ND - other_unit_ND).max())
    cosine_N = np.concatenate(cosines)
    return Agreement(len(cosine_N), float(cosine_N.min()), float(cosine_N.mean()), float(max(differences)))


def compare_engines(one: Engine, other: Engine, batches: Iterable[tuple[str, np.ndarray]]) -> EngineAgreement:
    """Agreement of two engines on (side, normalized images) batches that both can take."""
    encoded = [(side, one.encode({side: images}), other.encode({side: images})) for side, images in batches]
    return EngineAgreement(
        {
            name: compare_descriptors(*((a[f"{side}.{name}"], b[f"{side}.{name}"]) for side, a, b in encoded))
            for name in one.descriptors
        }
    )
