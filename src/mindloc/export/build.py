"""Export of a checkpoint as files, each reloaded and compared with the live encoder before it is published."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import mindspore as ms
import numpy as np
from mindspore import nn

import mindloc
from mindloc.config import Config, config_from_dict, config_to_dict
from mindloc.errors import ConfigError, ExportError, first_line
from mindloc.export.artifact import ExportSpec, compare, publish
from mindloc.export.formats import UNCOMPARED, WRITERS, ExportGraph, Writer
from mindloc.inference.build import load_encoder
from mindloc.inference.exported import FORMATS, card_path, output_name
from mindloc.inference.mindir import MODE
from mindloc.models.encoder import PlainOutputs
from mindloc.runtime.checkpoint import load_weights
from mindloc.runtime.console import status_line
from mindloc.runtime.device import require_precision
from mindloc.runtime.files import remove_leftovers, scratch_directory, writing
from mindloc.runtime.lock import locked
from mindloc.vocabulary import SIDES, SideName

MOST_IMAGES = 1024  # maximum batch size of an exported file, which is compared at its batch size


@dataclass(frozen=True)
class ExportRequest:
    """What a user requests of an export."""

    file_format: str = "MINDIR"  # a name in FORMATS
    view: str = "both"  # or "query", the side of the queries; or the view of a side, such as "drone"
    batch_size: int | Literal["any"] | None = None  # None: any for MINDIR, 1 for the others, whose size is fixed
    precision: str | None = None  # None: that of the training run; fp32 for ONNX
    with_normalization: bool = False
    unit_length: bool = False
    file_name: str | None = None  # without suffix; None: "encoder", or the name of the view
    key: bytes | None = field(default=None, repr=False)  # encryption key


@dataclass(frozen=True)
class Exported:
    """A file that was written."""

    path: Path
    check: dict[str, Any]  # as in the card

    def __str__(self) -> str:
        if not self.check["compared"]:
            return f"{self.path}:\n  written, not compared: {self.check['why']}"
        of_each = ", ".join(f"{name} {difference:.1e}" for name, difference in self.check["of_each"].items())
        largest = f"{self.check['largest_difference']:.1e}" if len(self.check["of_each"]) == 1 else of_each
        return f"{self.path}:\n  reloaded, differs from the live encoder by {largest} of the largest entry"


def export_checkpoint(
    checkpoint: str | Path, directory: str | Path, request: ExportRequest, target: str = "CPU"
) -> list[Exported]:
    """Export the requested sides of an encoder, as files with a card beside each.

    If both sides share weights, image size and border, one file called ``encoder`` serves both; else each side has its
    own file, named after its view.

    Args:
        target: the device target that this process has chosen.

    Raises:
        ConfigError: the request contradicts itself or the format.
        CheckpointError, ExportError, DeviceError: for the reasons given in ``load_encoder`` and ``export_file``.
    """
    file_format = FORMATS[request.file_format]
    _check_request(request)
    if file_format.ascend_only:
        _require_ascend(request.file_format, target)
    weights = load_weights(checkpoint)
    stored = config_from_dict(weights.config)
    precision = request.precision or file_format.default_precision or stored.train.precision
    require_precision(precision, target)
    encoder, _, sha256 = load_encoder(weights, precision, "plain" if target == "CPU" else None)  # plain: runs anywhere
    facts = {"checkpoint_sha256": sha256, "config": config_to_dict(stored)}
    facts |= {"mindspore": ms.__version__, "mindloc": mindloc.__version__, "exported_on": target}
    files = _files(stored, request.view)
    done = []
    for sides in files:
        spec = _spec(stored, sides, encoder.descriptors, request, precision)
        path = Path(directory) / (_stem(spec, request, len(files)) + file_format.suffix)
        check = export_file(encoder.side_encoder(sides[0]), spec, path, request.file_format, facts, request.key)
        done.append(Exported(path, check))
    return done


def _check_request(request: ExportRequest) -> None:
    name, batch, precision = request.file_format, request.batch_size, request.precision
    form = FORMATS[name]
    if batch == "any" and not form.any_batch:
        raise ConfigError(f"{name} files take a fixed number of images; give --batch_size a number, or export MINDIR")
    if isinstance(batch, int) and not 1 <= batch <= MOST_IMAGES:
        raise ConfigError(f"export batch size is {batch}, expected 1 to {MOST_IMAGES}, or any")
    if request.key is not None and not form.encrypts:
        raise ConfigError(f"{name} files can't be encrypted, only MINDIR can; export MINDIR, or encrypt the disk")
    if precision is not None and precision not in form.precisions:
        known = " or ".join(form.precisions)
        way_out = f"give --precision {form.precisions[-1]}, or export MINDIR"
        raise ConfigError(f"{name} files are written in {known}, not {precision}; {way_out}")
    stem = request.file_name
    if stem is not None and (stem in ("", ".", "..") or Path(stem).name != stem or stem.startswith(".")):
        raise ConfigError(f"--file_name is {stem!r}, expected a plain name; the directory is given by --out")


def _require_ascend(name: str, target: str) -> None:
    """Raise ExportError unless this process computes on an Ascend."""
    if target != "Ascend":
        others = " and ".join(other for other, form in FORMATS.items() if not form.ascend_only)
        raise ExportError(
            f"{name} can be written on an Ascend only, but the target is {target}; run this command with "
            "--device_target Ascend on a machine with its driver, CANN and MindSpore, or export "
            f"{others} here: atc reads ONNX too"
        )


def _files(config: Config, view: str) -> list[tuple[SideName, ...]]:
    """The sides of a pair that each file to be written serves."""
    if view == "query":
        return [("reference",) if config.eval.swap_sides else ("query",)]
    if view != "both":
        return [(config.side_of(view),)]
    query, reference = (config.view(side) for side in SIDES)
    same_input = (query.size_px, query.cut_border) == (reference.size_px, reference.cut_border)
    return [SIDES] if config.model.share_weights and same_input else [(side,) for side in SIDES]


def _stem(spec: ExportSpec, request: ExportRequest, count: int) -> str:
    first = next(iter(spec.sides.values()))
    if request.file_name is None:
        return "encoder" if len(spec.sides) > 1 else first
    stem = request.file_name.removesuffix(FORMATS[request.file_format].suffix)
    return stem if count == 1 else f"{stem}_{first}"


def _spec(
    config: Config, sides: Sequence[SideName], descriptors: tuple[str, ...], request: ExportRequest, precision: str
) -> ExportSpec:
    view = config.view(sides[0])
    batch_size = None if request.batch_size == "any" else request.batch_size
    if request.batch_size is None and not FORMATS[request.file_format].any_batch:
        batch_size = 1
    return ExportSpec(
        sides={side: config.view(side).name for side in sides},
        size_px=view.size_px,
        batch_size=batch_size,
        mean=view.mean,
        std=view.std,
        descriptors=descriptors,
        cut_border=view.cut_border,
        takes_pixels=request.with_normalization,
        unit_length=request.unit_length,
        precision=precision,
    )


def export_file(
    side_encoder: nn.Cell,
    spec: ExportSpec,
    path: Path,
    file_format: str,
    facts: dict[str, Any],
    key: bytes | None = None,
) -> dict[str, Any]:
    """Save an encoder to a file, reload and compare it, then publish it as ``path`` with a card beside it.

    Args:
        side_encoder: (B, 3, H, W) -> {"{side}.{descriptor}": (B, D)} for the first of ``spec.sides``.
        facts: entries of the card: checkpoint_sha256, config, versions.
        key: encryption key.

    Returns:
        The card's check: how much the outputs of the reloaded file differ from the live encoder's.

    Raises:
        ExportError: the graph can't be saved or reloaded, or its outputs differ from the live encoder's. Nothing is
            written then.
        DeviceError: the library that the format needs is not installed.
    """
    side, *_ = spec.sides
    writer, outputs = WRITERS[file_format], tuple(f"{side}.{name}" for name in spec.descriptors)
    pixels = (spec.mean, spec.std) if spec.takes_pixels else None
    cell = ExportGraph(side_encoder, outputs, pixels, spec.divided)
    cell.set_train(False)
    live = PlainOutputs(side_encoder, *outputs)
    live.set_train(False)
    owned = locked(path, "exported file", ExportError)
    with owned, writing(path, ExportError), scratch_directory(path) as partial:
        remove_leftovers(card_path(path))
        file = partial / path.name
        try:
            with status_line(f"writing the graph of {path.name}"):
                writer.save(cell, _example(cell, spec), file, key, [output_name(name) for name in spec.descriptors])
        except (RuntimeError, ValueError, TypeError) as error:
            raise ExportError(
                f"MindSpore can't export the {spec.name} encoder: {first_line(error)}; try another --file_format"
            ) from error
        facts = {"format": file_format, "encryption": None if key is None else MODE, **facts}
        with status_line(f"comparing {path.name} with the live encoder"):
            dimensions, check = _compared(live, writer, file, spec, key)
        publish(file, path, spec, dimensions, {**facts, "check": check})
    return check


def _compared(
    live: nn.Cell, writer: Writer, file: Path, spec: ExportSpec, key: bytes | None
) -> tuple[list[int], dict[str, Any]]:
    def run_live(image_B3HW: np.ndarray) -> list[np.ndarray]:
        return [rows_BD.asnumpy() for rows_BD in live(ms.Tensor(image_B3HW))]

    if writer.reload is None:
        dimensions = [rows_BD.shape[1] for rows_BD in run_live(next(spec.trial_batches())[1])]
        return dimensions, {"compared": False, "why": UNCOMPARED}
    return compare(run_live, writer.reload(file, key), spec, writer.tolerance[spec.precision])


def _example(cell: nn.Cell, spec: ExportSpec) -> ms.Tensor:
    dtype = ms.uint8 if spec.takes_pixels else ms.float32
    if spec.batch_size is None:
        example = ms.Tensor(shape=spec.input_shape, dtype=dtype)
        cell.set_inputs(example)
        return example
    return ms.Tensor(np.zeros(spec.input_shape), dtype)
