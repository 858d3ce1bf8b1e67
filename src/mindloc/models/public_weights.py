"""How public checkpoints name and lay out the parameters of our backbones.

Game4Loc and its relatives put timm's model under a prefix, timm and torchvision put theirs under none; what follows the
prefix differs by backbone, so each backbone states its ``ImportRule``.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from mindspore import Parameter

from mindloc.errors import CheckpointError

Arrays = dict[str, np.ndarray]
Normalization = tuple[tuple[float, float, float], tuple[float, float, float]]  # mean, std of pixels scaled to 0..1

IMAGENET: Normalization = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

# side -> what precedes the backbone's own names in a file; "both": one backbone for both sides. The first match counts.
PREFIXES = {
    "query": ("drone_encoder.", "model1.", "query_backbone."),
    "reference": ("satellite_encoder.", "model2.", "reference_backbone."),
    "both": ("backbone.", "model.", "encoder.", ""),
}
INNER_PREFIXES = ("model.", "backbone.")  # after those of one side
_NAME_WRAPPERS = ("module.", "_orig_mod.")  # of parallel and compiled PyTorch models, before all others
LOGIT_SCALES = ("logit_scale", "log_logit_scale")  # all are the logarithm


def unwrapped(name: str) -> str:
    """A name in a file, without what parallel and compiled models put before it."""
    for wrapper in _NAME_WRAPPERS:
        name = name.removeprefix(wrapper)
    return name


def split_name(name: str) -> tuple[str, str]:
    """("query" | "reference" | "both", the backbone's own name) of an unwrapped name."""
    for side, prefixes in PREFIXES.items():
        for prefix in prefixes:
            if name.startswith(prefix):
                inner = name.removeprefix(prefix)
                for further in INNER_PREFIXES if side != "both" else ():
                    inner = inner.removeprefix(further)
                return side, inner
    raise AssertionError("the empty prefix fits every name")


@dataclass(frozen=True)
class ImportRule:
    """What a backbone makes of public weights, whose names are given without prefix.

    Args:
        unused: pattern of names that are of no use here: classifiers, counters, tables that are computed.
        unused_zeros: pattern of names that are of no use where their values are zero.
        foreign: pattern of names of layers, tokens or positions that only another network has and that would change
            the result; what else is unexpected is only reported.
        adapt: (weights, this backbone's parameters) -> the weights in its layout, and a line on each that was
            resampled. Raises CheckpointError where the layout is unknown.
        settings: config keys to change where weights do not fit.
        usual_normalization: of public weights whose files do not state theirs.
    """

    unused: str
    unused_zeros: str | None = None
    foreign: str | None = None
    adapt: Callable[[Arrays, Mapping[str, Parameter]], tuple[Arrays, list[str]]] = lambda weights, _: (weights, [])
    settings: str = "model.backbone"
    usual_normalization: Normalization | None = None

    def is_unused(self, name: str, array: np.ndarray) -> bool:
        """Whether this array is ignored."""
        return matches(self.unused, name) or (matches(self.unused_zeros, name) and not array.any())

    def is_foreign(self, name: str) -> bool:
        """Whether the file is of another network."""
        return matches(self.foreign, name)


def matches(pattern: str | None, name: str) -> bool:
    """Whether the pattern, if any, is found in the name."""
    return pattern is not None and re.search(pattern, name) is not None


# timm's ViTs: attention weights in one of three layouts ----------------------------------------------------------

TIMM_UNUSED = r"(^|\.)rope\.|^head\."
TIMM_UNUSED_ZEROS = r"\.k_bias$"
TIMM_FOREIGN = r"^blocks\.\d+\.|^norm_pre\.|^(cls|reg|dist)_token$|^pos_embed$"


def with_fused_weights(weights: Arrays) -> tuple[Arrays, dict[str, dict[str, np.ndarray | None]]]:
    """The weights with one qkv.weight, and without the biases that are apart: stem of the attention -> q, k, v."""
    weights, biases = dict(weights), {}
    for stem in {name.rsplit(".attn.", 1)[0] + ".attn." for name in weights if ".attn." in name}:
        if all(f"{stem}{part}_proj.weight" in weights for part in "qkv"):
            weights[f"{stem}qkv.weight"] = np.concatenate([weights.pop(f"{stem}{part}_proj.weight") for part in "qkv"])
        biases[stem] = {part: _bias(weights, stem, part) for part in "qkv"}
    return weights, biases


def _bias(weights: Arrays, stem: str, part: str) -> np.ndarray | None:
    unfused = weights.pop(f"{stem}{part}_proj.bias", None)
    return weights.pop(f"{stem}{part}_bias", unfused)


def with_query_and_value_bias(weights: Arrays) -> Arrays:
    """Attention with q_bias and v_bias, from any of timm's layouts.

    Raises:
        CheckpointError: the keys have a bias. Rotated with the position it changes the result, so it can't be dropped.
    """
    weights, biases = with_fused_weights(weights)
    for stem, bias in biases.items():
        if f"{stem}qkv.bias" in weights:
            bias = dict(zip("qkv", np.split(weights.pop(f"{stem}qkv.bias"), 3), strict=True))
        if bias["k"] is not None and np.any(bias["k"]):
            raise CheckpointError(f"it has a key bias at {stem}, which this backbone has not; take another release")
        weights.update({f"{stem}{part}_bias": bias[part] for part in "qv" if bias[part] is not None})
    return weights


def with_fused_bias(weights: Arrays) -> Arrays:
    """Attention with qkv.bias, from any of timm's layouts; keys without a bias get one of zeros."""
    weights, biases = with_fused_weights(weights)
    for stem, bias in biases.items():
        query, key, value = bias.values()
        if query is not None and value is not None:
            weights[f"{stem}qkv.bias"] = np.concatenate([query, np.zeros_like(query) if key is None else key, value])
    return weights
