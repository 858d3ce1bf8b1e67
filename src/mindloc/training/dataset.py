"""Training batches as a data set of MindSpore's, read ahead of the step.

Shapes: B rows of a batch on this rank, G rows of the global batch, H height, W width, P pairs.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import mindspore as ms
import mindspore.dataset as ds
import numpy as np

from mindloc.config import Config
from mindloc.data.loader import PairStream
from mindloc.data.sampler import Sampler, SamplingReport
from mindloc.data.split import Split
from mindloc.errors import DataError, ImageError
from mindloc.registry import HEADS
from mindloc.runtime.cluster import ALONE, Cluster
from mindloc.training.resume import Progress
from mindloc.vocabulary import SIDES

PREFETCH = 1  # batches that MindSpore keeps ready; its default of 16 is 3.6 GB at batch 64 and 384 px


class TrainData:
    """The batches of a training, from the start of a stream of pairs on.

    ``dataset`` goes to ``Model.train``. Its columns: query (B,3,H,W) and reference (B,3,H,W) float32, normalized: this
    rank's rows of the global batch. mask (G,G) bool: True = the cell counts. Then the stream's targets, (G,...) float32
    each, of the global batch. Padded rows, and with ``skip_bad`` rows with a bad image, are black images with zeros for
    targets, without a True in their row and column.

    One iterator walks through the epochs, each with its own number of steps (``dataset.get_dataset_size()`` only knows
    the first). A second iterator continues with the epoch after the last one that was started; build a new
    ``TrainData`` to start elsewhere.
    """

    def __init__(self, stream: PairStream):
        ds.config.set_prefetch_size(PREFETCH)
        columns = ["query", "reference", "mask", *stream.targets]
        self.dataset = ds.GeneratorDataset(stream, columns, shuffle=False, num_parallel_workers=1)
        self._stream = stream
        epoch, step = stream.start
        self.dataset.dataset_size = self.steps(epoch) - step  # else MindSpore would read a whole epoch to count

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


def targets_of(config: Config, split: Split, names: Sequence[str]) -> dict[str, np.ndarray]:
    """name -> (P, ...): what the criterion reads of each training pair, columns of the split's edges.

    Raises:
        DataError: the reader of the data set has no such column.
    """
    columns = split.edges(config.data.train_mode).columns
    absent = [name for name in names if name not in columns]
    if absent:
        losses = ", ".join(f"{key}={config.value(key)}" for key in HEADS[config.head.name].losses.values())
        raise DataError(
            f"the loss ({losses}) reads {absent[0]} of each pair, and data.reader={config.data.reader} has no such "
            "column; choose a loss that reads none, for example infonce"
        )
    return {name: columns[name] for name in names}


def build_train_data(
    config: Config,
    split: Split,
    sampler: Sampler,
    targets: Mapping[str, np.ndarray],
    cluster: Cluster = ALONE,
    progress: Progress | None = None,
) -> TrainData:
    """This rank's training batches as the config asks.

    Args:
        targets: of every training pair; see ``targets_of``.
        progress: where to start; None: at the first step.

    Raises:
        DataError: the global batch can't be cut into equal parts.
    """
    progress = progress or Progress()
    stream = PairStream(
        views={side: config.view(side) for side in SIDES},
        paths={side: split.paths(side) for side in SIDES},
        pair_P2=split.edges(config.data.train_mode).pairs(),
        targets=targets,
        sampler=sampler,
        settings=config.augment,
        seed=config.train.seed,
        skip_bad=config.data.on_bad_image == "skip",
        workers=config.data.workers,
        shard=(cluster.rank, cluster.size, config.train.accumulate),
        start=(progress.epoch, progress.step_in_epoch),
        reuse_arrays=ms.get_context("device_target") == "CPU",  # of other devices it is not known when they have read
    )
    return TrainData(stream)
