"""Pictures to a descriptor set on disk, once; every number is computed from the set.

Letters: B pictures of this rank's batch, G of all ranks' batches, D channels, N names.
"""

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mindloc.errors import DataError
from mindloc.inference.engine import Engine
from mindloc.retrieval.descriptor_set import DescriptorWriter, make_rows
from mindloc.runtime.cluster import ALONE, Cluster
from mindloc.runtime.faults import fault_point


@dataclass(frozen=True)
class Extraction:
    """How long a set took."""

    count: int
    seconds: float  # pictures read, decoded and encoded; the first batch includes compiling

    @property
    def images_per_s(self) -> float:
        return self.count / self.seconds

    def __str__(self) -> str:
        return f"{self.count} pictures in {self.seconds:.1f} s ({self.images_per_s:.1f} images/s)"


def extract(
    engine: Engine,
    view: str,
    batches: Iterable[tuple[np.ndarray, int]],
    names: list[str],
    place_N2: np.ndarray | None,
    folder: str | Path,
    facts: dict[str, Any],
    progress: bool = True,
    cluster: Cluster = ALONE,
) -> Extraction:
    """Encode every picture and write the set; the folder appears when all are done.

    Args:
        batches: (pictures (B, 3, H, W) float32, number of real ones). On one rank all of ``names``, in order; on
            several the rows that ``rows_of_rank`` gives to the first, which calls this; the others ``help_extract``.
        place_N2: places in ``facts["place_unit"]``; None where nobody knows them.
        facts: for the card, beside what the engine says of itself: place_unit, config, ...
        progress: a bar on a terminal, nothing elsewhere.

    Raises:
        DataError: fewer pictures than names, or a descriptor with NaN.
    """
    card = {"view": view, **engine.facts, **facts}
    rows = make_rows(names, place_N2, view)
    started, done = time.perf_counter(), 0
    bar = tqdm(total=len(rows), desc=f"{view} descriptors", unit="img", disable=not (progress and sys.stderr.isatty()))
    with bar, DescriptorWriter(folder, card) as writer:
        for image_B3HW, count in batches:
            descriptors = engine.encode({view: image_B3HW[:count]})
            descriptor_GD = cluster.gather(descriptors[f"{view}.global"])
            if cluster.size > 1:
                descriptor_GD = descriptor_GD[: len(rows) - done]  # behind the end the last picture is repeated
            writer.append(descriptor_GD, rows[done : done + len(descriptor_GD)])
            done += len(descriptor_GD)
            bar.update(len(descriptor_GD))
            fault_point("extract.mid")
        if done != len(rows):
            raise DataError(f"{done} {view} pictures came for {len(rows)} names; check the data set with: check-data")
    return Extraction(done, time.perf_counter() - started)


def help_extract(engine: Engine, view: str, batches: Iterable[tuple[np.ndarray, int]], cluster: Cluster) -> None:
    """What the other ranks do while the first one extracts: encode their pictures and hand them over."""
    for image_B3HW, count in batches:
        cluster.gather(engine.encode({view: image_B3HW[:count]})[f"{view}.global"])


def rows_of_rank(count: int, batch_size: int, cluster: Cluster) -> np.ndarray:
    """Which of ``count`` pictures a rank encodes, so that the ranks' batches, one after the other, are in order.

    Every rank gets the same number of whole batches; behind the end the last picture is repeated.
    """
    if cluster.size == 1:
        return np.arange(count)
    rounds = -(-count // (batch_size * cluster.size))
    row_of = np.arange(rounds * cluster.size * batch_size).reshape(rounds, cluster.size, batch_size)
    return np.minimum(row_of[:, cluster.rank].reshape(-1), count - 1)
