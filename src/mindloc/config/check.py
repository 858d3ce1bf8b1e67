"""Values out of their range, and settings that are fine one by one and contradict each other."""

import dataclasses
import math
import re

from mindloc.config.schema import Config
from mindloc.errors import ConfigError

CONVOLUTIONAL = ("resnet50", "vgg16")
CONV_STRIDE = 16
PLAIN_VIT = re.compile(r"vit_[a-z]+_patch(\d+)_\d+")
MOST_MATCHED_NODES = 8  # 40 320 orders


def check_config(config: Config) -> Config:
    """The same config, when its values can be used together, whoever wrote it: a person, or a run of long ago.

    Raises:
        ConfigError: naming the key, its value, what is expected and what to set.
    """
    _check_finite(config)
    for section, key in _PROBABILITIES:
        value = getattr(getattr(config, section), key)
        _require(0.0 <= value <= 1.0, f"{section}.{key}", value, "a number from 0 to 1")
    for section, key in _POSITIVE:
        value = getattr(getattr(config, section), key)
        _require(value > 0, f"{section}.{key}", value, "a number above 0")
    for section, key in _NOT_NEGATIVE:
        value = getattr(getattr(config, section), key)
        _require(value >= 0, f"{section}.{key}", value, "0 or more")
    for section, key in _ALL_POSITIVE:
        values = getattr(getattr(config, section), key)
        _require(bool(values) and min(values) > 0, f"{section}.{key}", list(values), "one or more numbers above 0")
    for key in ("test_map_px", "test_m_per_px"):
        value = getattr(config.data, key)
        _require(value is None or value > 0, f"data.{key}", value, f"a number above 0, or null for data.{key[5:]}")
    ids = config.run.device_ids
    distinct = len(ids) == len(set(ids)) > 0 and min(ids) >= 0
    _require(distinct, "run.device_ids", list(ids), "one or more different numbers of 0 or more")
    cache = config.run.compiler_cache
    _require(cache.strip() != "", "run.compiler_cache", repr(cache), "a folder, auto, or none to keep no graphs")
    _check_sizes(config)
    _check_augment(config)
    _check_training(config)
    if config.sampling.hard_negatives != "none":
        _check_hard_negatives(config)
    _check_two_stages(config)
    return config


def check_epochs(config: Config) -> None:
    """Raises: ConfigError: nothing would be trained."""
    epochs = config.train.epochs
    _require(epochs > 0, "train.epochs", epochs, "a number above 0")


_PROBABILITIES = [
    *[("augment", key) for key in ("flip_p", "jpeg_p", "color_p", "filter_p", "dropout_p", "grid_dropout_ratio")],
    ("loss", "label_smoothing"),
    ("loss", "beta"),
]
_POSITIVE = [
    ("data", "map_px"),
    ("data", "m_per_px"),
    ("data", "train_ratio"),
    ("data", "workers"),
    ("model", "patch_px"),
    ("model", "reference_grid"),
    ("model", "logit_scale_init"),
    ("head", "channels"),
    ("head", "non_local_pool"),
    ("head", "nodes"),
    ("search", "recall_n"),
    ("sampling", "refresh_every_epochs"),
    ("sampling", "neighbors"),
    ("sampling", "companions"),
    ("train", "batch_size"),
    ("train", "accumulate"),
    ("train", "keep_checkpoints"),
    ("train", "log_every_steps"),
    ("train", "loss_scale_init"),
    ("train", "loss_scale_window"),
    ("schedule", "power"),
    ("eval", "batch_size"),
    ("eval", "bootstrap"),
    ("optimizer", "eps"),
]
_ALL_POSITIVE = [("eval", "recall_at"), ("eval", "sdm_at")]
_NOT_NEGATIVE = [
    ("model", "layer_scale_init"),
    ("train", "epochs"),  # weights of earlier versions may carry 0; who trains is asked for more
    ("train", "eval_every_epochs"),
    ("train", "checkpoint_every_epochs"),
    ("train", "checkpoint_every_steps"),
    ("train", "seed"),
    ("sampling", "hard_from_epoch"),
    ("head", "omega_grid"),
    ("loss", "k"),
    ("loss", "triplet_margin"),
    ("eval", "contact_sheet_queries"),
    ("search", "consistency_m"),
    ("optimizer", "lr"),
    ("optimizer", "weight_decay"),
    ("schedule", "warmup_epochs"),
    ("schedule", "end_lr"),
]


def _check_finite(config: Config) -> None:
    for section, keys in dataclasses.asdict(config).items():
        for key, value in keys.items():
            values = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else [value]
            fits = all(math.isfinite(number) for number in values if isinstance(number, float))
            _require(fits, f"{section}.{key}", value, "finite numbers, no inf and no nan")


def _check_sizes(config: Config) -> None:
    stride = grid_stride(config)
    for key in ("drone_size_px", "satellite_size_px"):
        size = getattr(config.data, key)
        fits = all(side > 0 and side % stride == 0 for side in size)
        of = f"{stride}, the stride" if _has_stride_of_its_own(config) else f"model.patch_px={stride}"
        near = [max(1, round(side / stride)) * stride for side in size]
        _require(fits, f"data.{key}", list(size), f"height and width that are multiples of {of}, for example {near}")
    _require(config.data.train_ratio <= 1, "data.train_ratio", config.data.train_ratio, "a share above 0, at most 1")
    mean, std = config.model.mean, config.model.std
    fits = all(0 <= shade <= 1 for shade in mean)
    _require(fits, "model.mean", list(mean), "numbers from 0 to 1, of pixels scaled to that")
    _require(all(side > 0 for side in std), "model.std", list(std), "numbers above 0")


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
    train, pretrained = config.train, config.model.pretrained
    _require(
        train.checkpoint_start is None or pretrained in (None, train.checkpoint_start),
        "train.checkpoint_start",
        train.checkpoint_start,
        f"the only weights to begin from, but model.pretrained is {pretrained}; set one of the two to null",
    )
    _check_accumulation(config)
    betas = config.optimizer.betas
    _require(all(0 < beta < 1 for beta in betas), "optimizer.betas", list(betas), "numbers above 0 and below 1")
    _require(
        config.optimizer.clip == "none" or config.optimizer.clip_at > 0,
        "optimizer.clip_at",
        config.optimizer.clip_at,
        "a number above 0, or optimizer.clip=none",
    )
    for prefix, factor in config.optimizer.lr_scale.items():
        _require(factor >= 0, f"optimizer.lr_scale.{prefix}", factor, "0 or more")


def _check_accumulation(config: Config) -> None:
    train = config.train
    _require(
        train.batch_size % train.accumulate == 0,
        "train.batch_size",
        train.batch_size,
        f"a multiple of train.accumulate={train.accumulate}",
    )
    _require(
        not train.grad_cache or train.accumulate > 1,
        "train.grad_cache",
        train.grad_cache,
        "false with train.accumulate=1, which keeps the batch whole; set train.accumulate to the number of parts",
    )


def _check_hard_negatives(config: Config) -> None:
    sampling, train = config.sampling, config.train
    share, begins = sampling.hard_share, sampling.hard_from_epoch
    fits = 0 < share < 1 and round(share * train.batch_size) >= 1
    expected = f"a share above 0 and below 1 that is a pair or more of train.batch_size={train.batch_size}"
    _require(fits, "sampling.hard_share", share, expected)
    expected = f"at most sampling.neighbors={sampling.neighbors}"
    _require(sampling.companions <= sampling.neighbors, "sampling.companions", sampling.companions, expected)
    expected = f"below train.epochs={train.epochs}, or it is never reached: train for longer or begin earlier"
    _require(begins < train.epochs or not train.epochs, "sampling.hard_from_epoch", begins, expected)
    if sampling.hard_negatives == "map_then_descriptors":
        expected = "1 or more with map_then_descriptors; or set sampling.hard_negatives=descriptors"
        _require(begins > 0, "sampling.hard_from_epoch", begins, expected)
    if sampling.hard_negatives != "map":
        expected = f"stop with sampling.hard_negatives={sampling.hard_negatives}, which encodes every training picture"
        _require(config.data.on_bad_image == "stop", "data.on_bad_image", config.data.on_bad_image, expected)


def _check_two_stages(config: Config) -> None:
    head, search = config.head, config.search
    two = head.name == "two_stage"
    _require(-1 <= config.loss.omega_margin <= 1, "loss.omega_margin", config.loss.omega_margin, "a cosine, -1 to 1")
    most = MOST_MATCHED_NODES
    _require(
        search.consistency_m == 0 or not two or head.nodes <= most,
        "search.consistency_m",
        search.consistency_m,
        f"0 with head.nodes={head.nodes}: nodes are matched in every order, which {most} of them allow at most",
    )
    _require(
        search.consistency_m <= search.recall_n,
        "search.consistency_m",
        search.consistency_m,
        f"at most search.recall_n={search.recall_n}",
    )
    if two:
        _check_maps_of_two_stages(config)


def _check_maps_of_two_stages(config: Config) -> None:
    head = config.head
    for key in ("drone_size_px", "satellite_size_px"):
        grid = [side // grid_stride(config) for side in getattr(config.data, key)]
        for option, side in (("non_local_pool", head.non_local_pool), ("omega_grid", head.omega_grid or 1)):
            fits = all(cells % side == 0 for cells in grid)
            _require(fits, f"head.{option}", side, f"a divisor of both sides of the {grid} map of data.{key}")
    sizes = {tuple(config.data.drone_size_px), tuple(config.data.satellite_size_px)}
    _require(
        head.omega_grid > 0 or len(sizes) == 1,
        "head.omega_grid",
        head.omega_grid,
        "above 0 where data.drone_size_px and data.satellite_size_px differ: the two views' maps have to be compared",
    )


def grid_stride(config: Config) -> int:
    """Pixels of the picture per position of the backbone's map."""
    if plain := PLAIN_VIT.fullmatch(config.model.backbone):
        return int(plain[1])
    return CONV_STRIDE if config.model.backbone in CONVOLUTIONAL else config.model.patch_px


def _has_stride_of_its_own(config: Config) -> bool:
    return config.model.backbone in CONVOLUTIONAL or PLAIN_VIT.fullmatch(config.model.backbone) is not None


def _require(fits: bool, key: str, value: object, expected: str) -> None:
    if not fits:
        raise ConfigError(f"config key {key} is {value}; expected {expected}")
