"""Encode images to descriptor sets on disk, from which all scores are computed, or to the queries of a search.

Shapes: B images of this rank's batch, G of all ranks' batches, D dimension, N names.
"""

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from mindloc.descriptors.sets import (
    RECALL_DESCRIPTORS,
    DescriptorWriter,
    make_rows,
)
from mindloc.errors import DataError
from mindloc.inference.engine import Engine
from mindloc.runtime.cluster import ALONE, Cluster
from mindloc.runtime.compilation import compiled_s
from mindloc.runtime.console import progress_bar
from mindloc.runtime.process import fault_point
from mindloc.search.extraction import Batch
from mindloc.vocabulary import PHI, SideName

Item = TypeVar("Item")
_NONE: Mapping[int, str] = MappingProxyType({})


@dataclass(frozen=True)
class Extraction:
    """Result of an extraction: number of images, time, and images left out."""

    count: int
    seconds: float  # to read, decode and encode the images, without compiling
    compile_s: float = 0.0
    left_out: Mapping[str, str] = field(default_factory=dict)  # images that could not be read: name -> problem

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
    left_out: Mapping[int, str] = _NONE,
) -> Extraction:
    """Encode every image and write one set for each descriptor; the sets appear together when all are complete.

    An older extraction in the directory is replaced. Each card names its extraction, so that sets of two different
    extractions can be distinguished.

    Args:
        batches: (images (B, 3, H, W) float32, number of real images). With one rank: all of ``names``, in order. With
            several ranks: the rows that ``rows_of_rank`` gives to the first rank, which is the one that calls this;
            the other ranks call ``help_extract``.
        place_N2, bounds_N4: places, and the area that each image covers, in ``facts["place_unit"]``; None if unknown.
        directory: of the set; with several descriptors, the directory that contains their sets.
        facts: for the card, besides the facts of the engine: view, place_unit, config, ...
        left_out: positions in ``names`` that the batches so far left out; see ``ImageBatches``.

    Raises:
        DataError: there are fewer images than names, a descriptor contains NaN, or the directory contains something
            else.
    """
    view = facts["view"]
    card = {"extraction": uuid.uuid4().hex, **engine.facts, **facts}
    rows = make_rows(names, place_N2, bounds_N4)
    started, compiled, done = time.perf_counter(), compiled_s(), 0
    bar = progress_bar(total=len(rows), desc=f"{view} descriptors", unit="img")
    cards = {name: _card_of(name, card) for name in engine.descriptors}
    with bar, DescriptorWriter(directory, cards) as writer:
        remaining = _kept(rows, left_out)
        for image_B3HW, count in batches:
            encoded = engine.encode({side: image_B3HW[:count]})
            gathered = {name: cluster.gather(encoded[f"{side}.{name}"]) for name in cards}
            part = list(islice(remaining, len(next(iter(gathered.values())))))
            if cluster.size > 1:  # the end is padded
                gathered = {name: descriptor_GD[: len(part)] for name, descriptor_GD in gathered.items()}
            writer.append(gathered, part)
            done += len(part)
            bar.update(len(part))
            fault_point("extract.mid")
        if done + len(left_out) != len(rows):
            raise DataError(
                f"{done} {view} images were read for {len(rows)} names; the files were changed meanwhile: start again"
            )
    compiled = compiled_s() - compiled
    return Extraction(done, time.perf_counter() - started - compiled, compiled)


def _kept(items: Iterable[Item], left_out: Mapping[int, str]) -> Iterator[Item]:
    """Items whose position is not in ``left_out`` at the time when the item is taken."""
    return (item for position, item in enumerate(items) if position not in left_out)


def _card_of(descriptor: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Facts for the card of one set; only the sets of recall descriptors have a reduction."""
    foreign = () if descriptor in RECALL_DESCRIPTORS else ("reduction_sha256",)
    return {**{name: value for name, value in facts.items() if name not in foreign}, "descriptor": descriptor}


def help_extract(engine: Engine, side: SideName, batches: Iterable[tuple[np.ndarray, int]], cluster: Cluster) -> None:
    """Encode the images of this rank for the first rank, which calls ``extract`` at the same time."""
    for image_B3HW, count in batches:
        descriptors = engine.encode({side: image_B3HW[:count]})
        for name in engine.descriptors:
            cluster.gather(descriptors[f"{side}.{name}"])


def rows_of_rank(count: int, batch_size: int, cluster: Cluster) -> np.ndarray:
    """The positions of the images that a rank encodes, among ``count`` images.

    The batches of all ranks, one after the other, are in order. Every rank has the same number of whole batches; beyond
    the end the last image is repeated.
    """
    if cluster.size == 1:
        return np.arange(count)
    rounds = -(-count // (batch_size * cluster.size))
    row_of = np.arange(rounds * cluster.size * batch_size).reshape(rounds, cluster.size, batch_size)
    return np.minimum(row_of[:, cluster.rank].reshape(-1), count - 1)


def encoded_queries(
    engine: Engine,
    side: SideName,
    batches: Iterable[tuple[np.ndarray, int]],
    names: Sequence[str],
    left_out: Mapping[int, str] = _NONE,
) -> Iterator[Batch]:
    """Yield the descriptors of images, each batch encoded when it is taken.

    Args:
        batches: (images (B, 3, H, W) float32, number of real images), all of ``names``, in order.
        left_out: as in ``extract``.

    Raises (while iterating):
        DataError: all images were left out.
    """
    remaining = _kept(names, left_out)
    for image_B3HW, count in batches:
        encoded = engine.encode({side: image_B3HW[:count]})
        recall_BD = encoded[f"{side}.{engine.descriptors[0]}"]
        yield Batch(list(islice(remaining, count)), recall_BD, encoded.get(f"{side}.{PHI}"))
    if left_out and len(left_out) == len(names):
        raise DataError(f"none of {len(names)} images can be read; the first: {next(iter(left_out.values()))}")
