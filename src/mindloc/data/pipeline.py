"""Pictures on their way to the device: batches in the sampler's order, ahead of the step, on mindspore.dataset.

Python hands over bytes where no random choice is needed, and C++ decodes, resizes and normalizes. Where pictures are
augmented, threads of our own do that on uint8 (OpenCV lets the others run meanwhile) and C++ normalizes.

Letters: B rows of a batch on this rank, G rows of the global batch, H height, W width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import mindspore.dataset as ds
import numpy as np
from mindspore.dataset import vision

from mindloc.data.augment import VIEWS
from mindloc.data.picture_stream import FileStream, PairStream, ViewFiles, first_undecodable, usable_workers
from mindloc.data.sampler import SamplingReport
from mindloc.errors import ImageError

COLUMNS = ("drone", "satellite", "weight", "mask")
_PREFETCH = 2  # batches that each C++ operation holds ready; its default of 16 is 3.6 GB at batch 64 and 384 px


class TrainData:
    """The batches of a training, from a given epoch and step on.

    ``dataset`` goes to ``Model.train``: one iterator walks through the epochs, each with its own number of steps
    (``dataset.get_dataset_size()`` only knows the first). A second iterator goes on with the epoch after the last one
    that was begun; build a new ``TrainData`` to start elsewhere.
    """

    def __init__(self, dataset: ds.Dataset, stream: PairStream):
        self.dataset = dataset
        self._stream = stream

    def steps(self, epoch: int) -> int:
        """Steps of a whole epoch, those before a resumed one's first step included."""
        return self._stream.plan(epoch).steps

    def report(self, epoch: int) -> SamplingReport:
        """What the sampler kept and set aside in that epoch."""
        return self._stream.plan(epoch).report

    @property
    def bad_pictures(self) -> dict[str, str]:
        """Path of each bad picture skipped so far (``data.on_bad_image=skip``) -> what is wrong with it.

        The loader runs ahead of the step, so some may belong to a step to come.
        """
        return dict(self._stream.bad_pictures)

    @contextmanager
    def clear_errors(self) -> Iterator[None]:
        """Around the training loop: a bad picture leaves as its own one-line ``ImageError``.

        MindSpore wraps what a data source raises into a RuntimeError of several pages. Errors of the step itself, and
        whatever else is no fault of the data, pass unchanged.
        """
        try:
            yield
        except RuntimeError as error:
            if not _from_data(error):
                raise
            cause = self._stream.failure
            if cause is None and not self._stream.augmented:  # then C++ decodes, and does not know the name
                cause = first_undecodable(self._stream.recent_paths())
            if cause is None:
                raise
            if isinstance(cause, ImageError) and not self._stream.skip_bad:
                cause = ImageError(f"{cause}, or train without its pairs: --set data.on_bad_image=skip")
            raise cause from error


def train_data(stream: PairStream, mean: Sequence[float], std: Sequence[float]) -> TrainData:
    """Batches of a stream of pairs.

    drone (B,3,H,W) and satellite (B,3,H,W) float32, normalized: this rank's rows of the global batch. weight (G,)
    float32: IoU of every pair of the global batch. mask (G,G) bool: True = the cell counts. Padded rows, and with
    ``skip_bad`` rows with a bad picture, are black pictures of weight 0 without a True in their row and column.

    Args:
        mean, std: per channel, of pixels scaled to 0..1.
    """
    ds.config.set_prefetch_size(_PREFETCH)
    dataset = ds.GeneratorDataset(stream, list(COLUMNS), shuffle=False, num_parallel_workers=1)
    workers = usable_workers(stream.workers)
    for view in VIEWS:
        operations = _pixel_operations(stream, view) + _normalize(mean, std)
        dataset = dataset.map(operations, input_columns=[view], num_parallel_workers=workers)
    dataset = dataset.batch(stream.rows, num_parallel_workers=1)
    if stream.ranks > 1:
        dataset = _join_global_rows(dataset)
    epoch, step = stream.start
    dataset.dataset_size = stream.plan(epoch).steps - step  # else MindSpore would read a whole epoch to count
    return TrainData(dataset, stream)


class ImageBatches:
    """Pictures in the given order for evaluation: iterate for (image (batch,3,H,W) float32, count of real ones).

    Normalized and resized as in training. The last batch is filled up with black pictures. C++ does the pixels; threads
    read the files ahead.

    Args:
        size_px: height, width.
        mean, std: per channel, of pixels scaled to 0..1.
        cut_border: share cropped from each side first.

    Raises (while iterating):
        ImageError: a file is missing, truncated or can't be decoded.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        size_px: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int,
        workers: int = 1,
        cut_border: float = 0.0,
    ):
        self._files = ViewFiles([Path(path) for path in paths], tuple(size_px), cut_border)
        self.size_px = self._files.size_px
        self._mean, self._std, self._batch_size, self._workers = mean, std, batch_size, workers

    def __len__(self) -> int:
        """Batches."""
        return -(-len(self._files.paths) // self._batch_size)

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        ds.config.set_prefetch_size(_PREFETCH)
        stream = FileStream(self._files, len(self) * self._batch_size, self._workers)
        dataset = ds.GeneratorDataset(stream, ["image"], shuffle=False, num_parallel_workers=1)
        operations = _decode_and_resize(self._files) + _normalize(self._mean, self._std)
        dataset = dataset.map(operations, input_columns=["image"], num_parallel_workers=usable_workers(self._workers))
        dataset = dataset.batch(self._batch_size, num_parallel_workers=1)
        left = len(self._files.paths)
        try:
            for (image,) in dataset.create_tuple_iterator(num_epochs=1, output_numpy=True):
                yield image, min(left, self._batch_size)
                left -= self._batch_size
        except RuntimeError as error:
            cause = stream.failure or first_undecodable(self._files.paths[-left:])
            if cause is None:
                raise
            raise cause from error


def _from_data(error: RuntimeError) -> bool:
    """Whether the data pipeline raised it: in Python (our own errors) or in C++ (a picture that it can't decode)."""
    return any(mark in str(error) for mark in ("Exception thrown from user defined", "Exception thrown from dataset"))


def _pixel_operations(stream: PairStream, view: str) -> list:
    return [] if stream.augmented else _decode_and_resize(stream.views[view])


def _decode_and_resize(files: ViewFiles) -> list:
    decoded = [] if files.cut_border else [vision.Decode()]
    return [*decoded, vision.Resize(tuple(files.size_px), vision.Inter.AREA)]


def _normalize(mean: Sequence[float], std: Sequence[float]) -> list:
    return [vision.Normalize([255 * m for m in mean], [255 * s for s in std]), vision.HWC2CHW()]


def _join_global_rows(dataset: ds.Dataset) -> ds.Dataset:
    """weight (B,n) and mask (B,n,G) of n ranks as (G,) and (G,G)."""
    join = {"weight": lambda weight: weight.reshape(-1), "mask": lambda mask: mask.reshape(-1, mask.shape[-1])}
    for column, operation in join.items():
        dataset = dataset.map(operation, input_columns=[column], num_parallel_workers=1, python_multiprocessing=False)
    return dataset
