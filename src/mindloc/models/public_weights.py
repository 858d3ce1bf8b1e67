"""How public checkpoints name and lay out the parameters of our backbones.

Game4Loc and its relatives put a prefix before timm's names; timm and torchvision put none. The names after the prefix
differ by backbone, so each backbone has its own ``ImportRule``.
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
INNER_PREFIXES = ("model.", "backbone.")  # may follow the prefix of one side
_NAME_WRAPPERS = ("module.", "_orig_mod.")  # first prefixes of parallel and compiled PyTorch models
LOGIT_SCALES = ("logit_scale", "log_logit_scale")  # both name the logarithm


def unwrapped(name: str) -> str:
    """A name in a file without the prefixes of parallel and compiled PyTorch models."""
    for wrapper in _NAME_WRAPPERS:
        name = name.removeprefix(wrapper)
    return name


def split_name(name: str) -> tuple[str, str]:
    """("query" | "reference" | "both", name within the backbone) of an unwrapped name."""
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
    """How a backbone reads public weights, whose names are given without prefix.

    Args:
        unused: pattern of names to ignore: classifiers, counters, tables that are computed here.
        unused_zeros: pattern of names to ignore if all their values are zero.
        foreign: pattern of unexpected names that prove another network: layers, tokens or positions that would change
            the result. Other unexpected names are only reported.
        adapt: (weights, this backbone's parameters) -> (weights in the layout of this backbone, a line about each that
            was resampled). Raises CheckpointError if the layout is unknown.
        settings: config keys that the error message names if the weights do not fit.
        usual_normalization: normalization of public weights whose files state none.
    """

    unused: str
    unused_zeros: str | None = None
    foreign: str | None = None
    adapt: Callable[[Arrays, Mapping[str, Parameter]], tuple[Arrays, list[str]]] = lambda weights, _: (weights, [])
    settings: str = "model.backbone"
    usual_normalization: Normalization | None = None

    def is_unused(self, name: str, array: np.ndarray) -> bool:
        """Whether an array of the file is ignored."""
        return matches(self.unused, name) or (matches(self.unused_zeros, name) and not array.any())

    def is_foreign(self, name: str) -> bool:
        """Whether an unexpected name proves that the file is of another network."""
        return matches(self.foreign, name)


def matches(pattern: str | None, name: str) -> bool:
    """Whether the pattern, if any, is found in the name."""
    return pattern is not None and re.search(pattern, name) is not None


# timm's ViTs: attention weights in one of three layouts ----------------------------------------------------------

TIMM_UNUSED = r"(^|\.)rope\.|^head\."
TIMM_UNUSED_ZEROS = r"\.k_bias$"
TIMM_FOREIGN = r"^blocks\.\d+\.|^norm_pre\.|^(cls|reg|dist)_token$|^pos_embed$"


def with_fused_weights(weights: Arrays) -> tuple[Arrays, dict[str, dict[str, np.ndarray | None]]]:
    """(weights with one qkv.weight and without separate biases, those biases: name of the attention -> q, k, v)."""
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
    """The weights, in any of timm's layouts, converted to one with q_bias and v_bias.

    Raises:
        CheckpointError: the keys have a bias. It is rotated with the position and so changes the result; it can't be
            dropped.
    """
    weights, biases = with_fused_weights(weights)
    for stem, bias in biases.items():
        if f"{stem}qkv.bias" in weights:
            bias = dict(zip("qkv", np.split(weights.pop(f"{stem}qkv.bias"), 3), strict=True))
        if bias["k"] is not None and np.any(bias["k"]):
            raise CheckpointError(f"it has a key bias at {stem}, which this backbone lacks; use another release")
        weights.update({f"{stem}{part}_bias": bias[part] for part in "qv" if bias[part] is not None})
    return weights


def with_fused_bias(weights: Arrays) -> Arrays:
    """The weights, in any of timm's layouts, converted to one with qkv.bias; a missing key bias becomes zeros."""
    weights, biases = with_fused_weights(weights)
    for stem, bias in biases.items():
        query, key, value = bias.values()
        if query is not None and value is not None:
            weights[f"{stem}qkv.bias"] = np.concatenate([query, np.zeros_like(query) if key is None else key, value])
    return weights
