"""Images to descriptor sets on disk, once, from which every number is computed; or to the queries of a search.

Shapes: B images of this rank's batch, G of all ranks' batches, D dimension, N names.
"""

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mindloc.descriptors.sets import (
    RECALL_DESCRIPTORS,
    DescriptorWriter,
    make_rows,
    remove_other_sets,
    set_directory,
)
from mindloc.errors import DataError
from mindloc.inference.engine import Engine
from mindloc.runtime.cluster import ALONE, Cluster
from mindloc.runtime.compilation import compiled_s
from mindloc.runtime.console import progress_bar
from mindloc.runtime.process import fault_point
from mindloc.search.extraction import Batch
from mindloc.vocabulary import PHI, SideName


@dataclass(frozen=True)
class Extraction:
    """How long a set took."""

    count: int
    seconds: float  # images read, decoded and encoded, without compiling
    compile_s: float = 0.0

    @property
    def images_per_s(self) -> float:
        return self.count / self.seconds

    def __str__(self) -> str:
        compiling = f", after {self.compile_s:.1f} s of compiling" if self.compile_s else ""
        return f"{self.count} images in {self.seconds:.1f} s ({self.images_per_s:.1f} images/s){compiling}"


def extract(
    engine: Engine,
    side: SideName,
    batches: Iterable[tuple[np.ndarray, int]],
    names: list[str],
    place_N2: np.ndarray | None,
    directory: str | Path,
    facts: dict[str, Any],
    cluster: Cluster = ALONE,
    bounds_N4: np.ndarray | None = None,
) -> Extraction:
    """Encode every image and write one set for each descriptor; they appear when all are done, one after the other.

    An older extraction in the directory is replaced. Each card names its extraction, so that sets of two different
    extractions can be distinguished.

    Args:
        batches: (images (B, 3, H, W) float32, number of real ones). On one rank all of ``names``, in order; on
            several the rows that ``rows_of_rank`` gives to the first, which calls this; the others ``help_extract``.
        place_N2, bounds_N4: places, and what each image covers, in ``facts["place_unit"]``; None if unknown.
        directory: the set itself, or of several descriptors the directory of their sets.
        facts: for the card, beside what the engine says of itself: view, place_unit, config, ...

    Raises:
        DataError: fewer images than names, a descriptor with NaN, or a directory that contains something else.
    """
    if len(engine.descriptors) > 1 and (Path(directory) / "card.json").exists():
        raise DataError(
            f"{directory} is itself the set of an encoder with one descriptor, so it can't contain several; give a new "
            "directory"
        )
    view = facts["view"]
    card = {"extraction": uuid.uuid4().hex, **engine.facts, **facts}
    rows = make_rows(names, place_N2, bounds_N4)
    started, compiled, done = time.perf_counter(), compiled_s(), 0
    bar = progress_bar(total=len(rows), desc=f"{view} descriptors", unit="img")
    with bar, ExitStack() as stack:
        writers = {
            name: stack.enter_context(DescriptorWriter(set_directory(directory, name), _card_of(name, card)))
            for name in engine.descriptors
        }
        for image_B3HW, count in batches:
            descriptors = engine.encode({side: image_B3HW[:count]})
            remaining = rows[done:]
            for name, writer in writers.items():
                descriptor_GD = cluster.gather(descriptors[f"{side}.{name}"])
                if cluster.size > 1:
                    descriptor_GD = descriptor_GD[: len(remaining)]  # beyond the end the last image is repeated
                writer.append(descriptor_GD, remaining[: len(descriptor_GD)])
            done += len(descriptor_GD)
            bar.update(len(descriptor_GD))
            fault_point("extract.mid")
        if done != len(rows):
            raise DataError(f"{done} {view} images came for {len(rows)} names; check the data set with: check-data")
    remove_other_sets(directory, engine.descriptors)
    compiled = compiled_s() - compiled
    return Extraction(done, time.perf_counter() - started - compiled, compiled)


def _card_of(descriptor: str, facts: dict[str, Any]) -> dict[str, Any]:
    """One set's own facts; a reduction is of recall descriptors alone."""
    foreign = () if descriptor in RECALL_DESCRIPTORS else ("reduction_sha256",)
    return {**{name: value for name, value in facts.items() if name not in foreign}, "descriptor": descriptor}


def help_extract(engine: Engine, side: SideName, batches: Iterable[tuple[np.ndarray, int]], cluster: Cluster) -> None:
    """What the other ranks do while the first one extracts: encode their images and hand them over."""
    for image_B3HW, count in batches:
        descriptors = engine.encode({side: image_B3HW[:count]})
        for name in engine.descriptors:
            cluster.gather(descriptors[f"{side}.{name}"])


def rows_of_rank(count: int, batch_size: int, cluster: Cluster) -> np.ndarray:
    """Which of ``count`` images a rank encodes, so that the ranks' batches, one after the other, are in order.

    Every rank gets the same number of whole batches; beyond the end the last image is repeated.
    """
    if cluster.size == 1:
        return np.arange(count)
    rounds = -(-count // (batch_size * cluster.size))
    row_of = np.arange(rounds * cluster.size * batch_size).reshape(rounds, cluster.size, batch_size)
    return np.minimum(row_of[:, cluster.rank].reshape(-1), count - 1)


def encoded_queries(
    engine: Engine, side: SideName, batches: Iterable[tuple[np.ndarray, int]], names: Sequence[str]
) -> Iterator[Batch]:
    """The descriptors of images, encoded as they are taken.

    Args:
        batches: (images (B, 3, H, W) float32, number of real ones), all of ``names``, in order.
    """
    done = 0
    for image_B3HW, count in batches:
        encoded = engine.encode({side: image_B3HW[:count]})
        recall_BD = encoded[f"{side}.{engine.descriptors[0]}"]
        yield Batch(list(names[done : done + count]), recall_BD, encoded.get(f"{side}.{PHI}"))
        done += count
