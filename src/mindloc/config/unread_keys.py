"""Keys that the choices made elsewhere in a config leave unread: of another backbone, head, loss, schedule, ..."""

import dataclasses
from collections.abc import Iterable, Iterator

from mindloc.config.check import CONVOLUTIONAL, PLAIN_VIT
from mindloc.config.schema import Config
from mindloc.errors import ConfigError

_DEFAULTS = Config()
_OF_ROPE_VITS = ("model.patch_px", "model.reference_grid", "model.layer_scale_init")
_OF_TWO_STAGES = (
    *(f"head.{field.name}" for field in dataclasses.fields(_DEFAULTS.head) if field.name != "name"),
    *(f"loss.{key}" for key in ("omega", "phi", "beta", "omega_margin", "triplet_margin", "negatives")),
    *(f"search.{field.name}" for field in dataclasses.fields(_DEFAULTS.search)),
)
_OF_HARD_NEGATIVES = tuple(
    f"sampling.{field.name}"
    for field in dataclasses.fields(_DEFAULTS.sampling)
    if field.name not in ("mode", "hard_negatives")
)
# of a loss: names of those that read it
_LOSSES_THAT_READ = {
    "loss.k": ("weighted_infonce",),
    "loss.label_smoothing": ("infonce",),
    "loss.omega_margin": ("cosine_embedding",),
    "loss.triplet_margin": ("cosine_triplet",),
    "loss.negatives": ("cosine_embedding", "cosine_triplet"),
}


def refuse_unread_keys(config: Config, written: Iterable[str] | None = None) -> None:
    """Refuse a value that has no effect: a mistake of whoever wrote it. Only one that differs from its default is seen.

    Args:
        written: keys, ``section.key``, to look at; None: all.

    Raises:
        ConfigError: naming the key, its value, its default and the choice that leaves it unread.
    """
    asked = None if written is None else set(written)
    for key, reason in _unread(config):
        value, default = _value(config, key), _value(_DEFAULTS, key)
        if value != default and (asked is None or asked & {key, key.partition(".")[0]}):
            raise ConfigError(f"config key {key} is {value}; expected {default} with {reason}")


def _unread(config: Config) -> Iterator[tuple[str, str]]:
    """(key, the choice that leaves it unread and what would read it)."""
    yield from _of_other_backbones(config.model.backbone)
    yield from _of_the_other_head(config.head.name)
    yield from _of_other_losses(config)
    source, schedule, precision = config.sampling.hard_negatives, config.schedule.name, config.train.precision
    for key in {"none": _OF_HARD_NEGATIVES, "map": ("sampling.refresh_every_epochs",)}.get(source, ()):
        yield key, f"sampling.hard_negatives={source}, which does not read it"
    if schedule != "polynomial":
        yield "schedule.power", f"schedule.name={schedule}; it is for polynomial alone"
    if schedule == "constant":
        yield "schedule.end_lr", "schedule.name=constant, which does not fall"
    if precision != "fp16":
        for key in ("train.loss_scale_init", "train.loss_scale_window"):
            yield key, f"train.precision={precision}; it is for fp16 alone"


def _of_other_backbones(name: str) -> Iterator[tuple[str, str]]:
    plain = PLAIN_VIT.fullmatch(name) is not None
    if not plain:
        yield "model.pool", f"model.backbone={name}; it is for timm's plain ViTs alone"
    if plain or name in CONVOLUTIONAL:
        for key in _OF_ROPE_VITS:
            yield key, f"model.backbone={name}; it is for the RoPE ViTs alone"


def _of_the_other_head(name: str) -> Iterator[tuple[str, str]]:
    other = "global" if name == "two_stage" else "two_stage"
    for key in ("loss.name",) if name == "two_stage" else _OF_TWO_STAGES:
        yield key, f"head.name={name}; it is for {other} alone"


def _of_other_losses(config: Config) -> Iterator[tuple[str, str]]:
    choices = ("name",) if config.head.name == "global" else ("omega", "phi")
    chosen = {choice: getattr(config.loss, choice) for choice in choices}
    said = " and ".join(f"loss.{choice}={name}" for choice, name in chosen.items())
    for key, readers in _LOSSES_THAT_READ.items():
        if not set(readers) & set(chosen.values()):
            # of two stages each loss has its own: the cosine triplet is phi's
            choice = "phi" if "phi" in chosen and readers == ("cosine_triplet",) else choices[0]
            yield key, f"{said}; set loss.{choice}={readers[0]} to have it read"


def _value(config: Config, key: str) -> object:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)
