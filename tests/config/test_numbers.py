"""No setting takes a number that makes no sense: each is tried with 0, -1, nan and inf."""

import types
import typing
from typing import Any

import pytest

from mindloc.config import load_config
from mindloc.config.schema import Config
from mindloc.errors import ConfigError

TAKEN = {
    0: {
        # a probability, or a share
        *(f"augment.{key}" for key in ("flip_p", "jpeg_p", "color_p", "filter_p", "dropout_p", "grid_dropout_ratio")),
        *("augment.coarse_dropout_side", "augment.cut_border", "loss.beta", "loss.label_smoothing"),
        # no change, no margin, no smoothing by overlap, nothing added at the start
        *("augment.color_jitter", "loss.triplet_margin", "loss.omega_margin", "loss.k", "model.layer_scale_init"),
        # never, none, from the first on, the whole map: so say their comments
        *("train.eval_every_epochs", "train.checkpoint_every_epochs", "train.checkpoint_every_steps"),
        *("search.consistency_m", "head.omega_grid", "sampling.hard_from_epoch", "eval.contact_sheet_queries"),
        # nothing is learned, or nothing of one part; no decay; no warm-up; down to nothing
        *("optimizer.lr", "optimizer.lr_scale", "optimizer.weight_decay", "schedule.warmup_epochs", "schedule.end_lr"),
        # a number among others: of a generator, of a card, a pixel's
        *("train.seed", "run.device_ids", "model.mean"),
    },
    -1: {"loss.omega_margin"},  # a cosine
    "nan": set(),
    "inf": set(),
}
CHOICES = {  # under which a key is read at all
    "head": ["head.name=two_stage"],
    "search": ["head.name=two_stage"],
    "sampling": ["sampling.hard_negatives=both"],
    **{f"loss.{key}": ["head.name=two_stage"] for key in ("beta", "omega_margin", "triplet_margin")},
    "loss.label_smoothing": ["loss.name=infonce"],
    "schedule.power": ["schedule.name=polynomial"],
    "train.loss_scale_init": ["train.precision=fp16"],
    "train.loss_scale_window": ["train.precision=fp16"],
}


def shape_of(hint: Any) -> str | None:
    """What YAML of a key that holds numbers looks like; None where it holds none."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return next(filter(None, map(shape_of, args)), None)
    if origin is tuple:
        return "[" + ", ".join(["{0}"] * (1 if args[-1] is Ellipsis else len(args))) + "]"
    if origin is dict:
        return "{{backbone: {0}}}" if shape_of(args[1]) else None
    return "{0}" if hint in (int, float) else None


NUMBERS = {
    f"{section}.{key}": shape
    for section, cls in typing.get_type_hints(Config).items()
    for key, hint in typing.get_type_hints(cls).items()
    if (shape := shape_of(hint))
}


def words_with(key: str, value: object) -> list[str]:
    choices = CHOICES.get(key, CHOICES.get(key.partition(".")[0], []))
    number = f".{value}" if isinstance(value, str) else value
    return [*choices, f"{key}={NUMBERS[key].format(number)}"]


def test_numbers_of_every_form_are_found():
    forms = ("train.epochs", "optimizer.lr", "data.test_map_px", "model.std", "eval.recall_at", "optimizer.lr_scale")
    assert set(forms) <= NUMBERS.keys() and "train.grad_cache" not in NUMBERS and "run.name" not in NUMBERS
    assert set().union(*TAKEN.values(), (key for key in CHOICES if "." in key)) <= NUMBERS.keys()


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", TAKEN)
def test_a_number_without_sense_is_refused_by_name(key, value):
    words = words_with(key, value)
    load_config(None, words[:-1])
    if key in TAKEN[value]:
        load_config(None, words)
        return
    with pytest.raises(ConfigError) as caught:
        load_config(None, words)
    assert str(caught.value).startswith(f"config key {key}")
    assert "it is for" not in str(caught.value) and "does not read" not in str(caught.value)
