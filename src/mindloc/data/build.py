"""From a config to a split, its sampler and its batches."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Literal

import mindspore as ms

from mindloc.config.schema import Config
from mindloc.data import gta_uav, visloc
from mindloc.data.augment import AugmentSettings
from mindloc.data.exclusion import OverlapGraph
from mindloc.data.hard_negatives import HardNegativeRule, NeighborTables
from mindloc.data.image_batches import ImageBatches
from mindloc.data.normalization import Normalization
from mindloc.data.pair_stream import PairStream
from mindloc.data.pairs import Split
from mindloc.data.picture_threads import ViewFiles
from mindloc.data.pipeline import TrainData, train_data
from mindloc.data.sampler import SAMPLERS, Sampler


def build_split(config: Config, split: Literal["train", "test"], json_only: bool = False) -> Split:
    """The training or test split that ``config.data`` names.

    Raises:
        DataError: the first thing that is wrong with it.
    """
    data = config.data
    root, pairs, map_px, m_per_px = data.source(split)
    ratio = data.train_ratio if split == "train" else 1.0
    if data.reader == "visloc":
        return visloc.read_split(root, pairs, train_ratio=ratio, json_only=json_only)
    return gta_uav.read_split(root, pairs, map_px, m_per_px, train_ratio=ratio, json_only=json_only)


def build_hard_negative_rule(config: Config) -> HardNegativeRule | None:
    """When which neighbors count; None without hard negatives."""
    settings = config.sampling
    if settings.hard_negatives == "none":
        return None
    return HardNegativeRule(
        source=settings.hard_negatives,
        from_epoch=settings.hard_from_epoch,
        refresh_every=settings.refresh_every_epochs,
        per_pair=settings.companions,
        share=settings.hard_share,
    )


def build_sampler(config: Config, split: Split, neighbors: NeighborTables | None = None) -> Sampler:
    """The sampler of ``config.sampling`` over the pairs of the training mode.

    Overlaps are those of pos_semipos whatever the mode is, see data/sampler.py.

    Args:
        neighbors: tables that hard negatives are drawn by; None: none are.

    Raises:
        DataError: no pair in the training mode.
    """
    pair_P2, _ = split.pair_list(config.data.train_mode)
    graph = OverlapGraph(split.semipositive, len(split.satellite_files))
    return SAMPLERS[config.sampling.mode](pair_P2, graph, config.train.batch_size, config.train.seed, neighbors)


def build_train_dataset(
    config: Config,
    split: Split,
    sampler: Sampler,
    rank: int = 0,
    ranks: int = 1,
    first_epoch: int = 0,
    first_step: int = 0,
) -> TrainData:
    """Training batches as the config asks; columns, shapes and errors: see ``train_data``."""
    data, settings = config.data, None
    if config.augment.enabled:
        settings = AugmentSettings(**{f.name: getattr(config.augment, f.name) for f in fields(AugmentSettings)})
    pair_P2, weight_P = split.pair_list(data.train_mode)
    stream = PairStream(
        drone=ViewFiles(split.drone_paths(), *config.view_input("drone")),
        satellite=ViewFiles(split.satellite_paths(), *config.view_input("satellite")),
        pair_P2=pair_P2,
        weight_P=weight_P,
        sampler=sampler,
        normalization=Normalization(config.model.mean, config.model.std),
        settings=settings,
        seed=config.train.seed,
        skip_bad=data.on_bad_image == "skip",
        workers=data.workers,
        shard=(rank, ranks, config.train.accumulate),
        start=(first_epoch, first_step),
        reuse_arrays=ms.get_context("device_target") == "CPU",  # elsewhere nobody has seen when a device has read
    )
    return train_data(stream)


def build_images(config: Config, view: str, paths: Sequence[Path], batch_size: int) -> ImageBatches:
    """Pictures of one view in the given order, brought to the encoder as in training but for the random changes."""
    normalization = Normalization(config.model.mean, config.model.std)
    return ImageBatches(ViewFiles(paths, *config.view_input(view)), normalization, batch_size, config.data.workers)
