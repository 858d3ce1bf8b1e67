"""Build the encoder that a config describes, from the tables of backbones and heads."""

import logging
from collections.abc import Callable
from pathlib import Path

import mindspore as ms

from mindloc.config import Config
from mindloc.errors import ConfigError
from mindloc.models.encoder import PairEncoder
from mindloc.models.import_weights import import_weights, stated_normalization, unstated_normalization
from mindloc.models.layers import Form
from mindloc.models.parameters import initialize
from mindloc.registry import BACKBONES, HEADS
from mindloc.runtime.device import has_fused_attention, slow_convolutions
from mindloc.vocabulary import Precision

log = logging.getLogger(__name__)


def build_encoder(config: Config, say: Callable[[str], None] = log.warning, form: Form | None = None) -> PairEncoder:
    """The encoder of config.model and config.head, with seeded random weights or with those of model.pretrained.

    Args:
        say: gets lines for the log: which weights of the file were used, and what is slow or doubtful.
        form: see models/layers.py; None: the form that is fastest on this process's device.

    Raises:
        ValueError: the form does not support train.precision.
        ConfigError: model.mean or model.std differs from the normalization that is stated with the weights.
        CheckpointError: the weights can't be read or belong to another model.
    """
    model, precision = config.model, config.train.precision
    entry = BACKBONES[model.backbone]
    if model.pretrained:
        _check_normalization(config)
    if entry.convolutional and (slow := slow_convolutions(ms.get_context("device_target"))):
        say(slow)
    form = form or _fastest_form(precision)
    if form == "products" and precision != "fp32":  # the powers within its GELU overflow in fp16
        raise ValueError(
            f'the form "products" supports fp32 only, but the precision is {precision}; use form "plain", or None for '
            "the fastest form of the device"
        )
    backbones = [entry.build(model, precision, form) for _ in range(1 if model.share_weights else 2)]
    if backbones[0].stride != model.stride_px:
        raise ValueError(
            f"backbone {model.backbone} has stride {backbones[0].stride}, but its entry in BACKBONES says "
            f"{model.stride_px}; correct the entry"
        )
    head = HEADS[config.head.name]
    heads = [head.build(config.head, backbone.width) for backbone in backbones]
    for cell in (part for part in (*backbones, *heads) if part is not None):
        initialize(cell, config.train.seed)
    encoder = PairEncoder(*backbones, heads=heads, compared=tuple(head.losses), logit_scale=model.logit_scale_init)
    if model.pretrained:
        say(import_weights(encoder, model.pretrained, model.pretrained_strict).summary())
        usual = backbones[0].import_rule.usual_normalization
        if usual and (doubt := unstated_normalization(model.pretrained, model.mean, model.std, usual)):
            say(doubt)
    return encoder


def _fastest_form(precision: Precision) -> Form:
    """The form that is fastest on this process's device, which must have been chosen before."""
    if has_fused_attention(precision):
        return "kernel"
    return "products" if precision == "fp32" and ms.get_context("device_target") == "CPU" else "plain"


def with_normalization_of(weights: str | Path, config: Config) -> Config:
    """The config, with model.mean and model.std replaced by those stated with the weights, if they are stated.

    Raises:
        CheckpointError: the file, or the config.json beside it, can't be read.
    """
    stated = stated_normalization(weights)
    return config.with_values({"model.mean": stated[0], "model.std": stated[1]}) if stated else config


def _check_normalization(config: Config) -> None:
    stated = stated_normalization(config.model.pretrained)
    if stated and stated != (config.model.mean, config.model.std):
        mean, std = (list(values) for values in stated)
        raise ConfigError(
            f"{config.model.pretrained} was trained with mean {mean} and std {std}, not {list(config.model.mean)} and "
            f"{list(config.model.std)}; give --set 'model.mean={mean}' --set 'model.std={std}'"
        )
