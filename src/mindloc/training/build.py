"""From settings to the parts of a training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import nn

from mindloc.config import config_to_dict
from mindloc.config.schema import Config
from mindloc.runtime.cluster import Cluster
from mindloc.runtime.compiler_cache import CompilerCache, default_folder, users_own_cache
from mindloc.runtime.kernels import require_precision
from mindloc.training.compile_callback import ServeGraph, no_cache
from mindloc.training.data_parallel import GatherOutputs, average_gradients
from mindloc.training.loop import LoopSettings
from mindloc.training.loss_scale import LossScale
from mindloc.training.optimizer import AdamW
from mindloc.training.parameter_table import parameter_table
from mindloc.training.schedule import Schedule
from mindloc.training.step import TrainStep


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
    several = cluster.size > 1
    return TrainStep(
        encoder,
        criterion,
        optimizer,
        settings.clip,
        settings.clip_at,
        train.accumulate,
        train.grad_cache,
        loss_scale,
        gather=GatherOutputs(encoder.compared, train.accumulate if train.grad_cache else 1) if several else None,
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


# settings that say what is fed to a graph, or when, and never what it computes
_OUTSIDE_THE_GRAPH = {"data", "augment", "sampling", "schedule", "eval", "search", "run"}
_OUTSIDE_THE_GRAPH |= {"model.pretrained", "model.mean", "model.std", "optimizer.lr", "train.checkpoint_start"}
_OUTSIDE_THE_GRAPH |= {f"train.{key}" for key in ("epochs", "zero_shot_eval", "keep_checkpoints", "log_every_steps")}
_OUTSIDE_THE_GRAPH |= {f"train.{key}" for key in ("eval_every_epochs", "checkpoint_every_epochs")}
_OUTSIDE_THE_GRAPH |= {"train.checkpoint_every_steps", "train.seed"}


def graph_facts(config: Config, cluster: Cluster) -> dict[str, Any]:
    """What the graph of the step depends on, beside the code and its inputs; a new setting counts until told not to."""
    tree = config_to_dict(config)
    settings = {
        f"{section}.{key}": value
        for section, values in tree.items()
        for key, value in values.items()
        if not {section, f"{section}.{key}"} & _OUTSIDE_THE_GRAPH
    }
    return {**settings, "rank": cluster.rank, "ranks": cluster.size}


def build_compiler_cache(config: Config, cluster: Cluster, say: Callable[[str], None]) -> ServeGraph:
    """Where the step's graph comes from when an earlier process compiled the same one."""
    wish = config.run.compiler_cache
    if users_own_cache():
        if cluster.is_first:
            say(
                "MS_COMPILER_CACHE_ENABLE=1: MindSpore itself keeps graphs and does not notice a changed config or "
                "module; unset it to use run.compiler_cache"
            )
        return no_cache
    measured = cluster.size == 1 and ms.get_context("device_target") == "CPU"
    if wish == "none" or (wish == "auto" and not measured):
        return no_cache
    folder = default_folder() if wish == "auto" else Path(wish)
    return CompilerCache(folder, graph_facts(config, cluster), say).serving
