"""Hard negatives: which tiles are near a drone picture from epoch to epoch, and the pairs that one pair brings along.

Near on the map, or near by the descriptors of the encoder as it stands. The tables are computed elsewhere
(descriptors/neighbors.py); here they only decide which pairs meet in a batch.

Letters: P pairs, D drone pictures, S tiles, K candidates of a drone picture, 2 [query, reference].

References:
    Sample4Geo, arXiv:2303.11851, section 3.3 (first by GPS distance, then every few epochs by similarity). There a pair
    brings half of its companions from the nearest and half at random from a wider range, as here. Unlike there, a
    companion never overlaps the drone picture that brings it, and random ones stand in for near ones that are taken.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from mindloc.errors import DataError

NO_TILE = -1  # in a table: fewer than K tiles are candidates
# pairs of a tile that are offered: where pictures lie dense, nearly all of a tile's pairs are blocked; the others come
# later, in the epoch's order
_TRIES = 16


@dataclass(frozen=True)
class HardNegativeRule:
    """When which neighbors count, and how many of them; see the config section ``sampling``."""

    source: Literal["map", "descriptors", "both", "map_then_descriptors"]
    from_epoch: int  # epochs that are trained without (map_then_descriptors: by the map alone)
    refresh_every: int = 1  # epochs
    per_pair: int = 4  # companions that a pair brings at most
    share: float = 0.5  # of a batch that companions fill at most

    def reads_map(self, epoch: int) -> bool:
        """Whether ``epoch`` (from 0) is sampled by distance on the map."""
        if self.source == "map_then_descriptors":
            return epoch < self.from_epoch
        return self.source != "descriptors" and epoch >= self.from_epoch

    def extraction_for(self, epoch: int) -> int | None:
        """Epochs that are done when the descriptors which ``epoch`` reads are extracted; None: it reads none."""
        if self.source == "map" or epoch < self.from_epoch:
            return None
        return epoch - (epoch - self.from_epoch) % self.refresh_every


class NeighborTables:
    """The tables of a training, the newest one by descriptors; the loader's thread may wait here for the next.

    Args:
        map_DK: int, tiles near each drone picture on the map, nearest first, ``NO_TILE`` where there are no more; None
            where the rule reads no map.
    """

    def __init__(self, rule: HardNegativeRule, map_DK: np.ndarray | None = None):
        self.rule, self.map_DK = rule, map_DK
        self._newest: tuple[int, np.ndarray] | None = None
        self._changed = threading.Condition()
        self._waiting, self._closed = 0, False

    @property
    def newest(self) -> tuple[int, np.ndarray] | None:
        """(epochs that were done when its descriptors were extracted, table (D, K)), None before the first."""
        return self._newest

    def put(self, done_epochs: int, table_DK: np.ndarray) -> None:
        """The table of the descriptors that were extracted after ``done_epochs`` epochs; replaces the one before."""
        with self._changed:
            self._newest = (done_epochs, table_DK)
            self._changed.notify_all()

    def lacks(self, epoch: int) -> bool:
        """Whether ``epoch`` can't be planned yet."""
        needed = self.rule.extraction_for(epoch)
        return needed is not None and (self._newest is None or self._newest[0] != needed)

    def wait(self, epoch: int) -> None:
        """Return when ``epoch`` can be planned; for a thread that runs ahead of the training.

        Raises:
            DataError: ``close`` was called first, as the training has ended or failed.
        """
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: self._closed or not self.lacks(epoch))
            finally:
                self._waiting -= 1
                self._changed.notify_all()
            if self.lacks(epoch):
                raise DataError(f"the training ended before the neighbors of epoch {epoch + 1} were known")

    @contextmanager
    def open(self) -> Iterator[None]:
        """Around a training: threads may wait inside, also after an earlier one was closed; at the end it is closed."""
        with self._changed:
            self._closed = False
        try:
            yield
        finally:
            self.close()

    def close(self) -> None:
        """Send home whoever waits, and return when they have left: nobody may sleep in here while threads are ended.

        Until it is opened again nobody waits.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._waiting)

    def candidates(self, epoch: int) -> np.ndarray | None:
        """(D, K) tiles by falling nearness, of two sources in turn; None where ``epoch`` has no hard negatives.

        Raises:
            DataError: the table that ``epoch`` reads is not here.
        """
        if self.lacks(epoch):
            raise DataError(f"the neighbors that epoch {epoch + 1} is sampled by are not known (yet)")
        tables = [self.map_DK] if self.rule.reads_map(epoch) else []
        if self.rule.extraction_for(epoch) is not None:
            tables.insert(0, self._newest[1])
        if not tables:
            return None
        return tables[0] if len(tables) == 1 else _in_turn(*tables)


def _in_turn(first_DK: np.ndarray, second_DK: np.ndarray) -> np.ndarray:
    """(D, 2K) columns of both in turn; of a tile that is in both the second mention is ``NO_TILE``."""
    repeated_DK = np.zeros(second_DK.shape, bool)
    for column_D in first_DK.T:
        repeated_DK |= second_DK == column_D[:, None]
    second_DK = np.where(repeated_DK, NO_TILE, second_DK)
    return np.stack([first_DK, second_DK], axis=2).reshape(len(first_DK), -1)


class OpenBatch(Protocol):
    """What a batch under way tells; data/exclusion.py has two of the kind."""

    used: memoryview  # of each pair: whether it is in this batch or an earlier one

    def admits_tile(self, tile: int) -> bool:
        """False where no pair of the tile could be taken."""
        ...

    def take(self, pair: int) -> bool:
        """Enter the pair, unless that is not allowed."""
        ...


class Company:
    """The companions of one epoch: for a pair that enters a batch, pairs of tiles near its drone picture.

    The nearest candidates, half of ``per_pair``, are asked first, then those behind them in a random order, until
    ``per_pair`` have come: random ones fill the place of near ones that are taken or not admitted. A tile's pairs come
    in the epoch's order; of one tile only the next ``_TRIES`` are offered.

    Args:
        order_P: the epoch's order of the pairs.
        candidate_DK: tiles near each drone picture, nearest first.
        most: companions of a whole batch.
        random: of the epoch.
    """

    def __init__(
        self,
        pair_P2: np.ndarray,
        order_P: np.ndarray,
        candidate_DK: np.ndarray,
        per_pair: int,
        most: int,
        random: np.random.Generator,
    ):
        self.per_pair, self._most, self._left = per_pair, most, most
        sure = per_pair - per_pair // 2
        drawn_DK = random.permuted(candidate_DK[:, sure:], axis=1)
        row_DK = np.concatenate([candidate_DK[:, :sure], drawn_DK], axis=1).astype(np.intp)
        tile_P = pair_P2[:, 1]
        by_tile_P = order_P[np.argsort(tile_P[order_P], kind="stable")]
        tiles = int(max(tile_P.max(), row_DK.max())) + 1
        start_S = np.concatenate([[0], np.cumsum(np.bincount(tile_P, minlength=tiles))])
        self.came_P = np.zeros(len(pair_P2), bool)  # the pairs that were brought by another
        self._width = row_DK.shape[1]
        # single numbers are read several times faster through a memoryview than from the array itself
        views = (np.ascontiguousarray(row_DK).reshape(-1), pair_P2[:, 0].astype(np.intp), by_tile_P.astype(np.intp))
        self._row, self._query_P, self._by_tile_P = (memoryview(array) for array in views)
        self._head_S, self._end_S = (memoryview(start.astype(np.intp)) for start in (start_S[:-1], start_S[1:]))
        self._came = memoryview(self.came_P)

    def begin_batch(self) -> None:
        self._left = self._most

    def bring(self, pair: int, room: int, batch: "OpenBatch") -> list[int]:
        """The companions of ``pair`` that entered the batch, at most ``room``."""
        room = min(room, self.per_pair, self._left)
        if room <= 0:
            return []
        first, brought = self._query_P[pair] * self._width, []
        for tile in self._row[first : first + self._width]:
            if tile >= 0 and batch.admits_tile(tile):
                other = self._take_one_of(tile, batch)
                if other >= 0:
                    brought.append(other)
                    if len(brought) == room:
                        break
        self._left -= len(brought)
        return brought

    def _take_one_of(self, tile: int, batch: "OpenBatch") -> int:
        """The first of the tile's next pairs that could be taken; -1: none."""
        by_tile_P, used = self._by_tile_P, batch.used
        head, end = self._head_S[tile], self._end_S[tile]
        while head < end and used[by_tile_P[head]]:
            head += 1
        self._head_S[tile] = head
        for position in range(head, min(end, head + _TRIES)):
            other = by_tile_P[position]
            if batch.take(other):
                self._came[other] = True
                return other
        return -1
