"""Load public weights, and checkpoints of this project, into an encoder by parameter name.

It reads files of timm and torchvision and the releases of Game4Loc and its relatives, as .safetensors, .pth or
MindSpore's .ckpt; models/public_weights.py describes their parameter names. Only checkpoints of this project have
weights for the head after the backbone.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor

from mindloc.errors import CheckpointError, first_line
from mindloc.models.encoder import PairEncoder
from mindloc.models.parameters import names_within
from mindloc.models.pth_reader import read_state_dict
from mindloc.models.public_weights import LOGIT_SCALES, Arrays, ImportRule, Normalization, split_name, unwrapped
from mindloc.reading import read_json, regular_file
from mindloc.runtime.checkpoint import is_own_checkpoint, read_metadata, read_tensor_file
from mindloc.runtime.process import native_messages
from mindloc.vocabulary import SIDES

_MOST_MEAN = 1e6  # of a pixel scaled to 0..1, far beyond any; false for NaN
LEAST_MATCHED = 0.9  # share of an encoder's parameters that must fit
_HEAD_PREFIXES = ("head.", "query_head.", "reference_head.")
UNTOUCHED: Normalization = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # mean, std: the default, as for timm's ViTs

Update = tuple[Parameter, np.ndarray]


@dataclass
class ImportReport:
    """What happened to each parameter: of the encoder (``matched`` to ``new``) and of the file (the other lists)."""

    path: Path
    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)  # "name: shape in the file, shape here"
    resampled: list[str] = field(default_factory=list)  # "name: grid in the file, grid here"; also in ``matched``
    new: list[str] = field(default_factory=list)  # of the encoder's head; they keep their initial values
    unexpected: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)  # known not to be needed here

    def summary(self) -> str:
        """The report in one line."""
        parts = [f"{self.path}: {len(self.matched)} parameters matched"]
        for label in ("missing", "mismatched", "resampled", "new", "unexpected", "ignored"):
            names = getattr(self, label)
            if names:
                parts.append(f"{len(names)} {label} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})")
        return "; ".join(parts)


def import_weights(encoder: PairEncoder, path: str | Path, strict: bool = False) -> ImportReport:
    """Load the weights of a file into an encoder.

    If the file has one backbone and the encoder two, both get its weights; a single logit scale is used for all
    descriptors. A head that the file lacks, or has in another shape, keeps its initial values. A table of positions for
    another grid is resampled. If an error is raised, nothing is loaded.

    Args:
        strict: raise an error also if the file lacks a parameter of the encoder or has an unexpected one.

    Raises:
        CheckpointError: the file can't be read; a shape differs; the file has less than nine tenths of the encoder's
            parameters; it is of a deeper network or has layers that this one lacks; it has two encoders and this model
            has one; it has a key bias, which a RoPE ViT lacks; its positions are not a square grid.
    """
    path = Path(path)
    rule: ImportRule = encoder.backbone_of(SIDES[0]).import_rule
    arrays, own = read_arrays(path), is_own_checkpoint(path)
    heads = {name: array for name, array in arrays.items() if own and name.startswith(_HEAD_PREFIXES)}
    report = ImportReport(path)
    source, logit_scale = _sorted_by_side({n: array for n, array in arrays.items() if n not in heads}, rule, report)
    if encoder.shared and set(source) >= set(SIDES) and not _same(source["query"], source["reference"]):
        raise CheckpointError(
            f"{path} has an encoder for each side and this model has one for both; give --set model.share_weights=false"
        )
    updates = []
    for side in SIDES[:1] if encoder.shared else SIDES:
        weights = source.get(side) or source.get("both") or source.get("query") or {}
        parameters = dict(names_within(encoder.backbone_of(side)))
        try:
            weights, resampled = rule.adapt(weights, parameters)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        report.resampled += resampled
        updates += _match(parameters, weights, report)
    _require_fit(report, rule)
    updates += _match_heads(encoder, heads, report)
    updates += _match_logit_scale(encoder, logit_scale, report)
    if strict and (report.missing or report.new or report.unexpected):
        raise CheckpointError(
            f"{report.summary()}: not every name matches; to continue give --set model.pretrained_strict=false"
        )
    for parameter, array in updates:
        parameter.set_data(Tensor(np.ascontiguousarray(array, np.float32)))
    return report


def read_arrays(path: Path) -> Arrays:
    """The tensors of a .safetensors, MindSpore (.ckpt) or PyTorch file by name.

    Raises:
        CheckpointError: for the reasons given in ``read_tensor_file``, ``_read_ckpt`` and ``read_state_dict``.
    """
    if path.suffix == ".safetensors":
        return read_tensor_file(path)[0]
    return _read_ckpt(path) if path.suffix == ".ckpt" else read_state_dict(path)


def _read_ckpt(path: Path) -> Arrays:
    """The tensors of a file of ``mindspore.save_checkpoint`` by name.

    Raises:
        CheckpointError: the file is missing, damaged, encrypted, or not a MindSpore checkpoint.
    """
    with regular_file(path, CheckpointError, "check the path", "checkpoint"):
        pass
    try:
        with native_messages():
            return {name: parameter.asnumpy() for name, parameter in ms.load_checkpoint(str(path)).items()}
    except (ValueError, TypeError, RuntimeError, OSError, KeyError) as error:
        raise CheckpointError(
            f"{path} is not a complete MindSpore checkpoint ({first_line(error)[:120]}); copy it again, or save it "
            "again with mindspore.save_checkpoint"
        ) from None


def _sorted_by_side(
    arrays: Arrays, rule: ImportRule, report: ImportReport
) -> tuple[dict[str, Arrays], np.ndarray | None]:
    """({"query" | "reference" | "both": {name within the backbone: array}}, logarithm of the logit scales or None)."""
    source: dict[str, Arrays] = {}
    logit_scale = None
    for name, array in arrays.items():
        bare = unwrapped(name)
        if bare in LOGIT_SCALES:
            logit_scale = array.reshape(-1)
            continue
        side, inner = split_name(bare)
        if rule.is_unused(inner, array):
            report.ignored.append(name)
        else:
            source.setdefault(side, {})[inner] = array
    return source, logit_scale


def _match(parameters: Mapping[str, Parameter], weights: Arrays, report: ImportReport) -> list[Update]:
    """The updates of those parameters of a backbone that the weights fit; all names are added to the report."""
    updates = []
    for name, parameter in parameters.items():
        if name not in weights:
            report.missing.append(parameter.name)
        elif weights[name].shape != parameter.shape:
            report.mismatched.append(f"{parameter.name}: {weights[name].shape} in the file, {parameter.shape} here")
        else:
            updates.append((parameter, weights[name]))
            report.matched.append(parameter.name)
    report.unexpected += sorted(set(weights) - set(parameters) - set(report.unexpected))
    return updates


def _match_heads(encoder: PairEncoder, heads: Arrays, report: ImportReport) -> list[Update]:
    """The updates of the heads' parameters that fit; if the file has one head and the encoder two, both get it."""
    updates, used = [], set()
    for parameter in encoder.get_parameters():
        if not parameter.name.startswith(_HEAD_PREFIXES):
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


def _match_logit_scale(encoder: PairEncoder, value: np.ndarray | None, report: ImportReport) -> list[Update]:
    """The update of the logit scales, if the file has one per descriptor or one for all."""
    if value is None:
        return []
    parameter = encoder.log_logit_scale
    if value.size not in (1, parameter.size):
        report.ignored.append("log_logit_scale")
        return []
    report.matched.append("log_logit_scale")
    return [(parameter, np.broadcast_to(value, parameter.shape))]


def _require_fit(report: ImportReport, rule: ImportRule) -> None:
    wanted = len(report.matched) + len(report.missing) + len(report.mismatched)
    foreign = any(rule.is_foreign(name) for name in report.unexpected)  # ResNet-101 has all names of ResNet-50
    if report.mismatched or foreign or len(report.matched) < LEAST_MATCHED * wanted:
        raise CheckpointError(
            f"{report.summary()}: these are not the weights of this backbone ({wanted} parameters); "
            f"set {rule.settings} to match the weights"
        )


def _same(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def stated_normalization(path: str | Path) -> Normalization | None:
    """Mean and std of the pixels (scaled to 0..1) that the weights were trained with; None if they are not stated.

    timm states them in a config.json beside the weights, this project in the metadata of the file.

    Raises:
        CheckpointError: the weights or the config.json can't be read.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        config = carried_config(path)
        if config:
            return _pair(config.get("model", {}), path)
    beside = path.with_name("config.json")
    if not beside.is_file():
        return None
    stated = read_json(beside, CheckpointError, "", "mend it, or move it away and set model.mean, model.std")
    return _pair(stated.get("pretrained_cfg", stated), beside)


def unstated_normalization(
    path: str | Path, mean: Sequence[float], std: Sequence[float], usual: Normalization
) -> str | None:
    """A warning if public weights state no normalization and the config leaves it at the default; otherwise None.

    A mean or std that differs from the default is taken to be the user's decision.

    Args:
        usual: the normalization that such weights are usually trained with.

    Raises:
        CheckpointError: the file, or the config.json beside it, can't be read.
    """
    if stated_normalization(path) or (tuple(mean), tuple(std)) != UNTOUCHED:
        return None
    mean, std = (list(values) for values in usual)
    return (
        f"{path} does not state its normalization and model.mean and model.std are left at 0.5; if these are public "
        f"weights of this backbone, set model.mean: {mean} and model.std: {std}"
    )


def carried_config(path: Path) -> dict:
    """The config in the metadata of a file of this project; empty for other files."""
    try:
        config = json.loads(read_metadata(path).get("config", "{}"))
    except (ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _pair(settings: Any, where: Path) -> Normalization | None:
    mean, std = (settings.get(key) if isinstance(settings, dict) else None for key in ("mean", "std"))
    if not (isinstance(mean, list) and isinstance(std, list)):
        return None
    if not all(isinstance(value, (int, float)) and abs(value) < _MOST_MEAN for value in (*mean, *std)):
        raise CheckpointError(
            f"{where} states mean {str(mean)[:60]} and std {str(std)[:60]}, expected numbers; mend it there, or set "
            "model.mean and model.std"
        )
    return tuple(float(value) for value in mean), tuple(float(value) for value in std)
