"""Exported files as an engine: batches brought to what the file takes, descriptors brought back.

Suffixes: B pictures of a batch, D dimension.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from mindloc.errors import ExportError
from mindloc.inference.agreement import EngineAgreement, compare_engines
from mindloc.inference.engine import Engine, filled_batch
from mindloc.inference.exported import ExportedFile

RunFile = Callable[[np.ndarray], Sequence[np.ndarray]]  # pictures as the file takes them -> (B, D) of each descriptor


class ExportedEngine:
    """Runs one file per view, or one for both.

    Args:
        name, precision: for the cards of descriptor sets.
        files: view -> card of the file that encodes it.
        runs: view -> that file, opened.
        batch_size: most pictures per call, where the files take any number; a file with a fixed batch decides itself.
        facts: more to tell of the engine: of ONNX Runtime its provider and version ("runtime").
    """

    def __init__(
        self,
        name: str,
        precision: str,
        files: dict[str, ExportedFile],
        runs: dict[str, RunFile],
        batch_size: int,
        facts: dict[str, Any] | None = None,
    ):
        self.name, self.precision, self.files = name, precision, files
        self.batch_size = min(file.batch_size or batch_size for file in files.values())
        (self.descriptors,) = {file.descriptors for file in files.values()}
        (self.checkpoint_sha256,) = {file.checkpoint_sha256 for file in files.values()}
        self._runs, self._more = runs, dict(facts or {})

    def __str__(self) -> str:
        names = ", ".join(sorted({file.path.name for file in self.files.values()}))
        where = f" on {self._more['provider']} ({self._more['runtime']})" if "provider" in self._more else ""
        return f"{self.name} {self.precision}{where}, {names}, batches of at most {self.batch_size}"

    @property
    def facts(self) -> dict[str, Any]:
        """As ``Engine.facts``: engine, precision, checkpoint, the files with their hashes, and what else is known."""
        return {
            "engine": self.name,
            "precision": self.precision,
            "checkpoint_sha256": self.checkpoint_sha256,
            "exported": {v: {"file": file.path.name, "sha256": file.sha256} for v, file in self.files.items()},
            **self._more,
        }

    def compare_with(self, exact: Engine, batches: Iterable[tuple[str, np.ndarray]]) -> EngineAgreement:
        """How far it agrees with a more exact engine on (view, normalized pictures); one of its facts from then on."""
        agreement = compare_engines(exact, self, batches)
        self._more["agreement"] = {"with": exact.facts["precision"], **agreement.facts}
        return agreement

    def encode(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """As ``Engine.encode``.

        Raises:
            DataError: a batch that is empty or larger than ``batch_size``.
            ExportError: the file answers with other descriptors or shapes than its card says.
        """
        return {key: value for view, images in batch.items() for key, value in self._encode(view, images).items()}

    def _encode(self, view: str, image_B3HW: np.ndarray) -> dict[str, np.ndarray]:
        file, count = self.files[view], len(image_B3HW)
        size = file.batch_size or count
        full = filled_batch(image_B3HW, self.batch_size, size, view)
        outputs = self._runs[view](as_pixels(full, file.mean, file.std) if file.takes_pixels else full)
        got, expected = [rows.shape for rows in outputs], [(size, side) for side in file.dimensions.values()]
        if got != expected:
            said = f"{file.path} returns {_listed(got)} for {size} pictures; its card says {_listed(expected)}"
            raise ExportError(f"{said}: export again")
        named = zip(self.descriptors, outputs, strict=True)
        return {f"{view}.{name}": np.asarray(rows_BD[:count], np.float32) for name, rows_BD in named}


def _listed(shapes: Sequence[tuple[int, ...]]) -> str:
    return ("shape " if len(shapes) == 1 else "shapes ") + ", ".join(map(str, shapes))


def as_pixels(image_B3HW: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Normalized pictures as the uint8 (B, H, W, 3) that they were: exact, as pixels are whole numbers."""
    scale, shift = (np.array(values, np.float32) * 255.0 for values in (std, mean))
    pixels_BHW3 = np.ascontiguousarray(image_B3HW.transpose(0, 2, 3, 1)) * scale
    pixels_BHW3 += shift
    return np.clip(np.rint(pixels_BHW3, out=pixels_BHW3), 0, 255, out=pixels_BHW3).astype(np.uint8)
