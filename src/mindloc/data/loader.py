"""Batches of images, prepared in advance by threads that read, augment and normalize.

``PairStream`` yields the training batches in the sampler's order, the same for every number of threads and ranks;
``ImageBatches`` yields the images of one view in a given order, for evaluation. OpenCV and NumPy process the pixels
without the GIL and write directly into the batch, whose memory is reused.

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
from mindloc.data.images import ImageLike, cut_border, normalize, read_image
from mindloc.data.sampler import PADDING, Sampler
from mindloc.errors import ImageError
from mindloc.runtime.process import usable_cores
from mindloc.vocabulary import SIDES, SideName, ViewSpec

_ROWS_AHEAD_PER_WORKER = 4


class PairStream:
    """Training batches (query_B3HW, reference_B3HW, mask_GG, targets...) in the sampler's order.

    Each iterator yields one epoch. Images are those of this rank; mask and targets are those of the global batch.

    An unreadable file raises ``ImageError``, or with ``skip_bad`` its row is masked. All ranks must mask the same rows,
    so each rank checks the files of the whole global batch, each file once.

    Args:
        views: the view of each side.
        paths: the image files of each side.
        pair_P2: positions of query and reference of each pair in ``paths``.
        targets: name -> (P, ...), values that the loss reads; rows without a pair get zeros.
        settings: augmentation.
        shard: rank, number of ranks, and parts of a batch; see ``EpochPlan.shard``.
        start: first epoch, and first step within it.
        reuse_arrays: reuse image arrays for later steps when they have no other references (see ``BatchArrays``).

    Raises:
        ValueError: the first step is beyond the end of the epoch.
        DataError: the global batch can't be split into equal parts.
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
            raise ValueError(f"the start is step {start[1]} of {steps} in epoch {start[0]}; start with the next epoch")

    def __iter__(self) -> Iterator[tuple]:
        epoch, first_step = self._position  # runs at the first next(): an unused iterator does not count as an epoch
        self._position = (epoch + 1, 0)
        try:
            yield from self._epoch(epoch, first_step)
        except Exception as error:
            self.failure = error  # MindSpore passes on only its text
            raise

    def _epoch(self, epoch: int, first_step: int) -> Iterator[tuple]:
        self.sampler.wait(epoch)  # before plan(), whose lock the training needs for the current epoch's plan
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
                del batch  # else it would keep a reference to its arrays

    def _start(
        self, pool: ThreadPoolExecutor, epoch: int, pair_G: np.ndarray, pair_B: np.ndarray
    ) -> tuple[list[np.ndarray], list[Future]]:
        """The image arrays of one step, query and reference, and the futures that fill their rows."""
        if self.skip_bad and self.shard[1] > 1:
            for pair in pair_G:
                pool.submit(self._is_good, pair)  # for other ranks' rows too; the result is cached
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
                raise ImageError(f"epoch {epoch}, step {step}: no pair of the batch has two readable images; {problem}")
        mask_GG = self.sampler.mask(pair_G) & good_G[:, None] & good_G[None, :]
        return mask_GG, *(_rows_of(target_P, pair_G, good_G) for target_P in self.targets.values())

    def _fill(self, epoch: int, pair: int, rows: Sequence[np.ndarray]) -> None:
        """Write both images of a pair, (3, H, W) each; black ones for padding and unreadable files."""
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
        whole = [self.bad_images.is_whole(path) for path in self._paths_of(pair)]  # a list, so that both are checked
        return all(whole)


def _rows_of(target_P: np.ndarray, pair_G: np.ndarray, good_G: np.ndarray) -> np.ndarray:
    """The targets of a batch, float32; zeros in rows that are not good."""
    target_G = target_P[pair_G].astype(np.float32)
    target_G[~good_G] = 0
    return target_G


class _BadImages:
    """Unreadable files among those checked; each file is checked once."""

    def __init__(self) -> None:
        self.problems: dict[str, str] = {}  # path -> message
        self._is_whole: dict[Path, bool] = {}
        self._lock = threading.Lock()

    def is_whole(self, path: Path) -> bool:
        if path not in self._is_whole:
            try:
                read_image(path)
                problem = None
            except ImageError as error:
                problem = str(error)
            with self._lock:
                if problem is not None and str(path) not in self.problems:
                    self.problems[str(path)] = problem
                self._is_whole[path] = problem is None
        return self._is_whole[path]


class ImageFindings:
    """Images left out because they are unreadable, and remarks on the others, by position in the list of images."""

    def __init__(self) -> None:
        self.left_out: dict[int, str] = {}  # position -> problem
        self._remarks: dict[str, set[int]] = {}  # remark -> positions
        self._lock = threading.Lock()

    def add(self, position: int, remarks: Sequence[str]) -> None:
        with self._lock:
            for remark in remarks:
                self._remarks.setdefault(remark, set()).add(position)

    def leave_out(self, position: int, problem: str) -> None:
        with self._lock:
            self.left_out[position] = problem

    def notes(self, names: Sequence[str]) -> list[str]:
        """One line for each kind of remark."""
        return [
            f"note: {len(positions)} images {remark} (first {names[min(positions)]})"
            for remark, positions in sorted(self._remarks.items())
        ]


class ImageBatches:
    """Batches of one view in the given order: yields (images (batch,3,H,W) float32, number of real images).

    Images are resized and normalized as in training. The last batch is padded with black images. Threads prepare
    batches in advance. A batch without references is overwritten (see ``BatchArrays``): fetch a device's result before
    taking the next batch.

    Args:
        skip_bad: leave unreadable files out, without a gap; ``findings.left_out`` lists those of all batches so far.
        findings: receives left-out images and remarks; None: a new object.

    Raises (while iterating):
        ImageError: a file is missing, truncated or can't be decoded, unless ``skip_bad``.
    """

    def __init__(
        self,
        view: ViewSpec,
        images: Sequence[ImageLike],
        batch_size: int,
        workers: int = 1,
        skip_bad: bool = False,
        findings: ImageFindings | None = None,
    ):
        self.view, self._images = view, images
        self._batch_size, self._workers, self._skip_bad = batch_size, workers, skip_bad
        self.findings = findings or ImageFindings()

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self._images) // self._batch_size)

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        size = self._batch_size
        parts = [range(first, min(first + size, len(self._images))) for first in range(0, len(self._images), size)]
        arrays = BatchArrays((size, 3, *self.view.size_px))
        with _image_threads(self._workers) as pool:
            ahead = _batches_ahead(self._workers, size)
            for part, (batch, rows) in _in_advance(parts, ahead, lambda part: self._start(pool, arrays.take(), part)):
                _wait_for(rows)
                good = [row for row, position in enumerate(part) if position not in self.findings.left_out]
                if len(good) < len(part):
                    batch[: len(good)] = batch[good]
                    for row in batch[len(good) :]:
                        _write_black(self.view, row)
                if good:
                    yield batch, len(good)
                del batch  # else it would keep a reference to the array

    def _start(
        self, pool: ThreadPoolExecutor, batch: np.ndarray, part: Sequence[int]
    ) -> tuple[np.ndarray, list[Future]]:
        for row in batch[len(part) :]:
            _write_black(self.view, row)
        return batch, [pool.submit(self._fill, position, row) for position, row in zip(part, batch, strict=False)]

    def _fill(self, position: int, row_3HW: np.ndarray) -> None:
        try:
            remarks = _write_image(self._images[position], self.view, Augmentation(), row_3HW)
        except ImageError as error:
            if not self._skip_bad:
                raise
            self.findings.leave_out(position, str(error))
        else:
            self.findings.add(position, remarks)


def _write_image(image: ImageLike, view: ViewSpec, change: Augmentation, row_3HW: np.ndarray) -> tuple[str, ...]:
    """Write an image, augmented, resized and normalized, to its row of a batch; returns the remarks on it.

    Raises:
        ImageError: for the reasons given in ``read_image``.
    """
    decoded = read_image(image)
    pixels_HW3 = cut_border(decoded.pixels_HW3, view.cut_border)
    normalize(augment(np.ascontiguousarray(pixels_HW3), change, view.size_px), view, row_3HW)
    return decoded.remarks


def _write_black(view: ViewSpec, row_3HW: np.ndarray) -> None:
    """Write a black image: for padding, and for unreadable files that are skipped."""
    normalize(np.zeros((*view.size_px, 3), np.uint8), view, row_3HW)


@contextmanager
def _image_threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Thread pool for images; tasks not started are cancelled when the consumer leaves early."""
    cv2.setNumThreads(1)  # one thread per image instead
    threads = max(1, min(workers, len(usable_cores())))  # more threads than cores would only wait
    with ThreadPoolExecutor(threads, thread_name_prefix="images") as pool:
        try:
            yield pool
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _batches_ahead(workers: int, rows: int) -> int:
    """Number of batches of ``rows`` images to start ahead, so that no thread waits for the consumer."""
    return 1 + _ROWS_AHEAD_PER_WORKER * workers // rows


def _in_advance(items: Sequence, count: int, start: Callable[[Any], Any]) -> Iterator[tuple[Any, Any]]:
    """Yield (item, start(item)) in order, with ``count`` further items already started."""
    started: deque = deque()
    for item in items:
        started.append((item, start(item)))
        if len(started) > count:
            yield started.popleft()
    yield from started


def _wait_for(rows: Sequence[Future]) -> None:
    """Wait until all rows of a batch are written; raises the error of a row."""
    for row in rows:
        row.result()


class BatchArrays:
    """Reused float32 arrays of one shape; mapping new memory takes as long as normalizing a batch.

    MindSpore does not copy an array and keeps a reference while it reads, as does any caller that keeps the batch or a
    part of it: the reference count shows when the memory is free. For MindSpore this was observed on CPUs only: a
    device that copies asynchronously may still read after the reference is gone.

    Args:
        reuse: False allocates a new array every time, for devices where the end of reading is unknown.

    Evaluation can always reuse: an engine has read its batch when ``encode`` returns. Call ``take`` from one thread.
    """

    def __init__(self, shape: tuple[int, ...], reuse: bool = True):
        self.shape, self._reuse = shape, reuse
        self._arrays: list[np.ndarray] = []

    def __len__(self) -> int:
        """Number of arrays kept for reuse."""
        return len(self._arrays)

    def take(self) -> np.ndarray:
        """An array without other references, its content undefined."""
        for index in range(len(self._arrays)):
            if _references(self._arrays, index) == _ONLY_IN_THE_LIST:
                return self._arrays[index]
        array = np.empty(self.shape, np.float32)
        if self._reuse:
            self._arrays.append(array)
        return array


def _references(arrays: list[np.ndarray], index: int) -> int:
    return sys.getrefcount(arrays[index])


# measured, as the number of references that counting itself adds differs between Python versions
_ONLY_IN_THE_LIST = _references([np.empty(1, np.float32)], 0)
