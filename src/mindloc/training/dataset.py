"""Training batches as a MindSpore data set, read ahead of the step.

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

PREFETCH = 1  # batches in MindSpore's queue; the default of 16 is 3.6 GB at batch 64 and 384 px


class TrainData:
    """The batches of a training run; their MindSpore data set ``dataset`` is the argument of ``Model.train``.

    Its columns: query (B,3,H,W) and reference (B,3,H,W), normalized float32, this rank's rows of the global batch; mask
    (G,G) bool, True where the loss counts the cell; the stream's targets of the global batch, (G,...) float32 each.
    Padded rows, and with ``skip_bad`` rows with an unreadable image, have black images, targets 0 and a mask of False
    in their row and column.

    One iterator yields all epochs, whose numbers of steps differ (``dataset.get_dataset_size()`` is that of the first).
    A second iterator continues with the epoch after the last one started; create a new ``TrainData`` for another start.
    """

    def __init__(self, stream: PairStream):
        ds.config.set_prefetch_size(PREFETCH)
        columns = ["query", "reference", "mask", *stream.targets]
        self.dataset = ds.GeneratorDataset(stream, columns, shuffle=False, num_parallel_workers=1)
        self._stream = stream
        epoch, step = stream.start
        self.dataset.dataset_size = self.steps(epoch) - step  # else MindSpore reads a whole epoch to count

    def steps(self, epoch: int) -> int:
        """Number of steps of a whole epoch, also of one that is resumed in the middle."""
        return self._stream.sampler.plan(epoch).steps

    def report(self, epoch: int) -> SamplingReport:
        """Pair counts of an epoch."""
        return self._stream.sampler.plan(epoch).report

    @property
    def bad_images(self) -> dict[str, str]:
        """Path of each image skipped so far (``data.on_bad_image=skip``) -> its problem.

        The loader is ahead of the step, so some may belong to later steps.
        """
        return dict(self._stream.bad_images.problems)

    @contextmanager
    def clear_errors(self) -> Iterator[None]:
        """Context of the training loop: an unreadable image is raised as its one-line ``ImageError``.

        MindSpore wraps an exception of the data source into a RuntimeError with pages of text. Errors of the step, and
        all others that the data source did not raise, are not changed.
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
    """name -> (P, ...): the criterion's targets of each training pair, columns of the split's edges.

    Raises:
        DataError: the data set's reader does not provide a target.
    """
    columns = split.edges(config.data.train_mode).columns
    absent = [name for name in names if name not in columns]
    if absent:
        losses = ", ".join(f"{key}={config.value(key)}" for key in HEADS[config.head.name].losses.values())
        raise DataError(
            f"the loss ({losses}) reads {absent[0]} of each pair, which data.reader={config.data.reader} does not "
            "provide; choose a loss without it, for example infonce"
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
    """The training batches of this rank, as the config describes them.

    Args:
        targets: of every training pair; see ``targets_of``.
        progress: where to start; None: at the first step.

    Raises:
        DataError: the global batch can't be split into equal parts.
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
        reuse_arrays=ms.get_context("device_target") == "CPU",  # other devices may read them later
    )
    return TrainData(stream)
