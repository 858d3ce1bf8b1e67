"""From settings to an encoder."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

from mindloc.config.schema import Config
from mindloc.errors import ConfigError
from mindloc.models.encoder import TwoViewEncoder
from mindloc.models.import_weights import import_weights, stated_normalization
from mindloc.models.initial import initialize
from mindloc.models.vit_rope import SIZES, RopeVit, VitSize
from mindloc.runtime.kernels import has_fused_attention

log = logging.getLogger(__name__)


def build_encoder(config: Config, say: Callable[[str], None] = log.warning) -> TwoViewEncoder:
    """The encoder of config.model, at its seeded start or with the weights that model.pretrained names.

    Args:
        say: gets one line on what of those weights was taken.

    Raises:
        ConfigError: a picture size that the patch does not divide; a normalization that the weights contradict.
        CheckpointError: weights that are unreadable or of another model.
    """
    for key in ("drone_size_px", "satellite_size_px"):
        _check_size(f"data.{key}", getattr(config.data, key), config.model.patch_px)
    size = vit_size(config)
    precision, fused = config.train.precision, has_fused_attention(config.train.precision)
    backbones = [RopeVit(size, precision, fused) for _ in range(1 if config.model.share_weights else 2)]
    for backbone in backbones:
        initialize(backbone, config.train.seed, config.model.layer_scale_init)
    encoder = TwoViewEncoder(*backbones, logit_scale=config.model.logit_scale_init)
    if config.model.pretrained:
        _check_normalization(config)
        say(import_weights(encoder, config.model.pretrained).summary())
    return encoder


def follow_normalization(config: Config, weights: str | Path) -> None:
    """Set model.mean and model.std to what a file of weights states, where it states it; before data is built.

    Raises:
        CheckpointError: the file, or the config.json beside it, can't be read.
    """
    stated = stated_normalization(weights)
    if stated:
        config.model.mean, config.model.std = stated


def _check_normalization(config: Config) -> None:
    stated = stated_normalization(config.model.pretrained)
    if stated and stated != (tuple(config.model.mean), tuple(config.model.std)):
        mean, std = (list(values) for values in stated)
        raise ConfigError(
            f"{config.model.pretrained} was trained with mean {mean} and std {std}, not {list(config.model.mean)} and "
            f"{list(config.model.std)}; set model.mean: {mean} and model.std: {std}"
        )


def vit_size(config: Config) -> VitSize:
    """Shapes of the backbone that the settings name."""
    model = config.model
    return dataclasses.replace(SIZES[model.backbone], patch_px=model.patch_px, reference_grid=model.reference_grid)


def _check_size(key: str, size_px: tuple[int, int], patch_px: int) -> None:
    height, width = size_px
    if min(height, width) < patch_px or height % patch_px or width % patch_px:
        near = [max(1, round(side / patch_px)) * patch_px for side in (height, width)]
        raise ConfigError(
            f"{key} is [{height}, {width}], which patches of {patch_px} px do not fill; take for example {near}"
        )
