"""One call, ``encode(batch) -> named descriptors``, whatever computes them.

Suffixes: B pictures of a batch, D dimension.
"""

from typing import Any, Protocol

import numpy as np

from mindloc.errors import DataError
from mindloc.runtime.compile_time import compiling
from mindloc.runtime.evaluation_mode import evaluating


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
        encoder: a ``TwoViewEncoder``; one that is in training is switched to evaluation during each call only.
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
        from mindloc.inference.plain_outputs import PlainOutputs  # here, so that this module needs no MindSpore

        if view not in self._cells:
            view_encoder = self._encoder.view_encoder(view)
            self._cells[view] = PlainOutputs(view_encoder, *view_encoder.outputs)
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
