"""An engine whose recall descriptors leave in fewer numbers: projected by a reduction that was fitted beforehand.

Suffixes: N rows, B pictures of a batch, D dimension as encoded, E dimension afterwards.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from mindloc.errors import TileIndexError
from mindloc.inference.agreement import EngineAgreement
from mindloc.inference.engine import Engine
from mindloc.inference.exported import ExportedFile
from mindloc.retrieval.descriptor_set import RECALL_DESCRIPTORS
from mindloc.retrieval.reduction import Reduction


class ReducedEngine:
    """Any engine, with ``omega`` (or ``global``) reduced; its other descriptors are left as they are.

    Args:
        reduction: from its file, fitted to descriptors of the engine's checkpoint.

    Raises:
        TileIndexError: the reduction was fitted to descriptors of another checkpoint.
    """

    def __init__(self, engine: Engine, reduction: Reduction):
        require_origin(reduction, engine.facts["checkpoint_sha256"])
        self._engine, self._reduction = engine, reduction
        self.batch_size, self.descriptors = engine.batch_size, engine.descriptors

    @property
    def facts(self) -> dict[str, Any]:
        """As ``Engine.facts``, and reduction_sha256."""
        return {**self._engine.facts, "reduction_sha256": self._reduction.sha256}

    @property
    def files(self) -> dict[str, ExportedFile]:
        """Those of an engine of exported files."""
        return self._engine.files

    def compare_with(self, exact: Engine, batches: Iterable[tuple[str, np.ndarray]]) -> EngineAgreement:
        """As ``ExportedEngine.compare_with``, before the reduction."""
        return self._engine.compare_with(exact, batches)

    def encode(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """As ``Engine.encode``.

        Raises:
            TileIndexError: moreover, descriptors of another dimension than the reduction was fitted to.
        """
        descriptors = self._engine.encode(batch)
        for view in batch:
            for name in RECALL_DESCRIPTORS:
                if f"{view}.{name}" in descriptors:
                    descriptors[f"{view}.{name}"] = reduce_rows(self._reduction, descriptors[f"{view}.{name}"])
        return descriptors


def reduce_rows(reduction: Reduction, descriptor_ND: np.ndarray) -> np.ndarray:
    """(N, E) float32, of unit length.

    Raises:
        TileIndexError: descriptors of another dimension than the reduction was fitted to.
    """
    expected = len(reduction.mean_D)
    if descriptor_ND.shape[1] != expected:
        raise TileIndexError(
            f"the reduction takes descriptors of dimension {expected}, these have {descriptor_ND.shape[1]}; leave the "
            "size of the pictures as it was, or fit another: python -m mindloc pca"
        )
    return reduction.project(descriptor_ND)


def require_origin(reduction: Reduction, checkpoint_sha256: str | None) -> None:
    """Refuse a reduction that belongs to another encoder.

    Raises:
        TileIndexError: naming both checkpoints.
    """
    if reduction.checkpoint_sha256 != checkpoint_sha256:
        fitted, given = ((sha256 or "none")[:12] for sha256 in (reduction.checkpoint_sha256, checkpoint_sha256))
        raise TileIndexError(
            f"the reduction was fitted to descriptors of checkpoint {fitted}, these are of checkpoint {given}; "
            "take the reduction of this one, or fit it: python -m mindloc pca"
        )
