"""What the optimizer does to each parameter: learning-rate scale, decay, frozen or not. Without MindSpore."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mindloc.errors import ConfigError

UNDECAYED_TOKENS = (".pos_embed", ".cls_token")  # of a plain ViT; timm's no_weight_decay


@dataclass(frozen=True)
class ParameterRow:
    """How one parameter is trained."""

    name: str
    lr_scale: float = 1.0
    decay: float = 0.0  # weight decay, decoupled: multiplied by the learning rate in each step
    frozen: bool = False


def parameter_table(
    shapes: Mapping[str, tuple[int, ...]],
    weight_decay: float,
    decay_norm_and_bias: bool = True,
    freeze: Iterable[str] = (),
    lr_scale: Mapping[str, float] | None = None,
) -> list[ParameterRow]:
    """One row per parameter, in the order of ``shapes``.

    Args:
        shapes: parameter name -> shape.
        decay_norm_and_bias: False leaves parameters of one axis undecayed: norm, bias, LayerScale, logit scale; and a
            plain ViT's class token and positions.
        freeze: name prefixes that end at a dot or at the end of the name, e.g. "backbone.patch_embed".
        lr_scale: such prefix -> factor on the learning rate; the longest that fits counts.

    Raises:
        ConfigError: a prefix fits no parameter, a factor is negative, or everything is frozen.
    """
    freeze, lr_scale = tuple(freeze), dict(lr_scale or {})
    _check_prefixes("optimizer.freeze", freeze, shapes)
    _check_prefixes("optimizer.lr_scale", lr_scale, shapes)
    for prefix, factor in lr_scale.items():
        if factor < 0:
            raise ConfigError(f"optimizer.lr_scale.{prefix} is {factor}; expected 0 or more")
    table = [
        ParameterRow(
            name=name,
            lr_scale=_longest(lr_scale, name),
            decay=weight_decay if decay_norm_and_bias or _is_matrix(name, shape) else 0.0,
            frozen=any(_fits(prefix, name) for prefix in freeze),
        )
        for name, shape in shapes.items()
    ]
    if all(row.frozen for row in table):
        raise ConfigError(f"optimizer.freeze={list(freeze)} freezes all {len(table)} parameters; leave some to train")
    return table


def _is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) > 1 and not name.endswith(UNDECAYED_TOKENS)


def _fits(prefix: str, name: str) -> bool:
    prefix = prefix.rstrip(".")
    return name == prefix or name.startswith(f"{prefix}.")


def _longest(lr_scale: Mapping[str, float], name: str) -> float:
    fitting = [prefix for prefix in lr_scale if _fits(prefix, name)]
    return lr_scale[max(fitting, key=len)] if fitting else 1.0


def _check_prefixes(key: str, prefixes: Iterable[str], shapes: Mapping[str, tuple[int, ...]]) -> None:
    for prefix in prefixes:
        if not any(_fits(prefix, name) for name in shapes):
            heads = sorted({name.split(".")[0] for name in shapes})
            raise ConfigError(f"{key} names {prefix!r}, which fits no parameter; they begin with {', '.join(heads)}")
