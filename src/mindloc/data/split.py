"""``Split``, the result of a reader: files, places and overlaps, without pixels.

A pair has a query side and a reference side; ``Side.view`` names what the images of a side show.

Shapes: Q images of the query side, N of either side, E edges (overlaps), P pairs, 2 the two coordinates of a place.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mindloc.errors import DataError
from mindloc.geo.points import PlaceUnit
from mindloc.reading import checksum
from mindloc.vocabulary import PairMode, SideName

_ORDER_SEED = 20240925  # fixed: the subset belongs to the data, not to a run's seed


@dataclass(frozen=True)
class Places:
    """The place of each image of a side: the position of the camera, or the center of the ground."""

    coordinate_N2: np.ndarray  # float64
    unit: PlaceUnit  # plane_m: [x, y], y down, meters; lat_lon_deg: [latitude, longitude]

    def take(self, index_N: np.ndarray) -> "Places":
        """Places of some images, in the given order."""
        return Places(self.coordinate_N2[index_N], self.unit)


@dataclass(frozen=True)
class Side:
    """The images of one side of a split."""

    view: str  # "drone", "satellite", ...; see vocabulary.py
    files: list[str]  # relative to the split's root, with forward slashes
    places: Places | None = None  # None: unknown

    def __len__(self) -> int:
        return len(self.files)

    @property
    def place_unit(self) -> PlaceUnit | None:
        return self.places.unit if self.places else None

    def take(self, index_N: np.ndarray) -> "Side":
        """Some of the images, in the given order."""
        places = self.places.take(index_N) if self.places else None
        return Side(self.view, [self.files[index] for index in index_N], places)


@dataclass(frozen=True)
class Edges:
    """Overlaps of query images with reference images, stored by query (compressed sparse rows).

    The references of query q are ``reference[start[q]:start[q + 1]]``, in file order. Each array in ``columns`` has
    one value per edge: "iou" is the intersection over union of the ground footprints, 0..1.
    """

    start: np.ndarray  # (Q+1,) int64
    reference: np.ndarray  # (E,) int32
    columns: dict[str, np.ndarray]  # name -> (E, ...), targets that a loss may read

    def __len__(self) -> int:
        return len(self.reference)

    @property
    def query_count(self) -> int:
        return len(self.start) - 1

    def query(self) -> np.ndarray:
        """(E,) int32: the query of every edge."""
        return np.repeat(np.arange(self.query_count, dtype=np.int32), np.diff(self.start))

    def pairs(self) -> np.ndarray:
        """(E,2) int32 [query, reference] of every edge."""
        return np.stack([self.query(), self.reference], axis=1)

    def references_of(self, query: int) -> np.ndarray:
        return self.reference[self.start[query] : self.start[query + 1]]

    def take(self, query_N: np.ndarray) -> "Edges":
        """The edges of some queries, renumbered in the given order."""
        count_N = np.diff(self.start)[query_N]
        start = np.concatenate([[0], np.cumsum(count_N)])
        edge = np.repeat(self.start[query_N] - start[:-1], count_N) + np.arange(start[-1])
        return Edges(start, self.reference[edge], {name: values[edge] for name, values in self.columns.items()})

    def swapped(self, reference_count: int) -> "Edges":
        """These edges with exchanged sides: stored by reference, the queries of each reference in ascending order."""
        order = np.argsort(self.reference, kind="stable")
        start = np.zeros(reference_count + 1, np.int64)
        np.cumsum(np.bincount(self.reference, minlength=reference_count), out=start[1:])
        return Edges(start, self.query()[order], {name: values[order] for name, values in self.columns.items()})


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    The reference side has EVERY image that can be an answer, sorted, including those without a pair.
    """

    root: Path
    query: Side
    reference: Side
    positive: Edges
    semipositive: Edges  # including the positives

    def side(self, name: SideName) -> Side:
        return self.query if name == "query" else self.reference

    def paths(self, name: SideName) -> list[Path]:
        return [self.root / file for file in self.side(name).files]

    def edges(self, mode: PairMode) -> Edges:
        """Overlaps that count as correct in ``mode``: positives only, or positives and semi-positives."""
        if mode == "pos":
            return self.positive
        if mode == "pos_semipos":
            return self.semipositive
        raise ValueError(f"pair mode is {mode!r}; expected pos or pos_semipos")

    def take_queries(self, query_N: np.ndarray) -> "Split":
        """The split with some of its queries, in the given order, and the whole reference side."""
        return replace(
            self,
            query=self.query.take(query_N),
            positive=self.positive.take(query_N),
            semipositive=self.semipositive.take(query_N),
        )


def split_checksum(split: Split, mode: PairMode) -> str:
    """Checksum of what determines a training run in ``mode``: names and places of images, pairs, columns."""
    whole = checksum(repr([mode, split.query.files, split.reference.files]).encode())
    for edges in (split.edges(mode), split.semipositive):  # all overlaps decide which pairs may share a batch
        columns = (edges.columns[name] for name in sorted(edges.columns))
        for array in (edges.start, edges.reference, *columns):
            whole.update(np.ascontiguousarray(array).data)
    for places in (split.query.places, split.reference.places):
        if places is not None:
            whole.update(np.ascontiguousarray(places.coordinate_N2).data)
    return whole.hexdigest()


def share_of_queries(split: Split, ratio: float) -> Split:
    """The split with a fraction ``ratio`` of its queries, in file order; every call selects the same ones.

    A smaller fraction is a subset of every larger one, so that runs with increasing fractions are comparable.

    Raises:
        DataError: the ratio is not in (0, 1], or no pair is left.
    """
    if not 0 < ratio <= 1:
        raise DataError(f"data.train_ratio is {ratio}; expected a number above 0, at most 1")
    if ratio == 1:
        return split
    total = len(split.query)
    kept = np.random.default_rng(_ORDER_SEED).permutation(total)[: max(1, round(ratio * total))]
    part = split.take_queries(np.sort(kept))
    if not len(part.semipositive):
        raise DataError(
            f"data.train_ratio={ratio} leaves {len(kept)} of {total} {split.query.view} images and no pair; "
            "set a larger fraction"
        )
    return part
