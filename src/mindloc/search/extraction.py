"""Read an extraction as queries or as tiles of an index; recall descriptors are reduced if requested.

Shapes: B rows of one batch, D width of the recall descriptor (reduced if requested), E width of the re-rank descriptor.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mindloc.descriptors.reduction import Reduction, load_reduction, require_origin
from mindloc.descriptors.sets import RECALL_DESCRIPTORS, DescriptorSet, load_descriptor_sets
from mindloc.errors import TileIndexError
from mindloc.search.index import IndexCard, Tiles, read_index_card
from mindloc.vocabulary import PHI

_BATCH_NUMBERS = 2**21  # float32 of both descriptors: 8 MB, so that a progress bar moves


class Batch(NamedTuple):
    """Some rows of an extraction."""

    names: list[str]
    recall_BD: np.ndarray
    rerank_BE: np.ndarray | None


class Queries(NamedTuple):
    """What is known about queries before the first one is encoded or read."""

    count: int
    checkpoint_sha256: str | None
    reduction_sha256: str | None
    dimension: int | None  # of the recall vectors; None: known when the first one is encoded
    has_rerank: bool


@dataclass(frozen=True)
class Extracted:
    """The sets of one extraction; a one-stage encoder has no set to re-rank with."""

    recall: DescriptorSet
    rerank: DescriptorSet | None
    reduction: Reduction | None  # still to be applied to the recall descriptors

    @property
    def count(self) -> int:
        return self.recall.count

    @property
    def checkpoint_sha256(self) -> str | None:
        return self.recall.card.get("checkpoint_sha256")

    @property
    def reduction_sha256(self) -> str | None:
        return self.reduction.sha256 if self.reduction else self.recall.card.get("reduction_sha256")

    @property
    def dimension(self) -> int:
        """Width of the recall descriptors that ``batches`` yields."""
        return self.reduction.dimension if self.reduction else self.recall.card["dimension"]

    @property
    def queries(self) -> Queries:
        """These images as the queries of a search."""
        origin = (self.checkpoint_sha256, self.reduction_sha256)
        return Queries(self.count, *origin, self.dimension, self.rerank is not None)

    def index_card(self, kind: str) -> IndexCard:
        """The card of an index built from these rows.

        Raises:
            TileIndexError: the cards of the sets contain values of a wrong type.
        """
        facts = {
            "kind": kind,
            "descriptor": self.recall.descriptor,
            "dimension": self.dimension,
            "rerank_dimension": self.rerank.card["dimension"] if self.rerank else None,
            "nodes": self.rerank.card.get("nodes") if self.rerank else None,
            "place_unit": self.recall.card["place_unit"],
            "checkpoint_sha256": self.checkpoint_sha256,
            "reduction_sha256": self.reduction_sha256,
        }
        card = read_index_card(facts)
        if card is None:
            said = ", ".join(f"{name} {value!r}" for name, value in facts.items())
            raise TileIndexError(f"cards of the extraction contain a value of a wrong type ({said}); extract it again")
        return card

    def batches(self) -> Iterator[Batch]:
        """All rows in order, a few megabytes at a time."""
        names = self.recall.names
        for rows in self._slices():
            recall_BD = self.recall.descriptor_ND[rows]
            if self.reduction:
                recall_BD = self.reduction.project(recall_BD)
            yield Batch(names[rows], recall_BD, self.rerank.descriptor_ND[rows] if self.rerank else None)

    def tiles(self) -> Iterator[Tiles]:
        """All rows as tiles, in the batches of ``batches``."""
        place_N2, bounds_N4 = self.recall.place_N2(), self.recall.bounds_N4()
        for rows, batch in zip(self._slices(), self.batches(), strict=True):
            yield Tiles(*batch, place_N2[rows], bounds_N4[rows])

    def _slices(self) -> Iterator[slice]:
        width = self.recall.card["dimension"] + (self.rerank.card["dimension"] if self.rerank else 0)
        step = max(1, _BATCH_NUMBERS // width)
        return (slice(start, start + step) for start in range(0, self.count, step))


def load_extracted(directory: Path, pca: Path | None = None) -> Extracted:
    """Read an extraction from its directory.

    Args:
        pca: file of the reduction to apply to the recall descriptors.

    Raises:
        DataError: a set is missing or damaged, or two don't belong together; the reduction is damaged or of a different
            encoder.
        TileIndexError: there are no recall descriptors, or ``pca`` is given and they are already reduced.
    """
    sets = load_descriptor_sets(directory)
    recall = next((sets[name] for name in RECALL_DESCRIPTORS if name in sets), None)
    if recall is None:
        raise TileIndexError(
            f"{directory} contains only {', '.join(sets)}; name the directory that extract wrote, with omega in it"
        )
    reduction = None
    if pca is not None:
        if recall.card.get("reduction_sha256"):
            raise TileIndexError(f"{directory} was reduced when it was extracted; leave --pca out")
        reduction = load_reduction(pca)
        require_origin(reduction, recall.card.get("checkpoint_sha256"))
    return Extracted(recall, sets.get(PHI), reduction)
