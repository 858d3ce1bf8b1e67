"""The loader's work in processes instead of threads, to measure against: batches in memory that they share.

Nothing of it is part of mindloc. Workers are started fresh, so they hold no MindSpore.
"""

import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.pool import AsyncResult
from pathlib import Path

import cv2
import numpy as np

from mindloc.data.augment import AugmentSettings, augment, draw_augmentation
from mindloc.data.images import Normalization, decode, read_bytes
from mindloc.vocabulary import SIDES

_AHEAD = 2  # batches in the making
_BATCHES = _AHEAD + 4  # one each is yielded, queued by MindSpore, with the consumer, and just left

_worker: dict = {}


class ProcessBatches:
    """(query_B3HW, reference_B3HW, mask, iou) of random pairs, endlessly; a source for GeneratorDataset."""

    def __init__(self, files: Sequence[list[Path]], side_px: int, batch_size: int, workers: int):
        self._pairs, self._size = min(map(len, files)), batch_size
        self.shape = (_BATCHES, len(SIDES), batch_size, 3, side_px, side_px)
        context = multiprocessing.get_context("spawn")
        shared = context.RawArray("f", int(np.prod(self.shape)))
        self._batches = _as_array(shared, self.shape)
        self._pool = context.Pool(workers, _start_worker, (shared, self.shape, files))

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        random, begun = np.random.default_rng(0), deque()
        for step in range(1_000_000):
            begun.append((step % _BATCHES, self._begin(step % _BATCHES, random)))
            if len(begun) > _AHEAD:
                slot, rows = begun.popleft()
                for row in rows:
                    row.get()
                ones = np.ones(self._size, np.float32)
                yield self._batches[slot, 0], self._batches[slot, 1], np.ones((self._size,) * 2, bool), ones

    def _begin(self, slot: int, random: np.random.Generator) -> list[AsyncResult]:
        pairs = random.integers(self._pairs, size=self._size).tolist()
        return [self._pool.apply_async(_fill, (slot, row, pair)) for row, pair in enumerate(pairs)]

    @property
    def pids(self) -> list[int]:
        return [child.pid for child in multiprocessing.active_children()]

    def close(self) -> None:
        self._pool.terminate()
        self._pool.join()


def _as_array(shared, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(shared, np.float32).reshape(shape)


def _start_worker(shared, shape: tuple[int, ...], files: Sequence[list[Path]]) -> None:
    cv2.setNumThreads(1)
    _worker.update(batches=_as_array(shared, shape), files=files, settings=AugmentSettings(), size_px=shape[-2:])
    _worker["normalization"] = Normalization((0.5,) * 3, (0.5,) * 3)


def _fill(slot: int, row: int, pair: int) -> None:
    changes = draw_augmentation(0, 0, pair, _worker["settings"])
    for index, (view, paths) in enumerate(zip(SIDES, _worker["files"], strict=True)):
        image = decode(read_bytes(paths[pair]), paths[pair])
        image = augment(image, getattr(changes, view), _worker["size_px"])
        _worker["normalization"].write(image, _worker["batches"][slot, index, row])
