"""From settings to an encoder."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import mindspore as ms
from mindspore import nn

from mindloc.config.schema import Config
from mindloc.errors import ConfigError
from mindloc.models.convolutional import ResNet50, Vgg16
from mindloc.models.encoder import TwoViewEncoder, initialize
from mindloc.models.import_weights import import_weights, stated_normalization, unstated_normalization
from mindloc.models.layers import Form
from mindloc.models.two_stage import TwoStageHead
from mindloc.models.vit_plain import PLAIN_SIZES, PlainVit
from mindloc.models.vit_rope import SIZES, RopeVit, VitSize
from mindloc.runtime.device import encoder_form, slow_convolutions

CONVOLUTIONAL = {"resnet50": ResNet50, "vgg16": Vgg16}

log = logging.getLogger(__name__)


def build_encoder(config: Config, say: Callable[[str], None] = log.warning, form: Form | None = None) -> TwoViewEncoder:
    """The encoder of config.model and config.head, at its seeded start or with the weights that model.pretrained names.

    Args:
        say: gets one line on what of those weights was taken, and on what is slow or doubtful.
        form: None: the one that this process's device is fast in.

    Raises:
        ValueError: a form that does not compute in train.precision.
        ConfigError: a normalization that the weights contradict.
        CheckpointError: weights that are unreadable or of another model.
    """
    if config.model.backbone in CONVOLUTIONAL and (slow := slow_convolutions(ms.get_context("device_target"))):
        say(slow)
    count = 1 if config.model.share_weights else 2
    form = form or encoder_form(config.train.precision)
    backbones = [_build_backbone(config, form) for _ in range(count)]
    for backbone in backbones:
        initialize(backbone, config.train.seed, config.model.layer_scale_init)
    heads = None
    if config.head.name == "two_stage":
        heads = tuple(_build_head(config, backbone.width) for backbone in backbones)
    encoder = TwoViewEncoder(*backbones, heads=heads, logit_scale=config.model.logit_scale_init)
    if config.model.pretrained:
        _check_normalization(config)
        say(import_weights(encoder, config.model.pretrained).summary())
        if config.model.backbone in CONVOLUTIONAL:
            doubt = unstated_normalization(config.model.pretrained, config.model.mean, config.model.std)
            if doubt:
                say(doubt)
    return encoder


def with_normalization_of(weights: str | Path, config: Config) -> Config:
    """The config with the model.mean and model.std that a file of weights states, where it states them.

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
            f"{list(config.model.std)}; set model.mean: {mean} and model.std: {std}"
        )


def vit_size(config: Config) -> VitSize:
    """Shapes of the RoPE ViT that the settings name."""
    model = config.model
    return dataclasses.replace(SIZES[model.backbone], patch_px=model.patch_px, reference_grid=model.reference_grid)


def _build_backbone(config: Config, form: Form) -> nn.Cell:
    name, precision = config.model.backbone, config.train.precision
    if name in CONVOLUTIONAL:
        return CONVOLUTIONAL[name](precision)
    if form == "products" and precision != "fp32":  # the powers within its GELU overflow in fp16
        raise ValueError(
            f'the form "products" is for fp32, and the precision is {precision}; take form "plain", or None for the '
            "device's own"
        )
    if name in PLAIN_SIZES:
        return PlainVit(PLAIN_SIZES[name], config.model.pool, precision, form)
    return RopeVit(vit_size(config), precision, form)


def _build_head(config: Config, width: int) -> TwoStageHead:
    settings = config.head
    head = TwoStageHead(
        width,
        channels=settings.channels,
        non_local=None if settings.non_local == "none" else settings.non_local,
        non_local_pool=settings.non_local_pool,
        omega_grid=settings.omega_grid,
        phi_reads_non_local=settings.phi_reads_non_local,
        centroids=settings.centroids,
        nodes=settings.nodes,
        similarity=settings.similarity,
        area=settings.area,
        sort=settings.sort_by_area,
    )
    initialize(head, config.train.seed)
    if head.non_local is not None:
        head.non_local.start_as_identity()
    return head
