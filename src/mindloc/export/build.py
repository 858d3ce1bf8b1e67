"""From a checkpoint to exported files, in the format that was asked for."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import mindspore as ms
import numpy as np
from mindspore import nn

import mindloc
from mindloc.config import config_from_dict, config_to_dict
from mindloc.config.schema import Config
from mindloc.errors import ConfigError, ExportError, first_line
from mindloc.export.artifact import ExportSpec, compare, publish
from mindloc.export.formats import FORMATS, UNCOMPARED, ExportGraph, Format, require_ascend
from mindloc.inference.build import load_encoder
from mindloc.inference.exported import SUFFIXES, output_name
from mindloc.inference.mindir import MODE
from mindloc.models.encoder import PlainOutputs
from mindloc.runtime.checkpoint import load_weights
from mindloc.runtime.device import require_precision
from mindloc.runtime.files import scratch_folder, writing
from mindloc.vocabulary import SIDES

MOST_PICTURES = 1024  # per call of an exported file, which is compared at that size


@dataclass(frozen=True)
class ExportWish:
    """What a user asks for."""

    file_format: Literal["MINDIR", "ONNX", "AIR"] = "MINDIR"
    view: Literal["both", "query", "query", "reference"] = "both"
    batch_size: int | Literal["any"] | None = None  # None: any for MINDIR, 1 for the others, which fix it
    precision: Literal["fp32", "fp16", "bf16"] | None = None  # None: the training's, fp32 for ONNX
    with_normalization: bool = False
    unit_length: bool = False
    file_name: str | None = None  # without suffix; None: the view's
    key: bytes | None = field(default=None, repr=False)  # encrypt with it


@dataclass(frozen=True)
class Exported:
    path: Path
    views: tuple[str, ...]
    check: dict[str, Any]  # as the card has it

    def __str__(self) -> str:
        if not self.check["compared"]:
            return f"{self.path}: written, not compared: {self.check['why']}"
        of_each = ", ".join(f"{name} {share:.1e}" for name, share in self.check["of_each"].items())
        share = f"{self.check['largest_difference']:.1e}" if len(self.check["of_each"]) == 1 else of_each
        return f"{self.path}: reloaded, differs from the live encoder by {share} of the largest entry"


def export_checkpoint(
    checkpoint: str | Path, folder: str | Path, wish: ExportWish, target: str = "CPU"
) -> list[Exported]:
    """Export the encoders that the wish names, each as one file with a card beside it.

    Where both views share weights, picture size and border, one file called ``encoder`` serves both; else each view
    has its own, called after it.

    Args:
        target: the device that was chosen.

    Raises:
        ConfigError: wishes that contradict each other or the format.
        CheckpointError, ExportError, DeviceError: as ``load_encoder`` and the formats.
    """
    _check_wish(wish)
    if wish.file_format == "AIR":
        require_ascend(target)
    weights = load_weights(checkpoint)
    stored = config_from_dict(weights.config)
    precision = wish.precision or ("fp32" if wish.file_format == "ONNX" else stored.train.precision)
    require_precision(precision, target)
    encoder, _, sha256 = load_encoder(weights, precision, "plain" if target == "CPU" else None)  # others may run it
    facts = {"checkpoint_sha256": sha256, "config": config_to_dict(stored)}
    facts |= {"mindspore": ms.__version__, "mindloc": mindloc.__version__, "exported_on": target}
    files = _files(stored, wish)
    done = []
    for views in files:
        spec = _spec(stored, views, encoder.descriptors, wish, precision)
        path = Path(folder) / (_stem(views, wish, len(files)) + SUFFIXES[wish.file_format])
        check = export_file(encoder.side_encoder(views[0]), spec, path, wish.file_format, facts, wish.key)
        done.append(Exported(path, views, check))
    return done


def _check_wish(wish: ExportWish) -> None:
    form, batch = wish.file_format, wish.batch_size
    if form != "MINDIR" and batch == "any":
        raise ConfigError(f"{form} files take a fixed number of pictures; give --batch_size a number, or export MINDIR")
    if isinstance(batch, int) and not 1 <= batch <= MOST_PICTURES:
        raise ConfigError(f"export batch size is {batch}, expected 1 to {MOST_PICTURES}, or any")
    if wish.key is not None and form != "MINDIR":
        raise ConfigError(f"{form} files can't be encrypted, only MINDIR can; export MINDIR, or encrypt the disk")
    if form == "ONNX" and wish.precision == "bf16":
        raise ConfigError("ONNX files are written in fp32 or fp16, not bf16; take --precision fp16, or export MINDIR")
    name = wish.file_name
    if name is not None and (name in ("", ".", "..") or Path(name).name != name or name.startswith(".")):
        raise ConfigError(f"--file_name is {name!r}, expected a plain name; the folder is given by --out")


def _files(config: Config, wish: ExportWish) -> list[tuple[str, ...]]:
    """The views that each file serves."""
    if wish.view == "query":
        return [("reference",) if config.eval.swap_sides else ("query",)]
    if wish.view != "both":
        return [(wish.view,)]
    query, reference = (config.view(side) for side in SIDES)
    same_input = (query.size_px, query.cut_border) == (reference.size_px, reference.cut_border)
    return [SIDES] if config.model.share_weights and same_input else [(view,) for view in SIDES]


def _stem(views: tuple[str, ...], wish: ExportWish, count: int) -> str:
    if wish.file_name is None:
        return "encoder" if len(views) > 1 else views[0]
    stem = wish.file_name.removesuffix(SUFFIXES[wish.file_format])
    return stem if count == 1 else f"{stem}_{views[0]}"


def _spec(
    config: Config, views: tuple[str, ...], descriptors: tuple[str, ...], wish: ExportWish, precision: str
) -> ExportSpec:
    view = config.view(views[0])
    batch_size = None if wish.batch_size == "any" else wish.batch_size
    if wish.batch_size is None and wish.file_format != "MINDIR":
        batch_size = 1
    return ExportSpec(
        views=views,
        size_px=view.size_px,
        batch_size=batch_size,
        mean=view.mean,
        std=view.std,
        descriptors=descriptors,
        cut_border=view.cut_border,
        takes_pixels=wish.with_normalization,
        unit_length=wish.unit_length,
        precision=precision,
    )


def export_file(
    side_encoder: nn.Cell,
    spec: ExportSpec,
    path: Path,
    file_format: Literal["MINDIR", "ONNX", "AIR"],
    facts: dict[str, Any],
    key: bytes | None = None,
) -> dict[str, Any]:
    """Save, reload, compare, publish as ``path``, with a card beside it.

    Args:
        side_encoder: (B, 3, H, W) -> {"{view}.{descriptor}": (B, D)} of the first of the views.
        facts: for the card: checkpoint_sha256, config, versions.
        key: encrypt MINDIR with it.

    Returns:
        The card's check: how far the reloaded file is from the live encoder.

    Raises:
        ExportError: the graph can't be saved or reloaded, or answers otherwise than the live one. Nothing is written.
        DeviceError: the library that the format needs is not installed.
    """
    form, outputs = FORMATS[file_format], tuple(f"{spec.views[0]}.{name}" for name in spec.descriptors)
    pixels = (spec.mean, spec.std) if spec.takes_pixels else None
    cell = ExportGraph(side_encoder, outputs, pixels, spec.divided)
    cell.set_train(False)
    live = PlainOutputs(side_encoder, *outputs)
    live.set_train(False)
    with writing(path, ExportError), scratch_folder(path) as partial:
        file = partial / path.name
        try:
            form.save(cell, _example(cell, spec), file, key, [output_name(name) for name in spec.descriptors])
        except (RuntimeError, ValueError, TypeError) as error:
            raise ExportError(
                f"MindSpore can't export the {spec.views[0]} encoder: {first_line(error)}; try another --file_format"
            ) from error
        facts = {"format": file_format, "encryption": None if key is None else MODE, **facts}
        dimensions, check = _compared(live, form, file, spec, key)
        publish(file, path, spec, dimensions, {**facts, "check": check})
    return check


def _compared(
    live: nn.Cell, form: Format, file: Path, spec: ExportSpec, key: bytes | None
) -> tuple[list[int], dict[str, Any]]:
    def run_live(image_B3HW: np.ndarray) -> list[np.ndarray]:
        return [rows_BD.asnumpy() for rows_BD in live(ms.Tensor(image_B3HW))]

    if form.reload is None:
        dimensions = [rows_BD.shape[1] for rows_BD in run_live(next(spec.trial_batches())[1])]
        return dimensions, {"compared": False, "why": UNCOMPARED}
    return compare(run_live, form.reload(file, key), spec, form.tolerance[spec.precision])


def _example(cell: nn.Cell, spec: ExportSpec) -> ms.Tensor:
    dtype = ms.uint8 if spec.takes_pixels else ms.float32
    if spec.batch_size is None:
        example = ms.Tensor(shape=spec.input_shape, dtype=dtype)
        cell.set_inputs(example)
        return example
    return ms.Tensor(np.zeros(spec.input_shape), dtype)
