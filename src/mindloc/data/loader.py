"""Batches of images: threads that read, change and normalize ahead of whoever consumes them.

``PairStream`` has the training batches, in the sampler's order, the same for every number of threads and ranks;
``ImageBatches`` has the images of one view in a given order, for evaluation. OpenCV and NumPy do the work on pixels and
let the other threads run meanwhile; they write straight into the batch, whose memory is used again.

Shapes: B rows of a batch on this rank, G rows of the global batch, H height, W width, P pairs, S steps.
"""

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mindloc.config.sections import AugmentConfig
from mindloc.data.augment import Augmentation, augment, draw_augmentation
from mindloc.data.images import ImageLike, check_decodes, cut_border, normalize, pixels_of
from mindloc.data.sampler import PADDING, Sampler
from mindloc.errors import ImageError
from mindloc.runtime.process import usable_cores
from mindloc.vocabulary import SIDES, SideName, ViewSpec

_ROWS_AHEAD_PER_WORKER = 4


class PairStream:
    """Steps (query_B3HW, reference_B3HW, mask_GG, targets...) of one epoch after the other, in the sampler's order.

    Images are this rank's, mask and targets are those of the global batch.

    A file that can't be read raises ``ImageError``, or with ``skip_bad`` its row is masked. For that every rank
    looks at the files of the whole global batch, as all must mask the same rows; each file once.

    Args:
        views: what each side shows.
        paths: the images of each side.
        pair_P2: query and reference of each pair.
        targets: name -> (P, ...), what the loss reads of each pair; rows without a pair get zeros.
        settings: random changes.
        shard: rank, number of ranks, and parts of a batch; see ``EpochPlan.shard``.
        start: epoch, and the step within it, to start with.
        reuse_arrays: use the arrays of images again for a later step once nobody holds them (see ``BatchArrays``).

    Raises:
        ValueError: the start is beyond its epoch.
        DataError: the global batch can't be cut into equal parts.
    """

    def __init__(
        self,
        views: Mapping[SideName, ViewSpec],
        paths: Mapping[SideName, Sequence[Path]],
        pair_P2: np.ndarray,
        targets: Mapping[str, np.ndarray],
        sampler: Sampler,
        settings: AugmentConfig,
        seed: int,
        skip_bad: bool = False,
        workers: int = 1,
        shard: tuple[int, int, int] = (0, 1, 1),
        start: tuple[int, int] = (0, 0),
        reuse_arrays: bool = True,
    ):
        self.sampler, self.targets, self.skip_bad = sampler, targets, skip_bad
        self.workers, self.shard, self.start = workers, shard, start
        self.failure: Exception | None = None
        self.bad_images = _BadImages()
        self._views, self._paths, self._pair_P2 = views, paths, pair_P2
        self._settings, self._seed = settings, seed
        self._position = start
        steps, self._rows = sampler.plan(start[0]).shard(*shard).shape
        self._arrays = {side: BatchArrays((self._rows, 3, *views[side].size_px), reuse_arrays) for side in SIDES}
        if not 0 <= start[1] < steps:
            raise ValueError(f"epoch {start[0]} has {steps} steps, none is {start[1]}; start with the next epoch")

    def __iter__(self) -> Iterator[tuple]:
        epoch, first_step = self._position  # runs at the first next(): an iterator that is never used costs no epoch
        self._position = (epoch + 1, 0)
        try:
            yield from self._epoch(epoch, first_step)
        except Exception as error:
            self.failure = error  # MindSpore reports it as text only
            raise

    def _epoch(self, epoch: int, first_step: int) -> Iterator[tuple]:
        self.sampler.wait(epoch)  # before plan(), whose lock the training needs to ask for the epoch under way
        plan = self.sampler.plan(epoch)
        steps = list(zip(plan.pair_SG[first_step:], plan.shard(*self.shard)[first_step:], strict=True))
        with _image_threads(self.workers) as pool:
            ahead = _batches_ahead(self.workers, self._rows)
            started = _in_advance(steps, ahead, lambda step: self._start(pool, epoch, *step))
            step = first_step
            for (pair_G, _), (batch, rows) in started:
                _wait_for(rows)
                yield (*batch, *self._mask_and_targets(pair_G, epoch, step))
                step += 1
                del batch  # else its arrays would count as held

    def _start(
        self, pool: ThreadPoolExecutor, epoch: int, pair_G: np.ndarray, pair_B: np.ndarray
    ) -> tuple[list[np.ndarray], list[Future]]:
        """The images of one step, query and reference, and what fills them row by row."""
        if self.skip_bad and self.shard[1] > 1:
            for pair in pair_G:
                pool.submit(self._is_good, pair)  # other ranks' rows: the answer is kept
        batch = [self._arrays[side].take() for side in SIDES]
        return batch, [
            pool.submit(self._fill, epoch, int(pair), [images[row] for images in batch])
            for row, pair in enumerate(pair_B)
        ]

    def _mask_and_targets(self, pair_G: np.ndarray, epoch: int, step: int) -> tuple[np.ndarray, ...]:
        good_G = pair_G != PADDING
        if self.skip_bad:
            good_G = good_G & [self._is_good(pair) for pair in pair_G]
            if not good_G.any():
                problem = next(iter(self.bad_images.problems.values()))
                raise ImageError(f"epoch {epoch}, step {step}: no pair of the batch has two good images; {problem}")
        mask_GG = self.sampler.mask(pair_G) & good_G[:, None] & good_G[None, :]
        return mask_GG, *(_rows_of(target_P, pair_G, good_G) for target_P in self.targets.values())

    def _fill(self, epoch: int, pair: int, rows: Sequence[np.ndarray]) -> None:
        """Both images of a pair, (3, H, W) each; black ones for padding and bad files."""
        if pair == PADDING or (self.skip_bad and not self._is_good(pair)):
            for side, row in zip(SIDES, rows, strict=True):
                _write_black(self._views[side], row)
            return
        changes = dict.fromkeys(SIDES, Augmentation())
        if self._settings.enabled:
            changes = draw_augmentation(self._seed, epoch, pair, self._settings, self._views)
        for side, path, row in zip(SIDES, self._paths_of(pair), rows, strict=True):
            _write_image(path, self._views[side], changes[side], row)

    def _paths_of(self, pair: int) -> list[Path]:
        return [self._paths[side][file] for side, file in zip(SIDES, self._pair_P2[pair], strict=True)]

    def _is_good(self, pair: int) -> bool:
        if pair == PADDING:
            return True
        whole = [self.bad_images.is_whole(path) for path in self._paths_of(pair)]  # a list: both are looked at
        return all(whole)


def _rows_of(target_P: np.ndarray, pair_G: np.ndarray, good_G: np.ndarray) -> np.ndarray:
    """The target of each pair of a batch, float32; zeros where a row is not good."""
    target_G = target_P[pair_G].astype(np.float32)
    target_G[~good_G] = 0
    return target_G


class _BadImages:
    """Which of the files asked for can't be read; each is looked at once."""

    def __init__(self) -> None:
        self.problems: dict[str, str] = {}  # path -> what is wrong
        self._is_whole: dict[Path, bool] = {}
        self._lock = threading.Lock()

    def is_whole(self, path: Path) -> bool:
        if path not in self._is_whole:
            try:
                check_decodes(path)
                problem = None
            except ImageError as error:
                problem = str(error)
            with self._lock:
                if problem is not None and str(path) not in self.problems:
                    self.problems[str(path)] = problem
                self._is_whole[path] = problem is None
        return self._is_whole[path]


class ImageBatches:
    """Images of one view in the given order: iterate for (image (batch,3,H,W) float32, count of real ones).

    Normalized and resized as in training. The last batch is filled up with black images. Threads make the images
    ahead; a batch that is kept stays as it is, one that is not is written over (see ``BatchArrays``): fetch what a
    device makes of a batch before the next.

    Raises (while iterating):
        ImageError: a file is missing, truncated or can't be decoded.
    """

    def __init__(self, view: ViewSpec, images: Sequence[ImageLike], batch_size: int, workers: int = 1):
        self.view, self._images = view, images
        self._batch_size, self._workers = batch_size, workers

    def __len__(self) -> int:
        """Batches."""
        return -(-len(self._images) // self._batch_size)

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        size = self._batch_size
        parts = [self._images[first : first + size] for first in range(0, len(self._images), size)]
        arrays = BatchArrays((size, 3, *self.view.size_px))
        with _image_threads(self._workers) as pool:
            ahead = _batches_ahead(self._workers, size)
            for part, (batch, rows) in _in_advance(parts, ahead, lambda part: self._start(pool, arrays.take(), part)):
                _wait_for(rows)
                yield batch, len(part)
                del batch  # else it would count as held

    def _start(
        self, pool: ThreadPoolExecutor, batch: np.ndarray, part: Sequence[ImageLike]
    ) -> tuple[np.ndarray, list[Future]]:
        for row in batch[len(part) :]:
            _write_black(self.view, row)
        return batch, [
            pool.submit(_write_image, image, self.view, Augmentation(), row)
            for image, row in zip(part, batch, strict=False)
        ]


def _write_image(image: ImageLike, view: ViewSpec, change: Augmentation, row_3HW: np.ndarray) -> None:
    """An image of a view, changed, resized and normalized, into its row of a batch.

    Raises:
        ImageError: the file is missing, truncated or can't be decoded; as ``pixels_of``.
    """
    pixels_HW3 = cut_border(pixels_of(image), view.cut_border)
    normalize(augment(np.ascontiguousarray(pixels_HW3), change, view.size_px), view, row_3HW)


def _write_black(view: ViewSpec, row_3HW: np.ndarray) -> None:
    """What a row without an image has: padding, and a bad file that may be skipped."""
    normalize(np.zeros((*view.size_px, 3), np.uint8), view, row_3HW)


@contextmanager
def _image_threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that make images; what they have not started is dropped when the consumer leaves early."""
    cv2.setNumThreads(1)  # our threads are the parallelism
    threads = max(1, min(workers, len(usable_cores())))  # more than the cores would only wait
    with ThreadPoolExecutor(threads, thread_name_prefix="images") as pool:
        try:
            yield pool
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _batches_ahead(workers: int, rows: int) -> int:
    """Batches of so many rows to start before they are asked for: enough that no thread waits for the consumer."""
    return 1 + _ROWS_AHEAD_PER_WORKER * workers // rows


def _in_advance(items: Sequence, count: int, start: Callable[[Any], Any]) -> Iterator[tuple[Any, Any]]:
    """(item, start(item)) in order, with ``count`` further items already started."""
    started: deque = deque()
    for item in items:
        started.append((item, start(item)))
        if len(started) > count:
            yield started.popleft()
    yield from started


def _wait_for(rows: Sequence[Future]) -> None:
    """Until all rows of a batch are written; an error of one of them is raised here."""
    for row in rows:
        row.result()


class BatchArrays:
    """Float32 arrays of one shape; a batch of images in fresh memory costs as much to map as to normalize.

    MindSpore passes an array on without copying it and keeps a reference as long as it reads, and so does whoever keeps
    the batch or a part of it: the count of references says when the memory is free. For MindSpore that was seen on CPUs
    alone: a device that copies from this memory on its own may still read when the reference is gone.

    Args:
        reuse: False gives fresh memory every time, for devices on which nobody has seen when they have read.

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
