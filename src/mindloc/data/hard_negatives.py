"""Hard negatives: references near each query image in an epoch, and the miner that adds their pairs to a batch.

Near means near on the map, or similar by the encoder's current descriptors. training/neighbors.py computes the tables
of near references; this module uses them to choose pairs for the same batch.

Shapes: P pairs, Q query images, S reference images, K candidates of a query image, 2 [query, reference].

References:
    Sample4Geo, arXiv:2303.11851, section 3.3 (first by GPS distance, then every few epochs by similarity). As there,
    half of the pairs mined for a pair are the nearest and half are random in a wider range. Unlike there, a mined pair
    never overlaps the query image that it is mined for, and random pairs replace near ones that are not available.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from mindloc.config.sections import SamplingConfig

NO_NEIGHBOR = -1  # fills the row of a query image that has fewer than K candidates
# pairs tried per reference: where images are dense, nearly all are blocked; pairs not tried come later in the epoch
_TRIES = 16


class NeighborTables:
    """The neighbor tables of a training run: one by the map, and the newest one by descriptors.

    The latter is computed during the run; a loader thread may wait for it.

    Args:
        sampling: decides which epoch reads which table.
        map_QK: int, references near each query image on the map, nearest first, padded with ``NO_NEIGHBOR``; None
            if no epoch reads it.
    """

    def __init__(self, sampling: SamplingConfig, map_QK: np.ndarray | None = None):
        self.sampling, self.map_QK = sampling, map_QK
        self._newest: tuple[int, np.ndarray] | None = None
        self._changed = threading.Condition()
        self._waiting, self._closed = 0, False

    def reads_map(self, epoch: int) -> bool:
        """Whether ``epoch`` (from 0) uses distances on the map."""
        if self.sampling.hard_negatives == "map_then_descriptors":
            return epoch < self.sampling.hard_from_epoch
        return self.sampling.hard_negatives != "descriptors" and epoch >= self.sampling.hard_from_epoch

    def extraction_for(self, epoch: int) -> int | None:
        """Number of epochs trained before the extraction whose descriptors ``epoch`` reads; None if it reads none."""
        first = self.sampling.hard_from_epoch
        if self.sampling.hard_negatives == "map" or epoch < first:
            return None
        return epoch - (epoch - first) % self.sampling.refresh_every_epochs

    @property
    def newest(self) -> tuple[int, np.ndarray] | None:
        """(number of epochs before its extraction, table (Q, K)) of the newest table; None before the first one."""
        return self._newest

    def put(self, done_epochs: int, table_QK: np.ndarray) -> None:
        """Store the table of the descriptors extracted after ``done_epochs`` epochs; it replaces the previous one."""
        with self._changed:
            self._newest = (done_epochs, table_QK)
            self._changed.notify_all()

    def lacks(self, epoch: int) -> bool:
        """Whether ``epoch`` can't be planned yet."""
        needed = self.extraction_for(epoch)
        return needed is not None and (self._newest is None or self._newest[0] != needed)

    def wait(self, epoch: int) -> None:
        """Block until ``epoch`` can be planned; for a thread that is ahead of the training.

        Raises:
            RuntimeError: ``close`` was called first, because the training ended or failed.
        """
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: self._closed or not self.lacks(epoch))
            finally:
                self._waiting -= 1
                self._changed.notify_all()
            if self.lacks(epoch):
                raise RuntimeError(f"the training ended before the neighbors of epoch {epoch + 1} were computed")

    @contextmanager
    def open(self) -> Iterator[None]:
        """Context of a training run, in which threads may wait; leaving it calls ``close``. It may be entered again."""
        with self._changed:
            self._closed = False
        try:
            yield
        finally:
            self.close()

    def close(self) -> None:
        """Wake all waiting threads and return when they have left ``wait``, so that they can be joined.

        Until ``open`` is entered again, ``wait`` does not block.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._waiting)

    def tables_of(self, epoch: int) -> list[np.ndarray] | None:
        """The (Q, K) tables that ``epoch`` reads, none without hard negatives; None if one is not available (yet)."""
        if self.lacks(epoch):
            return None
        by_descriptor = [self._newest[1]] if self._newest and self.extraction_for(epoch) is not None else []
        return by_descriptor + ([self.map_QK] if self.reads_map(epoch) else [])

    def candidates(self, epoch: int) -> np.ndarray | None:
        """References near each query image, nearest first; None if ``epoch`` has no hard negatives.

        The shape is (Q, K), or (Q, 2K) if the epoch reads two tables, whose columns alternate.

        Raises:
            RuntimeError: the table that ``epoch`` reads is not available.
        """
        tables = self.tables_of(epoch)
        if tables is None:
            raise RuntimeError(f"the neighbors that epoch {epoch + 1} needs are not available (yet)")
        return _interleaved(*tables) if len(tables) == 2 else next(iter(tables), None)


def _interleaved(first_QK: np.ndarray, second_QK: np.ndarray) -> np.ndarray:
    """(Q, 2K) alternating columns of two tables; a reference in both becomes ``NO_NEIGHBOR`` in the second."""
    repeated_QK = np.zeros(second_QK.shape, bool)
    for column_Q in first_QK.T:
        repeated_QK |= second_QK == column_Q[:, None]
    second_QK = np.where(repeated_QK, NO_NEIGHBOR, second_QK)
    return np.stack([first_QK, second_QK], axis=2).reshape(len(first_QK), -1)


class OpenBatch(Protocol):
    """A batch that is being filled; data/exclusion.py has two kinds."""

    used: memoryview  # for each pair: whether it is in this or an earlier batch

    def admits_reference(self, reference: int) -> bool:
        """False if no pair with this reference could enter the batch."""
        ...

    def take(self, pair: int) -> bool:
        """Add the pair; False if it is not allowed."""
        ...


class HardNegativeMiner:
    """Mines hard negatives for one epoch: for each pair that enters a batch, pairs of references near its query image.

    The nearest candidates, half of ``per_pair``, are tried first, then the others in random order, until ``per_pair``
    are mined: random candidates replace near ones that are used or not admitted. A reference's pairs are tried in the
    epoch's order, at most ``_TRIES`` of them.

    Args:
        order_P: pair indices in the epoch's order.
        candidate_QK: references near each query image, nearest first.
        per_batch: maximum mined pairs in a batch.
        random: generator of the epoch.
    """

    def __init__(
        self,
        pair_P2: np.ndarray,
        order_P: np.ndarray,
        candidate_QK: np.ndarray,
        per_pair: int,
        per_batch: int,
        random: np.random.Generator,
    ):
        self.per_pair, self.per_batch, self._left = per_pair, per_batch, per_batch
        nearest = per_pair - per_pair // 2
        drawn_QK = random.permuted(candidate_QK[:, nearest:], axis=1)
        row_QK = np.concatenate([candidate_QK[:, :nearest], drawn_QK], axis=1).astype(np.intp)
        reference_P = pair_P2[:, 1]
        by_reference_P = order_P[np.argsort(reference_P[order_P], kind="stable")]
        references = int(max(reference_P.max(), row_QK.max())) + 1
        start_S = np.concatenate([[0], np.cumsum(np.bincount(reference_P, minlength=references))])
        self.mined_P = np.zeros(len(pair_P2), bool)  # pairs that were mined for another pair
        self._width = row_QK.shape[1]
        # reading single elements through a memoryview is several times faster than from the array
        views = (
            np.ascontiguousarray(row_QK).reshape(-1),
            pair_P2[:, 0].astype(np.intp),
            by_reference_P.astype(np.intp),
        )
        self._row, self._query_P, self._by_reference_P = (memoryview(array) for array in views)
        self._head_S, self._end_S = (memoryview(start.astype(np.intp)) for start in (start_S[:-1], start_S[1:]))
        self._mined = memoryview(self.mined_P)

    def start_batch(self) -> None:
        self._left = self.per_batch

    def mine(self, pair: int, room: int, batch: OpenBatch) -> list[int]:
        """Add at most ``room`` pairs mined for ``pair`` to the batch; returns them."""
        room = min(room, self.per_pair, self._left)
        if room <= 0:
            return []
        first, mined = self._query_P[pair] * self._width, []
        for reference in self._row[first : first + self._width]:
            if reference >= 0 and batch.admits_reference(reference):
                other = self._take_one_of(reference, batch)
                if other >= 0:
                    mined.append(other)
                    if len(mined) == room:
                        break
        self._left -= len(mined)
        return mined

    def _take_one_of(self, reference: int, batch: OpenBatch) -> int:
        """Add the first of the reference's next pairs that is allowed; returns it, or -1."""
        by_reference_P, used = self._by_reference_P, batch.used
        head, end = self._head_S[reference], self._end_S[reference]
        while head < end and used[by_reference_P[head]]:
            head += 1
        self._head_S[reference] = head
        for position in range(head, min(end, head + _TRIES)):
            other = by_reference_P[position]
            if batch.take(other):
                self._mined[other] = True
                return other
        return -1
