"""Other people's weights, brought into an encoder by name.

Read are timm's and torchvision's own files and the releases of Game4Loc and its relatives, as .safetensors or .pth.
Their names differ in what stands before timm's: nothing, `model.` (one encoder), `model1.` and `model2.`, or
`drone_encoder.` and `satellite_encoder.`; this project's own `backbone.` and `query_backbone.` are taken as well.

Only a checkpoint of this project fills what follows the backbone, the head.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mindspore import Tensor

from mindloc.errors import CheckpointError
from mindloc.models.encoder import TwoViewEncoder, names_within
from mindloc.models.pth_reader import read_state_dict
from mindloc.models.vit_plain import resampled_table, square_side
from mindloc.runtime.checkpoint import is_own_checkpoint, read_metadata, read_tensor_file
from mindloc.runtime.files import read_json
from mindloc.vocabulary import SIDES

LEAST_SHARE = 0.9  # of an encoder's parameters that must fit
PREFIXES = {
    "query": ("drone_encoder.", "query_backbone.", "model1."),
    "reference": ("satellite_encoder.", "reference_backbone.", "model2."),
    "both": ("backbone.", "model.", "encoder.", ""),
}
LOGIT_SCALES = ("logit_scale", "log_logit_scale")  # all hold the logarithm
# tables that we compute ourselves, classifiers, zeros, counters, and what lies behind the map of stride 16
WITHOUT_USE = re.compile(
    r"(^|\.)rope\.|^head\.|\.k_bias$|^(fc|classifier)\.|\.num_batches_tracked$|^layer4\.|^features\.(24|26|28)\."
)
# of a deeper network, or LayerScale, norms, tokens, positions that this one has not and that would change its result
FURTHER_LAYERS = re.compile(r"^layer[1-3]\.\d+\.|^blocks\.\d+\.|^norm_pre\.|^(cls|reg|dist)_token$|^pos_embed$")
HEADS = ("head.", "query_head.", "reference_head.")
TIMM_VIT = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # mean, std; the default of our settings
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # what torchvision's weights were trained with

Arrays = dict[str, np.ndarray]
Normalization = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass
class ImportReport:
    """What became of every name, of the encoder (matched to new) and of the file (the others)."""

    path: Path
    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)  # "name: shape in the file, shape here"
    resampled: list[str] = field(default_factory=list)  # "name: grid in the file, grid here"; matched as well
    new: list[str] = field(default_factory=list)  # of the encoder's head; they keep their start
    unexpected: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)  # known to be without use here

    def summary(self) -> str:
        """One line."""
        parts = [f"{self.path}: {len(self.matched)} parameters matched"]
        for label in ("missing", "mismatched", "resampled", "new", "unexpected", "ignored"):
            names = getattr(self, label)
            if names:
                parts.append(f"{len(names)} {label} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})")
        return "; ".join(parts)


def import_weights(encoder: TwoViewEncoder, path: str | Path) -> ImportReport:
    """Load the weights of a file into an encoder.

    One set of weights in the file goes to both encoders where there are two, one logit scale to all. A head that is not
    in the file, or is there in another shape, keeps its start. A table of positions of another grid is resampled.
    Nothing is loaded when an error is raised.

    Raises:
        CheckpointError: unreadable; a shape differs; less than nine tenths of the encoder is in the file; the file is
            of a deeper network, or has layers that this one has not; two encoders in the file and one here; a key bias,
            which a RoPE ViT has not; positions that are no square grid.
    """
    path = Path(path)
    arrays, own = read_arrays(path), is_own_checkpoint(path)
    heads = {name: array for name, array in arrays.items() if own and name.startswith(HEADS)}
    source, report = sort_by_view({name: array for name, array in arrays.items() if name not in heads}, path)
    if encoder.shared and set(source) >= set(SIDES) and not _same(source["query"], source["reference"]):
        raise CheckpointError(
            f"{path} holds an encoder for each view and this model has one for both; set model.share_weights: false"
        )
    updates = []
    for view in SIDES[:1] if encoder.shared else SIDES:
        weights = source.get(view) or source.get("both") or source.get("query") or {}
        parameters = dict(names_within(encoder.backbone_of(view)))
        updates += _match(parameters, _as_laid_out_in(parameters, weights, report), report)
    _require_fit(report, "model.backbone and model.patch_px" if _is_rope_vit(encoder) else "model.backbone")
    updates += _match_heads(encoder, heads, report)
    updates += _match_logit_scale(encoder, source, report)
    for parameter, array in updates:
        parameter.set_data(Tensor(np.ascontiguousarray(array, np.float32)))
    return report


def read_arrays(path: Path) -> Arrays:
    """The tensors of a .safetensors or PyTorch file by name."""
    return read_tensor_file(path)[0] if path.suffix == ".safetensors" else read_state_dict(path)


def sort_by_view(arrays: Arrays, path: Path) -> tuple[dict[str, Arrays], ImportReport]:
    """{"query" | "reference" | "both": {timm's name: array}, "log_logit_scale": {"value": (S,)}} and a fresh report."""
    source: dict[str, Arrays] = {}
    report = ImportReport(path)
    for name, array in arrays.items():
        bare = name.removeprefix("module.").removeprefix("_orig_mod.")
        if bare in LOGIT_SCALES:
            source["log_logit_scale"] = {"value": array.reshape(-1)}
            continue
        view, inner = split_name(bare)
        if WITHOUT_USE.search(inner) and not (inner.endswith("k_bias") and array.any()):
            report.ignored.append(name)
        else:
            source.setdefault(view, {})[inner] = array
    return source, report


def split_name(name: str) -> tuple[str, str]:
    """("query" | "reference" | "both", timm's name) of a name in a file."""
    for view, prefixes in PREFIXES.items():
        for prefix in prefixes:
            if name.startswith(prefix):
                inner = name[len(prefix) :]
                return view, inner if view == "both" else inner.removeprefix("model.").removeprefix("backbone.")
    raise AssertionError("the empty prefix fits every name")


def _as_laid_out_in(parameters: dict, weights: Arrays, report: ImportReport) -> Arrays:
    """The weights in the layout of this backbone: one of timm's for the attention, and the grid of its positions."""
    weights = timm_layout(weights, report.path, fused_bias=any(name.endswith(".attn.qkv.bias") for name in parameters))
    ours, theirs = parameters.get("pos_embed"), weights.get("pos_embed")
    if ours is None or theirs is None or (theirs.ndim == 3 and theirs.shape[1] == ours.shape[1]):
        return weights
    there, here = square_side(theirs), square_side(ours)
    report.resampled.append(f"{ours.name}: {there} x {there} there, {here} x {here} here")
    return {**weights, "pos_embed": resampled_table(theirs, (here, here))}


def timm_layout(weights: Arrays, path: Path, fused_bias: bool = False) -> Arrays:
    """The same attention weights as qkv.weight with q_bias and v_bias, from any of timm's three layouts.

    Args:
        fused_bias: with qkv.bias instead, which plain ViTs have, the keys' part included.

    Raises:
        CheckpointError: the keys have a bias and none is wanted. Rotated with the position it changes the result, so it
            can't be dropped.
    """
    weights = dict(weights)
    for stem in {name.rsplit(".attn.", 1)[0] + ".attn." for name in weights if ".attn." in name}:
        if all(f"{stem}{part}_proj.weight" in weights for part in "qkv"):
            weights[f"{stem}qkv.weight"] = np.concatenate([weights.pop(f"{stem}{part}_proj.weight") for part in "qkv"])
        bias = {part: weights.pop(f"{stem}{part}_proj.bias", None) for part in "qkv"}
        bias["k"] = weights.pop(f"{stem}k_bias", bias["k"])
        if fused_bias:
            _fuse_bias(weights, stem, bias)
            continue
        if f"{stem}qkv.bias" in weights:
            bias = dict(zip("qkv", np.split(weights.pop(f"{stem}qkv.bias"), 3), strict=True))
        if bias["k"] is not None and np.any(bias["k"]):
            raise CheckpointError(f"{path} has a key bias at {stem}, which this backbone has not; take another release")
        weights.update({f"{stem}{part}_bias": bias[part] for part in "qv" if bias[part] is not None})
    return weights


def _fuse_bias(weights: Arrays, stem: str, bias: dict[str, np.ndarray | None]) -> None:
    """Put one bias in place of two or three; keys that have none have one of zeros."""
    query, key, value = (weights.pop(f"{stem}{part}_bias", bias[part]) for part in "qkv")
    if query is not None and value is not None:
        weights[f"{stem}qkv.bias"] = np.concatenate([query, np.zeros_like(query) if key is None else key, value])


def _match(parameters: dict, weights: Arrays, report: ImportReport) -> list[tuple]:
    """(parameter, array) of all that fits; the rest goes into the report."""
    updates = []
    for name, parameter in parameters.items():
        if name not in weights:
            report.missing.append(parameter.name)
        elif weights[name].shape != parameter.shape:
            report.mismatched.append(f"{parameter.name}: {weights[name].shape} there, {parameter.shape} here")
        else:
            updates.append((parameter, weights[name]))
            report.matched.append(parameter.name)
    report.unexpected += sorted(set(weights) - set(parameters) - set(report.unexpected))
    return updates


def _match_heads(encoder: TwoViewEncoder, heads: Arrays, report: ImportReport) -> list[tuple]:
    """(parameter, array) of the heads; one head in the file goes to both where there are two."""
    updates, used = [], set()
    for parameter in encoder.get_parameters():
        if not parameter.name.startswith(HEADS):
            continue
        inner = parameter.name.partition(".")[2]
        name = parameter.name if parameter.name in heads else f"head.{inner}"
        if name in heads and heads[name].shape == parameter.shape:
            updates.append((parameter, heads[name]))
            report.matched.append(parameter.name)
            used.add(name)
        else:
            report.new.append(parameter.name)
    report.ignored += sorted(set(heads) - used)
    return updates


def _match_logit_scale(encoder: TwoViewEncoder, source: dict[str, Arrays], report: ImportReport) -> list[tuple]:
    """(parameter, array): as many as the encoder has, or one for all of them."""
    if "log_logit_scale" not in source:
        return []
    value, parameter = source["log_logit_scale"]["value"], encoder.log_logit_scale
    if value.size not in (1, parameter.size):
        report.ignored.append("log_logit_scale")
        return []
    report.matched.append("log_logit_scale")
    return [(parameter, np.broadcast_to(value, parameter.shape))]


def _is_rope_vit(encoder: TwoViewEncoder) -> bool:
    return hasattr(encoder.backbone_of(SIDES[0]), "patch_px")


def _require_fit(report: ImportReport, keys: str) -> None:
    wanted = len(report.matched) + len(report.missing) + len(report.mismatched)
    further = any(FURTHER_LAYERS.match(name) for name in report.unexpected)  # ResNet-101 holds all names of ResNet-50
    if report.mismatched or further or len(report.matched) < LEAST_SHARE * wanted:
        raise CheckpointError(
            f"{report.summary()}: these are not the weights of this backbone ({wanted} parameters); "
            f"set {keys} to theirs"
        )


def _same(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def stated_normalization(path: str | Path) -> Normalization | None:
    """Mean and std of the pixels (scaled to 0..1) that the weights were trained with, where the file says so.

    timm's folders say it in a config.json beside the weights, this project's files in their own metadata.

    Raises:
        CheckpointError: the weights or the config.json can't be read.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        config = carried_config(path)
        if config:
            return _pair(config.get("model", {}))
    beside = path.with_name("config.json")
    if not beside.is_file():
        return None
    stated = read_json(beside, CheckpointError, "", "mend it, or move it away and set model.mean, model.std")
    return _pair(stated.get("pretrained_cfg", stated))


def unstated_normalization(path: str | Path, mean: Sequence[float], std: Sequence[float]) -> str | None:
    """What to tell somebody who gives a convolutional backbone other people's weights and left mean and std alone.

    torchvision's files don't state theirs. Set to anything but the default, they are taken for the user's decision.

    Raises:
        CheckpointError: the file, or the config.json beside it, can't be read.
    """
    if stated_normalization(path) or (tuple(mean), tuple(std)) != TIMM_VIT:
        return None
    mean, std = (list(values) for values in IMAGENET)
    return (
        f"{path} does not state its normalization and model.mean and model.std are left at .5; if these are "
        f"torchvision's weights, set model.mean: {mean} and model.std: {std}"
    )


def carried_config(path: Path) -> dict:
    """The config a file of this project carries; empty for others."""
    try:
        config = json.loads(read_metadata(path).get("config", "{}"))
    except ValueError:
        return {}
    return config if isinstance(config, dict) else {}


def _pair(settings: dict) -> Normalization | None:
    mean, std = settings.get("mean"), settings.get("std")
    if not (isinstance(mean, list) and isinstance(std, list)):
        return None
    return tuple(float(value) for value in mean), tuple(float(value) for value in std)
