"""Batches in which no query image overlaps the reference of another pair.

Shapes: P pairs, E edges of the overlap graph, S steps (batches), G rows of a global batch.
"""

from collections.abc import Iterator

import numpy as np

from mindloc.data.hard_negatives import HardNegativeMiner
from mindloc.data.split import Edges

_FIRST_CHUNK = 128  # pairs tested at once at the start of a batch; then doubled, as most later pairs are blocked


class OverlapGraph:
    """All overlaps of query and reference images: the edges of ``pos_semipos``, also when training on ``pos``."""

    def __init__(self, edges: Edges, reference_count: int):
        by_reference = edges.swapped(reference_count)
        self.query_count, self.reference_count = edges.query_count, reference_count
        # intp: fancy indexing would convert other integer types at every call
        self.references_of = _cut(edges.reference.astype(np.intp), edges.start)
        self.queries_of = _cut(by_reference.reference.astype(np.intp), by_reference.start)
        self._key_E = np.sort(self._key(edges.query(), edges.reference))

    def overlap(self, query: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Whether query and reference overlap: bool, elementwise with broadcasting."""
        key = self._key(query, reference)
        at = np.minimum(np.searchsorted(self._key_E, key), len(self._key_E) - 1)
        return self._key_E[at] == key

    def _key(self, query: np.ndarray, reference: np.ndarray) -> np.ndarray:
        return np.asarray(query, np.int64) * self.reference_count + reference


def _cut(values: np.ndarray, start: np.ndarray) -> list[np.ndarray]:
    bounds = start.tolist()
    return [values[low:high] for low, high in zip(bounds, bounds[1:], strict=False)]


def exclusive_batches(
    graph: OverlapGraph,
    pair_P2: np.ndarray,
    order_P: np.ndarray,
    batch_size: int,
    miner: HardNegativeMiner | None = None,
) -> Iterator[list[int]]:
    """Batches of at most ``batch_size`` pairs, each pair in exactly one; a batch is smaller if no other pair fits.

    A pair (q, r) enters the current batch if neither q nor r is blocked; it then blocks every reference of q and every
    query of r until the batch is complete. Blocks only grow within a batch, so one pass over the remaining pairs
    finds all that fit. A rejected pair is deferred and comes first in the next batch, which makes it easier to place.

    Args:
        pair_P2: [query, reference] of every pair; each must be an edge of ``graph``.
        order_P: pair indices in the order in which they are tried.
        miner: adds mined pairs after each pair that entered, unless they are blocked.
    """
    return _batches(_Blocks(graph, pair_P2), order_P, batch_size, miner)


def free_batches(order_P: np.ndarray, batch_size: int, miner: HardNegativeMiner) -> Iterator[list[int]]:
    """Like ``exclusive_batches``, but any pairs may share a batch; all batches except the last are full."""
    return _batches(_Unblocked(len(order_P)), order_P, batch_size, miner)


def _batches(
    blocks: "_Blocks | _Unblocked", order_P: np.ndarray, batch_size: int, miner: HardNegativeMiner | None
) -> Iterator[list[int]]:
    deferred, fresh = order_P[:0], order_P
    while len(deferred) or len(fresh):
        blocks.clear()
        if miner:
            miner.start_batch()
        batch, rejected, deferred = _fill(blocks, deferred, batch_size, miner)
        deferred = np.concatenate([rejected, deferred])
        if len(batch) < batch_size:
            more, rejected, fresh = _fill(blocks, fresh, batch_size - len(batch), miner)
            batch += more
            deferred = np.concatenate([deferred, rejected])
        if batch:  # empty if all remaining pairs were mined before
            yield batch


def _fill(
    blocks: "_Blocks | _Unblocked", queue: np.ndarray, room: int, miner: HardNegativeMiner | None
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Try the pairs of ``queue`` until ``room`` of them are accepted: (accepted, rejected, not tried)."""
    taken: list[int] = []
    rejected = []
    start, size = 0, _FIRST_CHUNK
    while start < len(queue) and len(taken) < room:
        chunk = queue[start : start + size]
        offered = len(chunk)
        candidate = np.flatnonzero(blocks.is_open(chunk))
        for position, pair in zip(candidate.tolist(), chunk[candidate].tolist(), strict=True):
            if blocks.take(pair):
                taken.append(pair)
                if miner:
                    taken += miner.mine(pair, room - len(taken), blocks)
                if len(taken) == room:
                    offered = position + 1
                    break
        rejected.append(blocks.unused(chunk[:offered]))
        start += offered
        size *= 2
    return taken, np.concatenate(rejected) if rejected else queue[:0], queue[start:]


class _Unblocked:
    """A batch that accepts every pair that is not in a batch yet."""

    def __init__(self, pairs: int):
        self._used_P = np.zeros(pairs, bool)
        self.used = memoryview(self._used_P)

    def clear(self) -> None:
        """Start a new batch."""

    def is_open(self, pairs: np.ndarray) -> np.ndarray:
        return ~self._used_P[pairs]

    def unused(self, pairs: np.ndarray) -> np.ndarray:
        return pairs[~self._used_P[pairs]]

    def admits_reference(self, reference: int) -> bool:
        return True

    def take(self, pair: int) -> bool:
        if self.used[pair]:
            return False
        self.used[pair] = True
        return True


class _Blocks(_Unblocked):
    """A batch with blocked images. Blocks are stamped with the batch's number, so that a new batch needs no reset."""

    def __init__(self, graph: OverlapGraph, pair_P2: np.ndarray):
        super().__init__(len(pair_P2))
        self._graph = graph
        self._query_P, self._reference_P = pair_P2[:, 0].astype(np.intp), pair_P2[:, 1].astype(np.intp)
        self._query_stamp = np.zeros(graph.query_count, np.int32)
        self._reference_stamp = np.zeros(graph.reference_count, np.int32)
        self._stamp = 0
        # reading single elements through a memoryview is several times faster than from the array
        arrays = (self._query_P, self._reference_P, self._query_stamp, self._reference_stamp)
        self._views = (*(memoryview(array) for array in arrays), self.used)

    def clear(self) -> None:
        self._stamp += 1

    def is_open(self, pairs: np.ndarray) -> np.ndarray:
        free = super().is_open(pairs)
        free &= self._query_stamp[self._query_P[pairs]] != self._stamp
        free &= self._reference_stamp[self._reference_P[pairs]] != self._stamp
        return free

    def admits_reference(self, reference: int) -> bool:
        return self._views[3][reference] != self._stamp

    def take(self, pair: int) -> bool:
        """Add the pair and block the images that overlap it; False if the pair is blocked."""
        query_P, reference_P, query_stamp, reference_stamp, used = self._views
        query, reference = query_P[pair], reference_P[pair]
        stamp = self._stamp
        if used[pair] or query_stamp[query] == stamp or reference_stamp[reference] == stamp:
            return False
        self._reference_stamp[self._graph.references_of[query]] = stamp
        self._query_stamp[self._graph.queries_of[reference]] = stamp
        used[pair] = True
        return True
