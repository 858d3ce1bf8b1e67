"""The parts of a training run that depend on its config: initial weights, step, sampler and hard negatives."""

from collections.abc import Callable
from pathlib import Path

import mindspore as ms

from mindloc.config import Config
from mindloc.data.hard_negatives import NeighborTables
from mindloc.data.loader import ImageBatches
from mindloc.data.sampler import Sampler, build_sampler
from mindloc.data.split import Split
from mindloc.inference.build import card_facts
from mindloc.losses.criterion import Criterion
from mindloc.models.build import build_encoder, with_normalization_of
from mindloc.runtime.checkpoint import Weights, is_own_checkpoint, load_weights, resolve_checkpoint
from mindloc.runtime.cluster import Cluster
from mindloc.training.checkpointing import load_weights_into
from mindloc.training.neighbors import NeighborSource, PairedImages, restore_table
from mindloc.training.optimizer import AdamW
from mindloc.training.resume import ResumePoint
from mindloc.training.step import TrainStep


def starting_weights(config: Config, say: Callable[[str], None]) -> tuple[Config, Weights | None]:
    """(config with the normalization of the initial weights, the weights if they are a mindloc checkpoint).

    Other weights become ``model.pretrained`` of the config.

    Raises:
        CheckpointError: the weights can't be read.
    """
    if config.train.checkpoint_start and Path(config.train.checkpoint_start).is_dir():
        start = resolve_checkpoint(config.train.checkpoint_start, say)
        config = config.with_values({"train.checkpoint_start": str(start)})
    path = config.train.checkpoint_start or config.model.pretrained
    if path is None:
        return config, None
    config = with_normalization_of(path, config)
    say(f"initial weights {path}, pixel mean {list(config.model.mean)} and std {list(config.model.std)}")
    if config.train.checkpoint_start and is_own_checkpoint(path):
        return config, load_weights(path)
    return config.with_values({"model.pretrained": path}), None


def build_step(
    config: Config, criterion: Criterion, cluster: Cluster, weights: Weights | None, say: Callable[[str], None]
) -> TrainStep:
    """The step of a new or resumed training run; its encoder gets ``weights``, or initial ones if that is None."""
    ms.set_seed(config.train.seed)
    # weights replace the initial ones, whose file may not exist any more
    encoder = build_encoder(config.with_values({"model.pretrained": None}) if weights else config, say)
    step = TrainStep(encoder, criterion, AdamW(encoder.trainable_params(), config.optimizer), config.train, cluster)
    if weights:
        load_weights_into(step, weights)
    return step


def build_sampling(
    config: Config, split: Split, cluster: Cluster, point: ResumePoint | None
) -> tuple[Sampler, NeighborSource | None]:
    """(sampler, its source of hard negatives or None); a resumed run gets the neighbor table of its checkpoint."""
    neighbors = _build_neighbor_source(config, split, cluster)
    if neighbors and point:
        restore_table(neighbors.tables, neighbors.images, point.state, point.progress)
    done = point.progress.epoch if point else 0
    return _checked_sampler(config, split, neighbors, cluster, done), neighbors


def _build_neighbor_source(config: Config, split: Split, cluster: Cluster) -> NeighborSource | None:
    """The source of hard negatives, with the map table if an epoch reads it; None without hard negatives."""
    sampling = config.sampling
    if sampling.hard_negatives == "none":
        return None
    images = PairedImages(split, split.edges(config.data.train_mode).pairs(), sampling.neighbors)
    tables = NeighborTables(sampling, images.near_on_map() if sampling.hard_negatives != "descriptors" else None)
    return NeighborSource(
        tables,
        images,
        images_of=lambda side, paths: ImageBatches(
            config.view(side), paths, config.eval.batch_size, config.data.workers
        ),
        facts_of=lambda side: card_facts(config, side, split.side(side).place_unit),
        cluster=cluster,
    )


def _checked_sampler(
    config: Config, split: Split, neighbors: NeighborSource | None, cluster: Cluster, done: int
) -> Sampler:
    """The sampler, after a check that the first epoch to train has batches that all ranks can share."""
    data, train, tables = config.data, config.train, neighbors and neighbors.tables
    sampler = build_sampler(split, data.train_mode, config.sampling, train.batch_size, train.seed, tables)
    if train.epochs > done:
        is_known = tables is None or not tables.lacks(done)
        plan = (sampler if is_known else sampler.without_neighbors()).plan(done)
        plan.shard(cluster.rank, cluster.size, train.accumulate)
    return sampler
