"""Batches on their way to the device: a stream of whole steps as a data set of MindSpore's, ahead of the step.

Letters: B rows of a batch on this rank, G rows of the global batch, H height, W width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import mindspore as ms
import mindspore.dataset as ds

from mindloc.config.schema import Config
from mindloc.data.images import Normalization
from mindloc.data.loader import PairStream, view_files
from mindloc.data.sampler import Sampler, SamplingReport
from mindloc.data.split import Split
from mindloc.errors import ImageError

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
        return self._stream.plan(epoch).steps

    def report(self, epoch: int) -> SamplingReport:
        """What the sampler kept and set aside in that epoch."""
        return self._stream.plan(epoch).report

    @property
    def bad_images(self) -> dict[str, str]:
        """Path of each bad image skipped so far (``data.on_bad_image=skip``) -> what is wrong with it.

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
    dataset.dataset_size = stream.plan(epoch).steps - step  # else MindSpore would read a whole epoch to count
    return TrainData(dataset, stream)


def build_train_dataset(
    config: Config,
    split: Split,
    sampler: Sampler,
    targets: Sequence[str],
    rank: int = 0,
    ranks: int = 1,
    first_epoch: int = 0,
    first_step: int = 0,
) -> TrainData:
    """Training batches as the config asks; columns, shapes and errors: see ``train_data``.

    Args:
        targets: what the criterion reads of each pair, names of columns of the split's edges.
    """
    data = config.data
    edges = split.edges(data.train_mode)
    stream = PairStream(
        query=view_files(config.view("query"), split.paths("query")),
        reference=view_files(config.view("reference"), split.paths("reference")),
        pair_P2=edges.pairs(),
        targets={name: edges.columns[name] for name in targets},
        sampler=sampler,
        normalization=Normalization(config.model.mean, config.model.std),
        settings=config.augment if config.augment.enabled else None,
        seed=config.train.seed,
        skip_bad=data.on_bad_image == "skip",
        workers=data.workers,
        shard=(rank, ranks, config.train.accumulate),
        start=(first_epoch, first_step),
        reuse_arrays=ms.get_context("device_target") == "CPU",  # elsewhere nobody has seen when a device has read
    )
    return train_data(stream)
