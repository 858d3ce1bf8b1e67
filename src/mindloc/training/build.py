"""From settings to the parts of a training."""

import functools
from collections.abc import Callable
from typing import Any

import mindspore as ms
from mindspore import nn

from mindloc.config.schema import Config
from mindloc.data.hard_negatives import NeighborTables
from mindloc.data.readers import build_hard_negative_rule, build_images
from mindloc.data.split import Split
from mindloc.evaluation.evaluate import evaluate, help_evaluate
from mindloc.inference.build import card_facts
from mindloc.inference.engine import MindSporeEngine
from mindloc.runtime.cluster import Cluster
from mindloc.runtime.device import require_precision
from mindloc.runtime.run_folder import RunFolder
from mindloc.training.data_parallel import GatherOutputs, average_gradients
from mindloc.training.eval_callback import EvaluateFunction
from mindloc.training.loop import LoopSettings
from mindloc.training.neighbors import NeighborSource, PairedPictures
from mindloc.training.optimizer import AdamW, parameter_table
from mindloc.training.schedule import Schedule
from mindloc.training.step import LossScale, TrainStep

EngineOf = Callable[[nn.Cell], MindSporeEngine]  # of an encoder in training

_TRACKED = ("recall@1", "recall@5", "recall@10", "ap", "sdm@3", "dis@1_median_m")


def build_step(config: Config, encoder: nn.Cell, criterion: nn.Cell, cluster: Cluster) -> TrainStep:
    """The training step of an encoder and a criterion, over all ranks of the cluster.

    Raises:
        ConfigError: optimizer.freeze or optimizer.lr_scale names nothing that exists.
        DeviceError: train.precision is nothing this device computes.
    """
    train, settings = config.train, config.optimizer
    require_precision(train.precision, ms.get_context("device_target"), training=True)
    parameters = [parameter for parameter in encoder.get_parameters() if parameter.requires_grad]  # no statistics
    table = parameter_table(
        {parameter.name: tuple(parameter.shape) for parameter in parameters},
        settings.weight_decay,
        settings.decay_norm_and_bias,
        settings.freeze,
        settings.lr_scale,
    )
    optimizer = AdamW(parameters, table, settings.betas, settings.eps)
    loss_scale = None
    if train.precision == "fp16":
        loss_scale = LossScale(train.loss_scale_init, train.loss_scale_window, dynamic=True)
    if train.recompute:
        encoder.recompute_blocks()
    several, gathered_parts = cluster.size > 1, train.accumulate if train.grad_cache else 1
    return TrainStep(
        encoder,
        criterion,
        optimizer,
        settings.clip,
        settings.clip_at,
        train.accumulate,
        train.grad_cache,
        loss_scale,
        gather=GatherOutputs(encoder.compared_outputs, gathered_parts) if several else None,
        reduce_gradients=average_gradients(optimizer.parameters) if several else None,
    )


def build_schedule(config: Config) -> Schedule:
    """The learning rate over the run's epochs."""
    settings = config.schedule
    return Schedule(
        lr=config.optimizer.lr,
        epochs=config.train.epochs,
        name=settings.name,
        warmup_epochs=settings.warmup_epochs,
        end_lr=settings.end_lr,
        power=settings.power,
    )


def build_loop_settings(config: Config) -> LoopSettings:
    """How often the loop evaluates, saves and logs."""
    train = config.train
    return LoopSettings(
        epochs=train.epochs,
        batch_size=train.batch_size,
        eval_every_epochs=train.eval_every_epochs,
        zero_shot_eval=train.zero_shot_eval,
        checkpoint_every_epochs=train.checkpoint_every_epochs,
        checkpoint_every_steps=train.checkpoint_every_steps,
        keep_checkpoints=train.keep_checkpoints,
        log_every_steps=train.log_every_steps,
    )


def build_neighbor_source(config: Config, split: Split, cluster: Cluster, engine_of: EngineOf) -> NeighborSource | None:
    """Where hard negatives come from, with the table of the map where it is read; None without hard negatives."""
    rule = build_hard_negative_rule(config)
    if rule is None:
        return None
    pictures = PairedPictures(split, split.edges(config.data.train_mode).pairs(), config.sampling.neighbors)
    tables = NeighborTables(rule, pictures.near_on_map() if rule.source != "descriptors" else None)
    return NeighborSource(
        tables,
        pictures,
        engine_of,
        images_of=lambda side, paths: build_images(config, side, paths, config.eval.batch_size),
        facts_of=lambda side: card_facts(config, side, split.side(side).place_unit),
        cluster=cluster,
    )


def one_engine(config: Config) -> EngineOf:
    """Encoder in training -> its engine, kept until another encoder asks: a new one would compile its graphs again."""

    @functools.lru_cache(maxsize=1)
    def engine_of(encoder: nn.Cell) -> MindSporeEngine:
        return MindSporeEngine(encoder, config.eval.batch_size, config.train.precision)

    return engine_of


def build_evaluation(
    config: Config, run: RunFolder | None, split: Split, cluster: Cluster, engine_of: EngineOf | None = None
) -> EvaluateFunction:
    """Scores of an encoder on a split, on the first rank; each evaluation's report goes to reports/{tag}."""
    engine_of = engine_of or one_engine(config)

    def evaluate_encoder(encoder: nn.Cell, tag: str) -> dict[str, float] | None:
        if run is None:
            help_evaluate(engine_of(encoder), config, split, cluster)
            return None
        folder = run.reports / tag
        extras = {"baselines": False, "figures": False, "search_times": False}
        scores = evaluate(engine_of(encoder), config, split, folder, **extras, cluster=cluster)
        return {name: scores[name] for name in _TRACKED if _measured(scores, name)}

    return evaluate_encoder


def _measured(scores: Any, name: str) -> bool:
    values = scores.methods["model"][scores.mode]
    return values.get(name) is not None
