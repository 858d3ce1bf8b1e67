"""Files of exported encoders, and the engines that run them.

A file has a JSON card beside it that states its input, its outputs, and the checkpoint that it was exported from. Files
and cards may come from anywhere, so everything in them is checked before it is used. AIR files have cards too, but only
Ascend's own tools run them.

Shapes: B images of a batch, D dimension.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mindloc.errors import ExportError
from mindloc.inference.engine import Engine, filled_batch
from mindloc.reading import file_sha256, read_json
from mindloc.vocabulary import CENTROIDS, GLOBAL, OMEGA, PHI, PRECISIONS, SIDES, SideName

CARD_VERSION = 1
_MOST_CARD_BYTES = 1 << 20
_MOST_FILE_BYTES = (1 << 31) - 1  # limit of a protocol buffer, which MINDIR and ONNX files are
_MOST = {"batch": 65_536, "side_px": 16_384, "dimension": 1 << 22}  # Omega of 384 px has 147 456
_COMPLETE = ((GLOBAL,), (OMEGA, PHI), (OMEGA, PHI, CENTROIDS))  # all descriptors of one encoder: the possible cases


@dataclass(frozen=True)
class FileFormat:
    """Properties of the files of a format."""

    suffix: str
    precisions: tuple[str, ...]
    default_precision: str | None = None  # None: that of training
    any_batch: bool = False  # takes any number of images per call; else a number fixed by the export
    encrypts: bool = False
    ascend_only: bool = False  # can be written only on an Ascend


FORMATS = {
    "MINDIR": FileFormat(".mindir", PRECISIONS, any_batch=True, encrypts=True),
    "ONNX": FileFormat(".onnx", ("fp32", "fp16"), default_precision="fp32"),
    "AIR": FileFormat(".air", PRECISIONS, ascend_only=True),
}


class AbsentError(ExportError):
    """There is no exported file at the given place."""


@dataclass(frozen=True)
class ExportedFile:
    """An exported file, as its card describes it."""

    path: Path
    format: str  # a key of FORMATS
    sides: dict[SideName, str]  # the sides of the encoder that it contains -> the view that each is for
    precision: str  # of the arithmetic inside
    batch_size: int | None  # images per call; None: any number
    size_px: tuple[int, int]  # height, width
    takes_pixels: bool  # uint8 (B, H, W, 3) instead of normalized float32 (B, 3, H, W)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dimensions: dict[str, int]  # of each descriptor, in the order of the file's outputs
    encrypted: bool
    sha256: str  # of the file
    checkpoint_sha256: str
    config: dict[str, Any]  # the whole config of the run, as config_from_dict takes it

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        return input_shape(self.batch_size, self.size_px, self.takes_pixels)

    @property
    def descriptors(self) -> tuple[str, ...]:
        return tuple(self.dimensions)

    def require_intact(self) -> None:
        """Check that the file is the one that its card describes.

        Raises:
            ExportError: the file is missing, larger than any such file can be, or not the one that the card names.
        """
        if not self.path.is_file():
            raise ExportError(f"exported file {self.path} is missing, only its card is there; export again")
        if self.path.stat().st_size > _MOST_FILE_BYTES:
            raise ExportError(f"exported file {self.path} is larger than 2 GB, the limit for {self.format} files")
        if file_sha256(self.path, ExportError, "exported file") != self.sha256:
            raise ExportError(
                f"exported file {self.path} is not the one that its card names (sha256 differs): "
                "damaged, replaced, or half an export; export again"
            )


def input_shape(batch_size: int | None, size_px: tuple[int, int], takes_pixels: bool) -> tuple[int | None, ...]:
    """Shape of a file's input: (B, H, W, 3) pixels or (B, 3, H, W) normalized; B may be None: any number."""
    return (batch_size, *size_px, 3) if takes_pixels else (batch_size, 3, *size_px)


def output_name(descriptor: str) -> str:
    """The name of a descriptor in cards, and in files whose outputs have names."""
    return "descriptor" if descriptor == GLOBAL else descriptor


def card_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def find_exported(place: Path, file_format: str) -> list[ExportedFile]:
    """The cards of all files of a format in directory ``place``, or of the file ``place`` itself.

    Raises:
        AbsentError: there is no such file.
        ExportError: a card is damaged.
    """
    suffix = FORMATS[file_format].suffix
    if not place.exists():
        raise AbsentError(f"{place} does not exist")
    if place.is_file():
        if place.suffix != suffix:
            raise ExportError(f"{place} is not in {file_format} format (*{suffix}); name a different file")
        return [read_card(place)]
    files = [read_card(path) for path in sorted(place.glob(f"*{suffix}")) if card_path(path).exists()]
    if not files:
        raise AbsentError(f"{place} contains no {file_format} file")
    return files


def choose_file(files: Sequence[ExportedFile], side: SideName, precision: str | None) -> ExportedFile:
    """The one of several files that contains a side of the encoder.

    Args:
        precision: of the arithmetic in the file; None: any if only one file contains the side, otherwise fp32.

    Raises:
        AbsentError: no file contains the side in this precision.
        ExportError: several files do.
    """
    of_side = [file for file in files if side in file.sides]
    if precision is None and len(of_side) == 1:
        return of_side[0]
    wanted = precision or "fp32"
    fitting = [file for file in of_side if file.precision == wanted]
    if len(fitting) == 1:
        return fitting[0]
    place, file_format = files[0].path.parent if len(files) > 1 else files[0].path, files[0].format
    if fitting:
        names = ", ".join(file.path.name for file in fitting)
        raise ExportError(f"{place} contains several {file_format} files of the {side} side, name one: {names}")
    others = sorted({file.precision for file in of_side})
    there = f" in {wanted}, only in {', '.join(others)}" if others else ""
    raise AbsentError(f"{place} contains no {file_format} file of the {side} side{there}")


def require_one_origin(files: Mapping[SideName, ExportedFile], checkpoint_sha256: str | None = None) -> None:
    """Check that files can belong to one encoder.

    Args:
        checkpoint_sha256: of the checkpoint that the files are said to come from.

    Raises:
        ExportError: the files come from different checkpoints or not from the given one, or differ in precision or in
            descriptors.
    """
    made_from = {file.checkpoint_sha256 for file in files.values()}
    names = ", ".join(sorted({str(file.path) for file in files.values()}))
    if len(made_from) > 1:
        raise ExportError(f"{names} come from different checkpoints; export both again")
    if len({file.precision for file in files.values()}) > 1:
        raise ExportError(f"{names} compute in different precisions; name one by --precision")
    if len({file.descriptors for file in files.values()}) > 1:
        raise ExportError(f"{names} return different descriptors according to their cards; export both again")
    if checkpoint_sha256 is not None and made_from != {checkpoint_sha256}:
        raise ExportError(f"{names}: exported from a different checkpoint (sha256 differs); export the given one")


def read_card(path: Path) -> ExportedFile:
    """The card of the exported file at ``path``; the file itself is not opened.

    Raises:
        ExportError: the card is missing, has a different version, or contains values that can't be true.
    """
    where = card_path(path)
    if not where.exists():
        raise ExportError(f"card {where} is missing; put it beside the exported file, or export again")
    card = read_json(where, ExportError, "card", "export again", most_bytes=_MOST_CARD_BYTES)
    if card.get("version") != CARD_VERSION:
        raise ExportError(f"card {where} has version {card.get('version')!r}, expected {CARD_VERSION}; export again")
    try:
        return _from_card(path, card)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ExportError(f"card {where} can't be used: {reason}; export again") from None


def _from_card(path: Path, card: dict[str, Any]) -> ExportedFile:
    entry, form = card["input"], card["format"]
    if form not in FORMATS or FORMATS[form].suffix != path.suffix:
        raise ValueError(f"format {form!r} does not fit the name {path.name}")
    if card["file"] != path.name:
        raise ValueError(f"it is the card of {card['file']!r}")
    takes_pixels = entry["dtype"] == "uint8"
    batch, *rest = entry["shape"]
    size_px = rest[:2] if takes_pixels else rest[1:]
    if len(rest) != 3 or rest[2 if takes_pixels else 0] != 3 or entry["dtype"] not in ("uint8", "float32"):
        raise ValueError(f"its input is {entry['dtype']} of shape {entry['shape']}")
    if not isinstance(card["config"], dict):
        raise ValueError("its config is not an object")
    mean, std = (tuple(float(value) for value in entry[key]) for key in ("mean", "std"))
    if len(mean) != 3 or len(std) != 3 or not min(std) > 0:
        raise ValueError(f"its mean is {list(mean)} and its std {list(std)}")
    return ExportedFile(
        path=path,
        format=form,
        sides=_sides(card["sides"]),
        precision=_among("precision", card["precision"], PRECISIONS),
        batch_size=None if batch is None else _number("batch", batch),
        size_px=(_number("side_px", size_px[0]), _number("side_px", size_px[1])),
        takes_pixels=takes_pixels,
        mean=mean,
        std=std,
        dimensions=_dimensions(card["outputs"]),
        encrypted=card["encryption"] is not None,
        sha256=str(card["sha256"]),
        checkpoint_sha256=str(card["checkpoint_sha256"]),
        config=card["config"],
    )


def _sides(sides: dict[str, Any]) -> dict[SideName, str]:
    if not sides:
        raise ValueError("it names no side of the encoder")
    for view in sides.values():
        if not view or not isinstance(view, str):
            raise ValueError(f"view is {view!r}, expected a name such as drone")
    return {_among("side", side, SIDES): view for side, view in sides.items()}


def _dimensions(outputs: Sequence[dict[str, Any]]) -> dict[str, int]:
    names = [output["name"] for output in outputs]
    for descriptors in _COMPLETE:
        if names == [output_name(name) for name in descriptors]:
            widths = (_number("dimension", output["dimension"]) for output in outputs)
            return dict(zip(descriptors, widths, strict=True))
    raise ValueError(f"its outputs are {names}, expected descriptor, or omega, phi and maybe centroids, in this order")


def _number(what: str, value: Any) -> int:
    if type(value) is not int or not 1 <= value <= _MOST[what]:
        raise ValueError(f"{what} is {value!r}, expected 1 to {_MOST[what]}")
    return value


def _among(what: str, value: Any, choices: Sequence[str]) -> Any:
    if value not in choices:
        raise ValueError(f"{what} {value!r} is not among {', '.join(choices)}")
    return value


RunFile = Callable[[np.ndarray], Sequence[np.ndarray]]  # images as the file takes them -> (B, D) of each descriptor


class ExportedEngine:
    """Runs one file per side, or one file for both sides.

    Args:
        name, precision: for the cards of descriptor sets.
        files: side -> card of the file that encodes it.
        open_file: opens a file; returns the function that runs it.
        batch_size: most images per call, where the files take any number; a file with a fixed batch decides itself.
        facts: further facts about the engine: for ONNX Runtime its provider and version ("runtime").
        exact: starts the engine that this one approximates; None: it is exact.

    Attributes:
        agreement: how far it agrees with the exact one, see ``build.compare_with_exact``; empty: not compared.
    """

    def __init__(
        self,
        name: str,
        precision: str,
        files: Mapping[SideName, ExportedFile],
        open_file: Callable[[ExportedFile], RunFile],
        batch_size: int = 1,
        facts: dict[str, Any] | None = None,
        exact: Callable[[], Engine] | None = None,
    ):
        self.name, self.precision, self.files, self.exact = name, precision, files, exact
        self.batch_size = min(file.batch_size or batch_size for file in files.values())
        (self.descriptors,) = {file.descriptors for file in files.values()}
        (self.checkpoint_sha256,) = {file.checkpoint_sha256 for file in files.values()}
        opened = {file.path: open_file(file) for file in {file.path: file for file in files.values()}.values()}
        self._runs = {side: opened[file.path] for side, file in files.items()}
        self._more = dict(facts or {})
        self.agreement: dict[str, Any] = {}

    def __str__(self) -> str:
        names = ", ".join(sorted({file.path.name for file in self.files.values()}))
        where = f" on {self._more['provider']} ({self._more['runtime']})" if "provider" in self._more else ""
        return f"{self.name} {self.precision}{where}, {names}, batches of at most {self.batch_size}"

    @property
    def facts(self) -> dict[str, Any]:
        """See ``Engine.facts``: engine, precision, checkpoint, the files with their hashes, and further facts."""
        return {
            "engine": self.name,
            "precision": self.precision,
            "checkpoint_sha256": self.checkpoint_sha256,
            "exported": {s: {"file": file.path.name, "sha256": file.sha256} for s, file in self.files.items()},
            **self._more,
            **({"agreement": self.agreement} if self.agreement else {}),
        }

    def encode(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See ``Engine.encode``.

        Raises:
            ExportError: also if the file returns shapes that differ from its card.
        """
        return {key: value for side, images in batch.items() for key, value in self._encode(side, images).items()}

    def _encode(self, side: SideName, image_B3HW: np.ndarray) -> dict[str, np.ndarray]:
        file, count = self.files[side], len(image_B3HW)
        size = file.batch_size or count
        full = filled_batch(image_B3HW, self.batch_size, size, side)
        outputs = self._runs[side](as_pixels(full, file.mean, file.std) if file.takes_pixels else full)
        got, expected = [rows.shape for rows in outputs], [(size, width) for width in file.dimensions.values()]
        if got != expected:
            said = f"{file.path} returns {_listed(got)} for {size} images, but its card says {_listed(expected)}"
            raise ExportError(f"{said}; export again")
        named = zip(self.descriptors, outputs, strict=True)
        return {f"{side}.{name}": np.asarray(rows_BD[:count], np.float32) for name, rows_BD in named}


def _listed(shapes: Sequence[tuple[int, ...]]) -> str:
    return ("shape " if len(shapes) == 1 else "shapes ") + ", ".join(map(str, shapes))


def as_pixels(image_B3HW: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Convert normalized images back to uint8 (B, H, W, 3); this is exact, as pixels are whole numbers."""
    scale, shift = (np.array(values, np.float32) * 255.0 for values in (std, mean))
    pixels_BHW3 = np.ascontiguousarray(image_B3HW.transpose(0, 2, 3, 1)) * scale
    pixels_BHW3 += shift
    return np.clip(np.rint(pixels_BHW3, out=pixels_BHW3), 0, 255, out=pixels_BHW3).astype(np.uint8)
