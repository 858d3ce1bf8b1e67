"""Exported encoders on disk: a file, and beside it the JSON card that says what goes in, what comes out, and whence.

Files and cards come from anywhere, so nothing in them is believed before it is checked. AIR files have cards too, but
only Ascend's own tools run them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindloc.errors import ExportError, one_line
from mindloc.retrieval.descriptor_set import GLOBAL
from mindloc.runtime.tensor_file import file_sha256

CARD_VERSION = 3
BEFORE_HEADS = 2  # the card's version when every encoder had one descriptor; still read
SUFFIXES = {"MINDIR": ".mindir", "ONNX": ".onnx", "AIR": ".air"}
PRECISIONS = ("fp32", "fp16", "bf16")
_MOST_CARD_BYTES = 1 << 20
_MOST_FILE_BYTES = (1 << 31) - 1  # of a protocol buffer, which MINDIR and ONNX are
_MOST = {"batch": 65_536, "side_px": 16_384, "dimension": 1 << 22}  # Omega of 384 px has 147 456
_COMPLETE = ((GLOBAL,), ("omega", "phi"), ("omega", "phi", "centroids"))  # all that some encoder makes


class AbsentError(ExportError):
    """No exported file where one was looked for."""


@dataclass(frozen=True)
class ExportedFile:
    """What a card says of its file."""

    path: Path
    format: str  # a key of SUFFIXES
    views: tuple[str, ...]  # the views whose pictures it encodes
    precision: str  # of the arithmetic inside
    batch_size: int | None  # pictures per call; None: any number
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
        """Compare the file with its card.

        Raises:
            ExportError: the file is missing, larger than any such file can be, or not the one that the card names.
        """
        if not self.path.is_file():
            raise ExportError(f"exported file {self.path} is missing, only its card is there; export again")
        if self.path.stat().st_size > _MOST_FILE_BYTES:
            raise ExportError(f"exported file {self.path} has over 2 GB, more than {self.format} can hold")
        if file_sha256(self.path) != self.sha256:
            raise ExportError(
                f"exported file {self.path} is not the one that its card names (sha256 differs): "
                "damaged, replaced, or half an export; export again"
            )


def input_shape(batch_size: int | None, size_px: tuple[int, int], takes_pixels: bool) -> tuple[int | None, ...]:
    """(B, H, W, 3) of pixels, (B, 3, H, W) of normalized pictures; None for B: any number."""
    return (batch_size, *size_px, 3) if takes_pixels else (batch_size, 3, *size_px)


def output_name(descriptor: str) -> str:
    """What a descriptor is called in files whose outputs have names, and in cards."""
    return "descriptor" if descriptor == GLOBAL else descriptor


def card_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def read_card(path: Path) -> ExportedFile:
    """The card of the exported file at ``path``; the file itself is not opened.

    Raises:
        ExportError: no card, one of another version, or one whose values can't be true.
    """
    card = _read_json(card_path(path))
    if card.get("version") not in (BEFORE_HEADS, CARD_VERSION):
        raise ExportError(
            f"card {card_path(path)} has version {card.get('version')!r}, this mindloc reads {BEFORE_HEADS} and "
            f"{CARD_VERSION}; export again"
        )
    try:
        file = _from_card(path, card)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ExportError(f"card {card_path(path)} can't be used: {reason}; export again") from None
    return file


def find_exported(
    place: Path, file_format: str, precision: str | None, views: Sequence[str]
) -> dict[str, ExportedFile]:
    """View -> the file in folder ``place``, or the file ``place`` itself, that encodes it in this format.

    Args:
        precision: of the arithmetic in the file; None takes what is there, fp32 where there are several.

    Raises:
        AbsentError: none does.
        ExportError: several do, or a card is damaged.
    """
    suffix = SUFFIXES[file_format]
    if not place.exists():
        raise AbsentError(f"{place} is not there")
    if place.is_file() and place.suffix != suffix:
        raise ExportError(f"{place} is no {file_format} file (*{suffix})")
    in_folder = (path for path in sorted(place.glob(f"*{suffix}")) if card_path(path).exists())
    files = [read_card(path) for path in ([place] if place.is_file() else in_folder)]
    return {view: _only_one(place, files, file_format, precision, view) for view in views}


def _only_one(
    place: Path, files: list[ExportedFile], file_format: str, precision: str | None, view: str
) -> ExportedFile:
    of_view = [file for file in files if view in file.views]
    if precision is None and len(of_view) == 1:
        return of_view[0]
    wanted = precision or "fp32"
    fitting = [file for file in of_view if file.precision == wanted]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(file.path.name for file in fitting)
        raise ExportError(f"{place} holds several {file_format} files of the {view} encoder, name one: {names}")
    others = sorted({file.precision for file in of_view})
    there = f" in {wanted}, only in {', '.join(others)}" if others else ""
    raise AbsentError(f"{place} holds no {file_format} file of the {view} encoder{there}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_CARD_BYTES + 1)
        card = json.loads(text) if len(text) <= _MOST_CARD_BYTES else None
    except FileNotFoundError:
        raise ExportError(f"card {path} is missing: an exported file counts only with the card beside it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"card {path} can't be read ({one_line(error)}); export again") from None
    if not isinstance(card, dict):
        raise ExportError(f"card {path} is no JSON object of at most {_MOST_CARD_BYTES} bytes; export again")
    return card


def _from_card(path: Path, card: dict[str, Any]) -> ExportedFile:
    entry, form = card["input"], card["format"]
    if SUFFIXES.get(form) != path.suffix:
        raise ValueError(f"format {form!r} does not fit the name {path.name}")
    if card["file"] != path.name:
        raise ValueError(f"it belongs to {card['file']!r}")
    takes_pixels = entry["dtype"] == "uint8"
    batch, *rest = entry["shape"]
    sides = rest[:2] if takes_pixels else rest[1:]
    if len(rest) != 3 or rest[2 if takes_pixels else 0] != 3 or entry["dtype"] not in ("uint8", "float32"):
        raise ValueError(f"input {entry['dtype']} of shape {entry['shape']}")
    if not isinstance(card["config"], dict):
        raise ValueError("its config is no object")
    mean, std = (tuple(float(value) for value in entry[key]) for key in ("mean", "std"))
    if len(mean) != 3 or len(std) != 3 or not min(std) > 0:
        raise ValueError(f"mean {list(mean)} and std {list(std)}")
    return ExportedFile(
        path=path,
        format=form,
        views=tuple(_among("view", view, ("drone", "satellite")) for view in card["views"]),
        precision=_among("precision", card["precision"], PRECISIONS),
        batch_size=None if batch is None else _number("batch", batch),
        size_px=(_number("side_px", sides[0]), _number("side_px", sides[1])),
        takes_pixels=takes_pixels,
        mean=mean,
        std=std,
        dimensions=_dimensions(card),
        encrypted=card["encryption"] is not None,
        sha256=str(card["sha256"]),
        checkpoint_sha256=str(card["checkpoint_sha256"]),
        config=card["config"],
    )


def _dimensions(card: dict[str, Any]) -> dict[str, int]:
    if card["version"] == BEFORE_HEADS:
        return {GLOBAL: _number("dimension", card["dimension"])}
    names = [output["name"] for output in card["outputs"]]
    for descriptors in _COMPLETE:
        if names == [output_name(name) for name in descriptors]:
            sides = (_number("dimension", output["dimension"]) for output in card["outputs"])
            return dict(zip(descriptors, sides, strict=True))
    raise ValueError(f"its outputs are {names}, expected descriptor, or omega, phi and maybe centroids, in this order")


def _number(what: str, value: Any) -> int:
    if type(value) is not int or not 1 <= value <= _MOST[what]:
        raise ValueError(f"{what} is {value!r}, expected 1 to {_MOST[what]}")
    return value


def _among(what: str, value: Any, choices: Sequence[str]) -> str:
    if value not in choices:
        raise ValueError(f"{what} {value!r} is not among {', '.join(choices)}")
    return value
