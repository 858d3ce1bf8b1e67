"""Settings that are fine one by one and contradict each other."""

import math

from mindloc.config.schema import Config
from mindloc.errors import ConfigError


def check_config(config: Config) -> Config:
    """The same config, when its values can be used together.

    Raises:
        ConfigError: naming the key, its value, what is expected and what to set.
    """
    for section, key in _PROBABILITIES:
        value = getattr(getattr(config, section), key)
        _require(0.0 <= value <= 1.0, f"{section}.{key}", value, "a number from 0 to 1")
    for section, key in _POSITIVE:
        value = getattr(getattr(config, section), key)
        _require(value > 0, f"{section}.{key}", value, "a number above 0")
    for section, key in _NOT_NEGATIVE:
        value = getattr(getattr(config, section), key)
        _require(value >= 0, f"{section}.{key}", value, "0 or more")
    for key in ("test_map_px", "test_m_per_px"):
        value = getattr(config.data, key)
        _require(value is None or value > 0, f"data.{key}", value, f"a number above 0, or null for data.{key[5:]}")
    ids = config.run.device_ids
    distinct = len(ids) == len(set(ids)) > 0 and min(ids) >= 0
    _require(distinct, "run.device_ids", list(ids), "one or more different numbers of 0 or more")
    _check_sizes(config)
    _check_augment(config)
    _check_training(config)
    return config


_PROBABILITIES = [
    *[("augment", key) for key in ("flip_p", "jpeg_p", "color_p", "filter_p", "dropout_p", "grid_dropout_ratio")],
    ("loss", "label_smoothing"),
]
_POSITIVE = [
    ("data", "map_px"),
    ("data", "m_per_px"),
    ("data", "train_ratio"),
    ("data", "workers"),
    ("model", "patch_px"),
    ("model", "logit_scale_init"),
    ("train", "batch_size"),
    ("train", "accumulate"),
    ("train", "keep_checkpoints"),
    ("train", "log_every_steps"),
    ("train", "loss_scale_init"),
    ("eval", "batch_size"),
    ("optimizer", "eps"),
]
_NOT_NEGATIVE = [
    ("train", "epochs"),
    ("train", "eval_every_epochs"),
    ("train", "checkpoint_every_epochs"),
    ("train", "checkpoint_every_steps"),
    ("train", "seed"),
    ("optimizer", "lr"),
    ("optimizer", "weight_decay"),
    ("schedule", "warmup_epochs"),
    ("schedule", "end_lr"),
]


def _check_sizes(config: Config) -> None:
    patch = config.model.patch_px
    for key in ("drone_size_px", "satellite_size_px"):
        size = getattr(config.data, key)
        fits = all(side > 0 and side % patch == 0 for side in size)
        _require(fits, f"data.{key}", list(size), f"height and width that are multiples of model.patch_px={patch}")
    _require(config.data.train_ratio <= 1, "data.train_ratio", config.data.train_ratio, "a share above 0, at most 1")
    _require(all(side > 0 for side in config.model.std), "model.std", list(config.model.std), "numbers above 0")


def _check_augment(config: Config) -> None:
    augment = config.augment
    ranges = {
        "jpeg_quality": (1, 100, "two whole numbers from 1 to 100, the lower first"),
        "coarse_dropout_holes": (1, math.inf, "two whole numbers of 1 or more, the lower first"),
        "coarse_dropout_side": (0, 1, "two shares from 0 to 1, the lower first"),
    }
    for key, (least, most, expected) in ranges.items():
        low, high = getattr(augment, key)
        _require(least <= low <= high <= most, f"augment.{key}", [low, high], expected)
    jitter = augment.color_jitter
    fits = all(amount >= 0 for amount in jitter) and jitter[3] <= 0.5
    _require(fits, "augment.color_jitter", list(jitter), "numbers of 0 or more, the last (hue) at most 0.5")
    _require(0 <= augment.cut_border < 0.5, "augment.cut_border", augment.cut_border, "a share from 0 to below 0.5")


def _check_training(config: Config) -> None:
    train, loss, pretrained = config.train, config.loss, config.model.pretrained
    _require(
        train.checkpoint_start is None or pretrained in (None, train.checkpoint_start),
        "train.checkpoint_start",
        train.checkpoint_start,
        f"the only weights to begin from, but model.pretrained is {pretrained}; set one of the two to null",
    )
    _require(
        train.batch_size % train.accumulate == 0,
        "train.batch_size",
        train.batch_size,
        f"a multiple of train.accumulate={train.accumulate}",
    )
    _require(
        loss.label_smoothing == 0 or loss.name == "infonce",
        "loss.label_smoothing",
        loss.label_smoothing,
        "0 with loss.name=weighted_infonce, whose smoothing follows the overlap; for a fixed one set loss.name=infonce",
    )
    betas = config.optimizer.betas
    _require(all(0 < beta < 1 for beta in betas), "optimizer.betas", list(betas), "numbers above 0 and below 1")
    _require(
        config.optimizer.clip == "none" or config.optimizer.clip_at > 0,
        "optimizer.clip_at",
        config.optimizer.clip_at,
        "a number above 0, or optimizer.clip=none",
    )


def _require(fits: bool, key: str, value: object, expected: str) -> None:
    if not fits:
        raise ConfigError(f"config key {key} is {value}; expected {expected}")
