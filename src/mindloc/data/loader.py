"""Memory for batches, used again once nobody holds it.

Threads that read, change and normalize pictures ahead of the consumer; no MindSpore here.

The pixels are OpenCV's and NumPy's work, which let the other threads run meanwhile, and they are written straight into
the batch: a training batch in ``pair_stream.py``, one of evaluation in ``image_batches.py``.

Training batches in the sampler's order, the same for every number of threads and ranks; no MindSpore here.

Letters: B rows of a batch on this rank, G rows of the global batch, H height, W width, P pairs, S steps.

Batches of one view's pictures in the given order, for evaluation; no MindSpore here.
"""

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mindloc.config.sections import AugmentConfig
from mindloc.data.augment import ViewAugmentation, augment, draw_augmentation
from mindloc.data.images import Normalization, check_decodes, cut_border, decode, read_bytes
from mindloc.data.sampler import PADDING, EpochPlan, Sampler
from mindloc.errors import ImageError
from mindloc.runtime.process import usable_cores
from mindloc.vocabulary import SIDES, ViewSpec


class BatchArrays:
    """Float32 arrays of one shape; a batch of pictures in fresh memory costs as much to map as to normalize.

    MindSpore hands an array on without copying it and keeps a reference as long as it reads, and so does whoever keeps
    the batch or a part of it: the count of references says when the memory is free. For MindSpore that was seen on CPUs
    alone: a device that copies from this memory on its own may still read when the reference is gone.

    Args:
        reuse: False hands out fresh memory every time, for devices on which nobody has seen when they have read.

    Evaluation needs no such care: an engine has read its batch when ``encode`` returns. Ask from one thread.
    """

    def __init__(self, shape: tuple[int, ...], reuse: bool = True):
        self.shape, self._reuse = shape, reuse
        self._arrays: list[np.ndarray] = []

    def __len__(self) -> int:
        """Arrays that are kept for use again."""
        return len(self._arrays)

    def take(self) -> np.ndarray:
        """An array that nobody else holds, its content undefined."""
        for index in range(len(self._arrays)):
            if _references(self._arrays, index) == _HELD_BY_ITS_LIST_ALONE:
                return self._arrays[index]
        array = np.empty(self.shape, np.float32)
        if self._reuse:
            self._arrays.append(array)
        return array


def _references(arrays: list[np.ndarray], index: int) -> int:
    return sys.getrefcount(arrays[index])


# measured: how many references the counting itself holds is the interpreter's affair and differs between versions
_HELD_BY_ITS_LIST_ALONE = _references([np.empty(1, np.float32)], 0)


_ROWS_AHEAD_PER_WORKER = 4


@dataclass(frozen=True)
class ViewFiles:
    """The pictures of one view and what every one of them becomes before any random change."""

    paths: Sequence[Path]
    size_px: tuple[int, int]  # height, width
    cut_border: float = 0.0  # share cropped from each side


def view_files(view: ViewSpec, paths: Sequence[Path]) -> ViewFiles:
    """Files of a view."""
    return ViewFiles(paths, view.size_px, view.cut_border)


def changed_picture(path: Path, files: ViewFiles, change: ViewAugmentation) -> np.ndarray:
    """(H, W, 3) uint8 RGB of the view's size, read from a file and changed.

    Raises:
        ImageError: the file is missing, truncated or can't be decoded.
    """
    image = cut_border(decode(read_bytes(path), path), files.cut_border)
    return augment(np.ascontiguousarray(image), change, files.size_px)


def black_picture(size_px: tuple[int, int]) -> np.ndarray:
    """What stands where no picture is: in padding, and for a bad file that may be skipped."""
    return np.zeros((*size_px, 3), np.uint8)


@contextmanager
def picture_threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that make pictures; what they have not begun is dropped when the consumer leaves early."""
    cv2.setNumThreads(1)  # our threads are the parallelism
    with ThreadPoolExecutor(usable_workers(workers), thread_name_prefix="pictures") as pool:
        try:
            yield pool
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def wait_for(rows: Sequence[Future]) -> None:
    """Until all rows of a batch are written; an error of one of them is raised here."""
    for row in rows:
        row.result()


def in_advance(items: Sequence, count: int, start: Callable[[Any], Any]) -> Iterator[tuple[Any, Any]]:
    """(item, start(item)) in order, with ``count`` further items already started."""
    started: deque = deque()
    for item in items:
        started.append((item, start(item)))
        if len(started) > count:
            yield started.popleft()
    yield from started


def batches_ahead(workers: int, rows: int) -> int:
    """Batches of so many rows to begin before they are asked for: enough that no thread waits for the consumer."""
    return 1 + _ROWS_AHEAD_PER_WORKER * workers // rows


def usable_workers(asked: int) -> int:
    """Never more than the cores: more would only wait."""
    return max(1, min(asked, len(usable_cores())))


class PairStream:
    """Steps (query_B3HW, reference_B3HW, mask_GG, targets...) of one epoch after the other, in the sampler's order.

    Images are this rank's, mask and targets are those of the global batch.

    A file that can't be read raises ``ImageError``, or with ``skip_bad`` its row is masked. For that every rank
    looks at the files of the whole global batch, as all must mask the same rows; each file once.

    Args:
        pair_P2: query and reference of each pair.
        targets: name -> (P, ...), what the loss reads of each pair; rows without a pair get zeros.
        normalization: of the pixels of both views.
        settings: random changes; None: none.
        shard: rank, number of ranks, and parts of a batch; see ``EpochPlan.shard``.
        start: epoch, and the step within it, to begin with.
        reuse_arrays: use the arrays of pictures again for a later step once nobody holds them (see ``BatchArrays``).

    Raises:
        ValueError: the start lies beyond its epoch.
        DataError: the global batch can't be cut into equal parts.
    """

    def __init__(
        self,
        query: ViewFiles,
        reference: ViewFiles,
        pair_P2: np.ndarray,
        targets: dict[str, np.ndarray],
        sampler: Sampler,
        normalization: Normalization,
        settings: AugmentConfig | None,
        seed: int,
        skip_bad: bool = False,
        workers: int = 1,
        shard: tuple[int, int, int] = (0, 1, 1),
        start: tuple[int, int] = (0, 0),
        reuse_arrays: bool = True,
    ):
        self.workers, self.start = workers, start
        self.shard, self.ranks = shard, shard[1]
        self.failure: Exception | None = None
        self.bad_pictures: dict[str, str] = {}
        self.views = {"query": query, "reference": reference}
        self._pair_P2, self.targets = pair_P2, targets
        self._sampler, self._settings, self._seed, self.skip_bad = sampler, settings, seed, skip_bad
        self._normalization = normalization
        self._looked_at: dict[Path, bool] = {}  # path -> it is good
        self._lock = threading.Lock()
        self._plans: dict[int, EpochPlan] = {}
        self._position = start
        steps, self.rows = self.plan(start[0]).shard(*shard).shape
        self._arrays = {
            view: BatchArrays((self.rows, 3, *files.size_px), reuse_arrays) for view, files in self.views.items()
        }
        if not 0 <= start[1] < steps:
            raise ValueError(f"epoch {start[0]} has {steps} steps, none is {start[1]}; start with the next epoch")

    def plan(self, epoch: int) -> EpochPlan:
        """The sampler's plan of an epoch; the last few are kept."""
        with self._lock:
            if epoch not in self._plans:
                self._plans[epoch] = self._sampler.plan(epoch)
                for old in sorted(self._plans)[:-3]:
                    if old != epoch:
                        del self._plans[old]
            return self._plans[epoch]

    def __iter__(self) -> Iterator[tuple]:
        epoch, first_step = self._position  # runs at the first next(): an iterator that is never used costs no epoch
        self._position = (epoch + 1, 0)
        try:
            yield from self._epoch(epoch, first_step)
        except Exception as error:
            self.failure = error  # MindSpore reports it as text only
            raise

    def _epoch(self, epoch: int, first_step: int) -> Iterator[tuple]:
        self._sampler.wait(epoch)  # before the lock of plan(), by which the training asks for the epoch under way
        plan = self.plan(epoch)
        steps = list(zip(plan.pair_SB[first_step:], plan.shard(*self.shard)[first_step:], strict=True))
        with picture_threads(self.workers) as pool:
            ahead = batches_ahead(self.workers, self.rows)
            begun = in_advance(steps, ahead, lambda step: self._begin(pool, epoch, *step))
            step = first_step
            for (pair_G, _), (batch, rows) in begun:
                wait_for(rows)
                yield (*batch, *self._mask_and_targets(pair_G, epoch, step))
                step += 1
                del batch  # else its arrays would count as held

    def _begin(
        self, pool: ThreadPoolExecutor, epoch: int, pair_G: np.ndarray, pair_B: np.ndarray
    ) -> tuple[list[np.ndarray], list[Future]]:
        """The images of one step, query and reference, and what fills them row by row."""
        if self.skip_bad and self.ranks > 1:
            for pair in pair_G:
                pool.submit(self._is_good, pair)  # other ranks' rows: the answer is kept
        batch = [self._arrays[view].take() for view in SIDES]
        return batch, [
            pool.submit(self._fill, epoch, int(pair), [pictures[row] for pictures in batch])
            for row, pair in enumerate(pair_B)
        ]

    def _mask_and_targets(self, pair_G: np.ndarray, epoch: int, step: int) -> tuple[np.ndarray, ...]:
        good_G = pair_G != PADDING
        if self.skip_bad:
            good_G = good_G & [self._is_good(pair) for pair in pair_G]
            if not good_G.any():
                path, problem = next(iter(self.bad_pictures.items()))
                raise ImageError(f"epoch {epoch}, step {step}: no pair of the batch has two good pictures; {problem}")
        mask_GG = self._sampler.mask(pair_G) & good_G[:, None] & good_G[None, :]
        return mask_GG, *(_rows_of(target_P, pair_G, good_G) for target_P in self.targets.values())

    def _fill(self, epoch: int, pair: int, rows: Sequence[np.ndarray]) -> None:
        """Both pictures of a pair, (3, H, W) each; black ones for padding and bad files."""
        if pair == PADDING or (self.skip_bad and not self._is_good(pair)):
            for view, row in zip(SIDES, rows, strict=True):
                self._normalization.write(black_picture(self.views[view].size_px), row)
            return
        changes = draw_augmentation(self._seed, epoch, pair, self._settings) if self._settings else None
        for view, path, row in zip(SIDES, self._paths(pair), rows, strict=True):
            change = getattr(changes, view) if changes else ViewAugmentation()
            self._normalization.write(changed_picture(path, self.views[view], change), row)

    def _paths(self, pair: int) -> list[Path]:
        return [self.views[view].paths[file] for view, file in zip(SIDES, self._pair_P2[pair], strict=True)]

    def _is_good(self, pair: int) -> bool:
        if pair == PADDING:
            return True
        whole = [self._is_whole(path) for path in self._paths(pair)]  # a list: both files are looked at and counted
        return all(whole)

    def _is_whole(self, path: Path) -> bool:
        if path not in self._looked_at:
            problem = _problem(path)
            with self._lock:
                if problem is not None and str(path) not in self.bad_pictures:
                    self.bad_pictures[str(path)] = problem
                self._looked_at[path] = problem is None
        return self._looked_at[path]


def _rows_of(target_P: np.ndarray, pair_G: np.ndarray, good_G: np.ndarray) -> np.ndarray:
    """The target of each pair of a batch, float32; zeros where a row is not good."""
    target_G = target_P[pair_G].astype(np.float32)
    target_G[~good_G] = 0
    return target_G


def _problem(path: Path) -> str | None:
    try:
        check_decodes(path)
    except ImageError as error:
        return str(error)
    return None


class ImageBatches:
    """Pictures in the given order for evaluation: iterate for (image (batch,3,H,W) float32, count of real ones).

    Normalized and resized as in training. The last batch is filled up with black pictures. Threads make the pictures
    ahead; a batch that is kept stays as it is, one that is not is written over (see ``BatchArrays``): fetch what a
    device makes of a batch before the next.

    Args:
        files: pictures of one view.

    Raises (while iterating):
        ImageError: a file is missing, truncated or can't be decoded.
    """

    def __init__(self, files: ViewFiles, normalization: Normalization, batch_size: int, workers: int = 1):
        self._files, self._normalization = files, normalization
        self._batch_size, self._workers = batch_size, workers

    @property
    def size_px(self) -> tuple[int, int]:
        return tuple(self._files.size_px)

    def __len__(self) -> int:
        """Batches."""
        return -(-len(self._files.paths) // self._batch_size)

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        paths, size = self._files.paths, self._batch_size
        parts = [paths[first : first + size] for first in range(0, len(paths), size)]
        arrays = BatchArrays((size, 3, *self.size_px))
        with picture_threads(self._workers) as pool:
            ahead = batches_ahead(self._workers, size)
            for part, (batch, rows) in in_advance(parts, ahead, lambda part: self._begin(pool, arrays.take(), part)):
                wait_for(rows)
                yield batch, len(part)
                del batch  # else it would count as held

    def _begin(
        self, pool: ThreadPoolExecutor, batch: np.ndarray, part: Sequence[Path]
    ) -> tuple[np.ndarray, list[Future]]:
        for row in batch[len(part) :]:
            self._normalization.write(black_picture(self.size_px), row)
        return batch, [pool.submit(self._fill, path, row) for path, row in zip(part, batch, strict=False)]

    def _fill(self, path: Path, row: np.ndarray) -> None:
        self._normalization.write(changed_picture(path, self._files, ViewAugmentation()), row)
