"""One call, ``encode(batch) -> named descriptors``, whatever computes them.

Suffixes: B pictures of a batch, D dimension.

A Cell that is in training, evaluated for a while.

How far two engines agree on the same pictures.

Suffixes: N pictures, D dimension.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from mindloc.errors import DataError
from mindloc.runtime.compilation import compiling


@contextmanager
def evaluating(cell: Any) -> Iterator[None]:
    """Switch a Cell to evaluation and, whatever happens meanwhile, back to what it was."""
    training = cell.training
    if training:
        cell.set_train(False)
    try:
        yield
    finally:
        if training:
            cell.set_train(True)


class Engine(Protocol):
    """What extraction, evaluation and export need to know of an encoder."""

    batch_size: int  # most pictures per call
    descriptors: tuple[str, ...]  # what it makes of a picture: ("global",), or ("omega", "phi") and maybe "centroids"

    @property
    def facts(self) -> dict[str, Any]:
        """What the card of a descriptor set says of the engine.

        engine ("mindspore", "mindir", "onnx"), precision of its arithmetic ("fp32", "fp16", "bf16", "int8"),
        checkpoint_sha256 (None: weights that are in training); of exported files also their hashes, ONNX Runtime's
        provider, and how far int8 agrees with fp32.
        """
        ...

    def encode(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Descriptors of normalized pictures.

        Args:
            batch: view -> (B, 3, H, W) float32, B at most ``batch_size``; has been read when this returns, since the
                next batch may be written over it.

        Returns:
            ``{view}.{descriptor}`` -> (B, D) float32, as the encoder gives them: a global one of any length.
        """
        ...


class MindSporeEngine:
    """Runs an encoder's Cells, always with the same shapes, so that each view is compiled once.

    Args:
        encoder: a ``PairEncoder``; one that is in training is switched to evaluation during each call only.
        batch_size: a smaller batch is padded with copies of its last picture; their descriptors are dropped.
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
        """As ``Engine.encode``; raises DataError on a batch that is empty or larger than ``batch_size``."""
        with evaluating(self._encoder):
            return {key: value for view, images in batch.items() for key, value in self._encode(view, images).items()}

    def _encode(self, view: str, image_B3HW: np.ndarray) -> dict[str, np.ndarray]:
        import mindspore as ms

        images = ms.Tensor(filled_batch(image_B3HW, self.batch_size, self.batch_size, view))
        cell = self._cell(view, images)
        outputs, count = cell(images), len(image_B3HW)
        return {name: rows.asnumpy()[:count].astype(np.float32) for name, rows in zip(cell.names, outputs, strict=True)}

    def _cell(self, view: str, images: Any) -> Any:
        """The view's own Cell, compiled for these pictures when it is first asked for."""
        from mindloc.models.encoder import PlainOutputs  # here, so that this module needs no MindSpore

        if view not in self._cells:
            side_encoder = self._encoder.side_encoder(view)
            self._cells[view] = PlainOutputs(side_encoder, *side_encoder.outputs)
            self._cells[view].set_train(False)
            with compiling():
                self._cells[view].compile(images)
        return self._cells[view]


def filled_batch(image_B3HW: np.ndarray, most: int, size: int, view: str) -> np.ndarray:
    """The batch as contiguous float32, filled up to ``size`` with copies of its last picture.

    Raises:
        DataError: the batch is empty or has more than ``most`` pictures.
    """
    count = len(image_B3HW)
    if not 0 < count <= most:
        raise DataError(
            f"a batch of {count} {view} pictures for an engine that takes 1 to {most}; hand it that many at a time"
        )
    padding = np.repeat(image_B3HW[-1:], size - count, axis=0)
    full = np.concatenate([image_B3HW, padding]) if len(padding) else image_B3HW
    return np.ascontiguousarray(full, np.float32)


_SHORTEST = 1e-30  # a descriptor of zeros stays one


@dataclass(frozen=True)
class Agreement:
    """Of one descriptor of two engines, picture by picture."""

    pictures: int
    cosine_min: float
    cosine_mean: float
    largest_difference: float  # between entries of descriptors of length 1

    def __str__(self) -> str:
        return (
            f"cosine {self.cosine_min:.6f} at least, {self.cosine_mean:.6f} on average, "
            f"entries within {self.largest_difference:.1e}, over {self.pictures} pictures"
        )


@dataclass(frozen=True)
class EngineAgreement:
    """Of everything that two engines make of the same pictures."""

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
        pairs: (N, D) of both engines; of several pairs, each with its own N and D, all rows count.
    """
    cosines, differences = [], []
    for one_ND, other_ND in pairs:
        unit_ND, other_unit_ND = _unit(one_ND), _unit(other_ND)
        cosines.append((unit_ND * other_unit_ND).sum(1))
        differences.append(np.abs(unit_ND - other_unit_ND).max())
    cosine_N = np.concatenate(cosines)
    return Agreement(len(cosine_N), float(cosine_N.min()), float(cosine_N.mean()), float(max(differences)))


def compare_engines(one: Engine, other: Engine, batches: Iterable[tuple[str, np.ndarray]]) -> EngineAgreement:
    """Agreement of two engines on (view, normalized pictures) batches that both can take."""
    encoded = [(view, one.encode({view: images}), other.encode({view: images})) for view, images in batches]
    return EngineAgreement(
        {
            name: compare_descriptors(*((a[f"{view}.{name}"], b[f"{view}.{name}"]) for view, a, b in encoded))
            for name in one.descriptors
        }
    )


def _unit(matrix_ND: np.ndarray) -> np.ndarray:
    wide_ND = matrix_ND.astype(np.float64)
    return wide_ND / np.maximum(np.linalg.norm(wide_ND, axis=1, keepdims=True), _SHORTEST)
