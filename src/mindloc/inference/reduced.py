"""An engine whose recall descriptors leave in fewer numbers: projected by a reduction that was fitted beforehand.

Suffixes: N rows, B pictures of a batch, D dimension as encoded, E dimension afterwards.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from mindloc.inference.agreement import EngineAgreement
from mindloc.inference.engine import Engine
from mindloc.inference.exported import ExportedFile
from mindloc.retrieval.descriptor_set import RECALL_DESCRIPTORS
from mindloc.retrieval.reduction import Reduction, require_origin


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
        """As ``Engine.facts``, and reduction_sha256, which is of the recall descriptor alone."""
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
                    descriptors[f"{view}.{name}"] = self._reduction.project(descriptors[f"{view}.{name}"])
        return descriptors
