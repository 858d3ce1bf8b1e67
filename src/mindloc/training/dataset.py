"""Batches on their way to the device: a stream of whole steps as a data set of MindSpore's, ahead of the step.

Letters: B rows of a batch on this rank, G rows of the global batch, H height, W width.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import mindspore as ms
import mindspore.dataset as ds
import numpy as np

from mindloc.config.schema import Config
from mindloc.data.loader import PairStream
from mindloc.data.sampler import Sampler, SamplingReport
from mindloc.data.split import Split
from mindloc.errors import DataError, ImageError
from mindloc.registry import HEADS
from mindloc.vocabulary import SIDES

PREFETCH = 1  # batches that MindSpore holds ready; its default of 16 is 3.6 GB at batch 64 and 384 px


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
        return self._stream.sampler.plan(epoch).steps

    def report(self, epoch: int) -> SamplingReport:
        """What the sampler kept and set aside in that epoch."""
        return self._stream.sampler.plan(epoch).report

    @property
    def bad_images(self) -> dict[str, str]:
        """Path of each bad image skipped so far (``data.on_bad_image=skip``) -> what is wrong with it.

        The loader runs ahead of the step, so some may belong to a step to come.
        """
        return dict(self._stream.bad_images.problems)

    @contextmanager
    def clear_errors(self) -> Iterator[None]:
        """Around the training loop: a bad image leaves as its own one-line ``ImageError``.

        MindSpore wraps what a data source raises into a RuntimeError of several pages. Errors of the step itself, and
        whatever else is no fault of the data, pass unchanged.
        """
        try:
            yield
        except RuntimeError as error:
            if "Exception thrown from user defined" not in str(error):
                raise
            cause = self._stream.failure
            if cause is None:
                raise
            if isinstance(cause, ImageError) and not self._stream.skip_bad:
                cause = ImageError(f"{cause}, or train without its pairs: --set data.on_bad_image=skip")
            raise cause from error


def train_data(stream: PairStream) -> TrainData:
    """Batches of a stream of pairs.

    query (B,3,H,W) and reference (B,3,H,W) float32, normalized: this rank's rows of the global batch. mask (G,G) bool:
    True = the cell counts. Then the stream's targets, (G,...) float32 each, of the global batch. Padded rows, and with
    ``skip_bad`` rows with a bad image, are black images with zeros for targets, without a True in their row and column.
    """
    ds.config.set_prefetch_size(PREFETCH)
    columns = ["query", "reference", "mask", *stream.targets]
    dataset = ds.GeneratorDataset(stream, columns, shuffle=False, num_parallel_workers=1)
    epoch, step = stream.start
    dataset.dataset_size = stream.sampler.plan(epoch).steps - step  # else MindSpore would read a whole epoch to count
    return TrainData(dataset, stream)


def targets_of(config: Config, split: Split, names: Sequence[str]) -> dict[str, np.ndarray]:
    """name -> (P, ...): what the criterion reads of each training pair, columns of the split's edges.

    Raises:
        DataError: the reader of the data set has no such column.
    """
    columns = split.edges(config.data.train_mode).columns
    absent = [name for name in names if name not in columns]
    if absent:
        keys = HEADS[config.head.name].losses.values()
        losses = ", ".join(f"{key}={getattr(config.loss, key.removeprefix('loss.'))}" for key in keys)
        raise DataError(
            f"the loss ({losses}) reads {absent[0]} of each pair, and data.reader={config.data.reader} has no such "
            "column; choose a loss that reads none, for example infonce"
        )
    return {name: columns[name] for name in names}


def build_train_dataset(
    config: Config,
    split: Split,
    sampler: Sampler,
    targets: Mapping[str, np.ndarray],
    rank: int = 0,
    ranks: int = 1,
    first_epoch: int = 0,
    first_step: int = 0,
) -> TrainData:
    """Training batches as the config asks; columns, shapes and errors: see ``train_data``.

    Args:
        targets: of every training pair; see ``targets_of``.
    """
    edges = split.edges(config.data.train_mode)
    stream = PairStream(
        views={side: config.view(side) for side in SIDES},
        paths={side: split.paths(side) for side in SIDES},
        pair_P2=edges.pairs(),
        targets=targets,
        sampler=sampler,
        settings=config.augment,
        seed=config.train.seed,
        skip_bad=config.data.on_bad_image == "skip",
        workers=config.data.workers,
        shard=(rank, ranks, config.train.accumulate),
        start=(first_epoch, first_step),
        reuse_arrays=ms.get_context("device_target") == "CPU",  # elsewhere nobody has seen when a device has read
    )
    return train_data(stream)
