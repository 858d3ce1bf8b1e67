"""Neighbor tables for hard-negative mining: nearest on the map, or nearest by the encoder's current descriptors.

Tables by descriptors are computed before each epoch that needs a new one, and saved with the checkpoints.

Shapes: P pairs, Q query images of the split, N images of a side that have a pair, E overlaps or other excluded cells,
K neighbors, B queries of a block, D embedding dimension.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mindloc.data.hard_negatives import NO_NEIGHBOR, NeighborTables
from mindloc.data.split import Places, Split
from mindloc.descriptors.ranking import float64_rows
from mindloc.descriptors.sets import RECALL_DESCRIPTORS, load_descriptor_set, set_directory
from mindloc.errors import CheckpointError, DataError
from mindloc.geo.points import EARTH_RADIUS_M, PlaceUnit
from mindloc.inference.engine import Engine
from mindloc.inference.extract import extract, help_extract, rows_of_rank
from mindloc.runtime.checkpoint import State
from mindloc.runtime.cluster import Cluster
from mindloc.training.resume import Progress, older_checkpoint
from mindloc.vocabulary import SIDES, SideName

_BLOCK_SCORES = 2**24  # in memory at a time, with their indices: 192 MB in float32, 256 MB in float64


class PairedImages:
    """The query and reference images of a split that have a pair, and all overlaps among them.

    References without a pair, such as those of a test area, are never neighbors: no batch can contain them.
    """

    def __init__(self, split: Split, pair_P2: np.ndarray, k: int):
        self.split, self.k = split, k
        self.index = {"query": np.unique(pair_P2[:, 0]), "reference": np.unique(pair_P2[:, 1])}
        self.pairs_sha256 = hashlib.sha256(np.ascontiguousarray(pair_P2).tobytes()).hexdigest()
        edges = split.semipositive
        row_E = _position(self.index["query"], len(split.query.files))[edges.query()]
        column_E = _position(self.index["reference"], len(split.reference.files))[edges.reference]
        among = (row_E >= 0) & (column_E >= 0)
        self._overlap = (row_E[among], column_E[among])

    def names(self, side: SideName) -> list[str]:
        """Files of the paired images of one side, relative to the root of the data set."""
        files = self.split.side(side).files
        return [files[index] for index in self.index[side]]

    def places(self, side: SideName) -> Places | None:
        """Places of the paired images of one side; None if unknown."""
        places = self.split.side(side).places
        return places and places.take(self.index[side])

    def near_on_map(self) -> np.ndarray:
        """(Q, K) int32 references by increasing distance, without overlaps, padded with ``NO_NEIGHBOR``.

        Raises:
            DataError: a side has no places.
        """
        queries, references = self.places("query"), self.places("reference")
        if queries is None or references is None:
            raise DataError(
                "sampling.hard_negatives=map needs places, but this data set has none; set "
                "sampling.hard_negatives=descriptors"
            )
        places = (queries.coordinate_N2, references.coordinate_N2)
        return self._of_split(nearest_on_map(*places, references.unit, self.k, self._overlap))

    def near_by_descriptor(self, directory: Path) -> np.ndarray:
        """A table like that of ``near_on_map``, but by decreasing cosine of descriptors.

        Args:
            directory: contains the descriptor sets ``query`` and ``reference``.

        Raises:
            DataError: the sets are damaged.
        """
        sides = [_recall_descriptors(directory / side) for side in SIDES]
        return self._of_split(nearest_by_descriptor(*sides, self.k, self._overlap))

    def _of_split(self, near_NK: np.ndarray) -> np.ndarray:
        table_QK = np.full((len(self.split.query.files), self.k), NO_NEIGHBOR, np.int32)
        table_QK[self.index["query"]] = np.where(near_NK < 0, NO_NEIGHBOR, self.index["reference"][near_NK])
        return table_QK


def _recall_descriptors(directory: Path) -> np.ndarray:
    omega = set_directory(directory, "omega")
    return load_descriptor_set(omega if omega.is_dir() else directory).descriptor_ND


def _position(index_N: np.ndarray, count: int) -> np.ndarray:
    """Position in ``index_N`` of each number below ``count``, -1 where it is missing."""
    position = np.full(count, -1, np.int64)
    position[index_N] = np.arange(len(index_N))
    return position


_STATE_ARRAY = "neighbors"  # name in the training state


@dataclass
class NeighborSource:
    """Computes the table of an epoch from the encoder's descriptors; all ranks call it at the same time."""

    tables: NeighborTables
    images: PairedImages
    images_of: Callable[[SideName, list[Path]], Iterable]  # side, files -> batches for the engine
    facts_of: Callable[[SideName], dict[str, Any]]  # side -> facts for the card.json of its descriptor set
    cluster: Cluster

    def agree_on_map(self) -> None:
        """Copy rank 0's map table to all ranks, as processors may order equal distances differently.

        All ranks must have the same images, so that the tables have one shape.
        """
        if self.tables.map_QK is not None:
            self.tables.map_QK = self._of_first_rank(self.tables.map_QK)

    def refresh(self, engine: Engine, directory: Path | None, epoch: int) -> None:
        """Encode all paired images and store the table for ``epoch`` (from 0) and later epochs.

        Args:
            engine: of the encoder in training.
            directory: temporary, for the descriptor sets, always removed; None on ranks other than 0.

        Raises:
            MindlocError: an image can't be read, or the disk is full or not writable.
        """
        engine = _RecallOnly(engine)
        shape_QK = (len(self.images.split.query.files), self.images.k)
        table_QK = np.zeros(shape_QK, np.int32)
        try:
            for side in SIDES:
                self._extract(engine, side, directory)
            if directory:
                table_QK = self.images.near_by_descriptor(directory)
        finally:
            if directory:  # frees the space if the disk is full
                shutil.rmtree(directory, ignore_errors=True)
        self.tables.put(self.tables.extraction_for(epoch), self._of_first_rank(table_QK))

    def _of_first_rank(self, table_QK: np.ndarray) -> np.ndarray:
        """Rank 0's table on every rank, sent as float32, which is exact up to 16 million tiles."""
        if self.cluster.size == 1:
            return table_QK
        return self.cluster.gather(table_QK.astype(np.float32))[: len(table_QK)].astype(np.int32)

    def _extract(self, engine: Engine, side: SideName, directory: Path | None) -> None:
        names, places = self.images.names(side), self.images.places(side)
        rows = rows_of_rank(len(names), engine.batch_size, self.cluster)
        images = self.images_of(side, [self.images.split.root / names[row] for row in rows])
        if directory is None:
            help_extract(engine, side, images, self.cluster)
        else:
            place_N2 = places and places.coordinate_N2
            extract(engine, side, images, names, place_N2, directory / side, self.facts_of(side), cluster=self.cluster)

    def digest(self) -> bytes:
        """Bytes that must be equal on all ranks after loading a checkpoint: those of the current table, if any."""
        return self.tables.newest[1].tobytes() if self.tables.newest else b""

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """(arrays, facts) of the current table, for the training state; both empty without a table."""
        if self.tables.newest is None:
            return {}, {}
        done_epochs, table_QK = self.tables.newest
        digests = {"sha256": _sha256(table_QK), "pairs_sha256": self.images.pairs_sha256}
        return {_STATE_ARRAY: table_QK}, {_STATE_ARRAY: {"done_epochs": done_epochs, **digests}}


def restore_table(tables: NeighborTables, images: PairedImages, state: State, progress: Progress) -> None:
    """Restore the table that was current when the state was saved, unless its pairs or its width differ from now.

    Raises:
        CheckpointError: the table is damaged, or the saved epoch is incomplete and needs a different table.
    """
    facts, table_QK = state.facts.get(_STATE_ARRAY), state.arrays.get(_STATE_ARRAY)
    of_pairs = images.pairs_sha256
    if facts is not None and table_QK is not None:
        sound = isinstance(facts, dict) and isinstance(facts.get("done_epochs"), int) and table_QK.ndim == 2
        if not sound or _sha256(table_QK) != facts.get("sha256"):
            way_out = older_checkpoint(state.path.parent)
            raise CheckpointError(f"training state {state.path} contains damaged neighbors; {way_out}")
        of_pairs = str(facts.get("pairs_sha256"))
        if of_pairs == images.pairs_sha256 and table_QK.shape[1] == images.k:
            tables.put(facts["done_epochs"], table_QK)
    if progress.inside_epoch and tables.lacks(progress.epoch):
        raise _neighbors_are_missing(state.path, progress.epoch, of_pairs, images.pairs_sha256)


def _neighbors_are_missing(path: Path, epoch: int, of_pairs: str, pairs_here: str) -> CheckpointError:
    where = f"training state {path} was saved inside epoch {epoch + 1}"
    if of_pairs != pairs_here:
        return CheckpointError(
            f"{where} with the neighbors of other pairs (sha256 {of_pairs[:12]}; the pairs of the data set have "
            f"{pairs_here[:12]}); restore the old data set, or {older_checkpoint(path.parent)}"
        )
    return CheckpointError(f"{where} and lacks the neighbors of that epoch; {older_checkpoint(path.parent)}")


class _RecallOnly:
    """An engine limited to the recall descriptor, which is Omega with a two-stage head."""

    def __init__(self, engine: Engine):
        self._engine, self.batch_size, self.facts = engine, engine.batch_size, engine.facts
        self.descriptors = tuple(name for name in engine.descriptors if name in RECALL_DESCRIPTORS)

    def encode(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._engine.encode(batch)


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array, "<i4").tobytes()).hexdigest()


def nearest_by_descriptor(
    query_QD: np.ndarray, reference_ND: np.ndarray, k: int, excluded: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """(Q, K) int32 reference indices by decreasing cosine in float32; equal cosines in the order of the references.

    Args:
        query_QD, reference_ND: any float type, not normalized; may be memmaps.
        k: maximum number per query; padded with ``NO_NEIGHBOR``.
        excluded: (query, reference) indices of cells that are never neighbors.
    """
    reference_ND = float64_rows(reference_ND, normalize=True).astype(np.float32)
    return _nearest(lambda rows: float64_rows(query_QD[rows], True).astype(np.float32), reference_ND, k, excluded)


def nearest_on_map(
    query_Q2: np.ndarray, reference_N2: np.ndarray, unit: PlaceUnit, k: int, excluded: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """(Q, K) int32 reference indices by increasing distance of places in ``unit``.

    ``k`` and ``excluded`` are those of ``nearest_by_descriptor``. Degrees are compared by the chord through the globe,
    which increases with the distance.

    Raises:
        ValueError: the unit is unknown.
    """
    query_QD, reference_ND = _in_space(query_Q2, unit), _in_space(reference_N2, unit)
    if not len(reference_ND):  # the mean is undefined
        return np.full((len(query_QD), k), NO_NEIGHBOR, np.int32)
    mean_D = reference_ND.mean(axis=0)  # centered, squares do not lose digits
    query_QD, reference_ND = query_QD - mean_D, reference_ND - mean_D
    # 2 q.g - g.g decreases with |q - g|
    reference_NE = np.concatenate([2 * reference_ND, -np.square(reference_ND).sum(axis=1, keepdims=True)], axis=1)
    query_QE = np.concatenate([query_QD, np.ones((len(query_QD), 1))], axis=1)
    return _nearest(lambda rows: query_QE[rows], reference_NE, k, excluded)


def _in_space(place_N2: np.ndarray, unit: PlaceUnit) -> np.ndarray:
    """Places as vectors in meters: (N, 2) on a plane, or (N, 3) from the center of the globe."""
    place_N2 = np.asarray(place_N2, np.float64).reshape(-1, 2)
    if unit == "plane_m":
        return place_N2
    if unit != "lat_lon_deg":
        raise ValueError(f"place unit is {unit!r}; expected plane_m or lat_lon_deg")
    lat_N, lon_N = np.radians(place_N2).T
    around = (np.cos(lat_N) * np.cos(lon_N), np.cos(lat_N) * np.sin(lon_N), np.sin(lat_N))
    return EARTH_RADIUS_M * np.stack(around, axis=1)


def _nearest(query_of, reference_ND: np.ndarray, k: int, excluded: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """(Q, K) int32 indices of the references with the highest scalar products, like ``nearest_by_descriptor``.

    Args:
        query_of: slice of the queries -> (B, D), of the same type as the references.
    """
    query_E, item_E = (np.asarray(index, np.int64) for index in excluded)
    order_E = np.argsort(query_E, kind="stable")
    query_E, item_E = query_E[order_E], item_E[order_E]
    count, rows = len(reference_ND), max(1, _BLOCK_SCORES // max(1, len(reference_ND)))
    parts, first = [], 0
    while len(query_BD := query_of(slice(first, first + rows))):
        cost_BN = -query_BD @ reference_ND.T  # negates the rows, as negated scores would be a second large array
        low, high = np.searchsorted(query_E, (first, first + len(query_BD)))
        cost_BN[query_E[low:high] - first, item_E[low:high]] = np.inf
        parts.append(_cheapest_of(cost_BN, min(k, count)))
        first += len(query_BD)
    table_QK = np.concatenate(parts) if parts else np.zeros((0, min(k, count)), np.int32)
    return np.pad(table_QK, ((0, 0), (0, k - table_QK.shape[1])), constant_values=NO_NEIGHBOR)


def _cheapest_of(cost_BN: np.ndarray, k: int) -> np.ndarray:
    """(B, K) indices of the lowest costs, equal ones in order; ``NO_NEIGHBOR`` for infinite costs."""
    index_BK = np.argpartition(cost_BN, k - 1, axis=1)[:, :k]
    index_BK.sort(axis=1)  # so that the stable sort keeps equal costs in the reference's order
    cost_BK = np.take_along_axis(cost_BN, index_BK, axis=1)
    order_BK = np.argsort(cost_BK, axis=1, kind="stable")
    cost_BK, index_BK = (np.take_along_axis(array, order_BK, axis=1) for array in (cost_BK, index_BK))
    return np.where(np.isposinf(cost_BK), NO_NEIGHBOR, index_BK).astype(np.int32)
