"""From a config to the parts of a training: weights to start from, neighbors, evaluation."""

from collections.abc import Callable
from pathlib import Path

from mindloc.config import Config
from mindloc.data.hard_negatives import NeighborTables
from mindloc.data.loader import ImageBatches
from mindloc.data.split import Split
from mindloc.evaluation.evaluate import evaluate, help_evaluate
from mindloc.inference.build import card_facts
from mindloc.inference.engine import MindSporeEngine
from mindloc.models.build import with_normalization_of
from mindloc.runtime.checkpoint import Weights, is_own_checkpoint, load_weights
from mindloc.runtime.cluster import Cluster
from mindloc.training.neighbors import NeighborSource, PairedImages

_TRACKED = ("recall@1", "recall@5", "recall@10", "ap", "sdm@3", "dis@1_median_m")


def starting_weights(config: Config, say: Callable[[str], None]) -> tuple[Config, Weights | None]:
    """The config with the normalization of the weights to start from, and those of a mindloc checkpoint themselves.

    Other people's weights become ``model.pretrained``.

    Raises:
        CheckpointError: they can't be read.
    """
    path = config.train.checkpoint_start or config.model.pretrained
    if path is None:
        return config, None
    config = with_normalization_of(path, config)
    say(f"begins from {path}, pixels with mean {list(config.model.mean)} and std {list(config.model.std)}")
    if config.train.checkpoint_start and is_own_checkpoint(path):
        return config, load_weights(path)
    return config.with_values({"model.pretrained": path}), None


def build_neighbor_source(config: Config, split: Split, cluster: Cluster) -> NeighborSource | None:
    """Where hard negatives come from, with the table of the map where it is read; None without hard negatives."""
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


def evaluate_in_training(
    engine: MindSporeEngine, config: Config, split: Split, cluster: Cluster, directory: Path | None
) -> dict[str, float] | None:
    """Scores on a split, with the report in ``directory``; on every rank but the first there is neither."""
    if directory is None:
        help_evaluate(engine, config, split, cluster)
        return None
    extras = {"baselines": False, "figures": False, "search_times": False}
    report = evaluate(engine, config, split, directory, **extras, cluster=cluster)
    values = report["methods"]["model"][report["mode"]]
    return {name: values[name] for name in _TRACKED if values.get(name) is not None}
