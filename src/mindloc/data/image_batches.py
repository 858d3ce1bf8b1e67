"""Batches of one view's pictures in the given order, for evaluation; no MindSpore here."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mindloc.data.augment import ViewAugmentation
from mindloc.data.batch_arrays import BatchArrays
from mindloc.data.normalization import Normalization
from mindloc.data.picture_threads import (
    ViewFiles,
    batches_ahead,
    black_picture,
    changed_picture,
    in_advance,
    picture_threads,
    wait_for,
)


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
