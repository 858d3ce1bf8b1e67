"""Threads that read, change and normalize pictures ahead of the consumer; no MindSpore here.

The pixels are OpenCV's and NumPy's work, which let the other threads run meanwhile, and they are written straight into
the batch: a training batch in ``pair_stream.py``, one of evaluation in ``image_batches.py``.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mindloc.cores import usable_cores
from mindloc.data.augment import ViewAugmentation, augment
from mindloc.data.picture_file import cut_border, decode, read_bytes

_ROWS_AHEAD_PER_WORKER = 4


@dataclass(frozen=True)
class ViewFiles:
    """The pictures of one view and what every one of them becomes before any random change."""

    paths: Sequence[Path]
    size_px: tuple[int, int]  # height, width
    cut_border: float = 0.0  # share cropped from each side


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
