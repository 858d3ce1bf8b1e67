"""Exported encoders on disk: a file, and beside it the JSON card that says what goes in, what comes out, and whence.

Files and cards come from anywhere, so nothing in them is believed before it is checked. AIR files have cards too, but
only Ascend's own tools run them.

Exported files as an engine: batches brought to what the file takes, descriptors brought back.

Suffixes: B pictures of a batch, D dimension.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mindloc.descriptors.sets import GLOBAL
from mindloc.errors import ExportError
from mindloc.inference.engine import Engine, EngineAgreement, compare_engines, filled_batch
from mindloc.runtime.checkpoint import file_sha256
from mindloc.runtime.files import read_json

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
    if not path.exists():
        raise ExportError(f"card {path} is missing: an exported file counts only with the card beside it")
    return read_json(path, ExportError, "card", "export again", most_bytes=_MOST_CARD_BYTES)


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
        views=tuple(_among("view", view, ("query", "reference")) for view in card["views"]),
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


RunFile = Callable[[np.ndarray], Sequence[np.ndarray]]  # pictures as the file takes them -> (B, D) of each descriptor


class ExportedEngine:
    """Runs one file per view, or one for both.

    Args:
        name, precision: for the cards of descriptor sets.
        files: view -> card of the file that encodes it.
        runs: view -> that file, opened.
        batch_size: most pictures per call, where the files take any number; a file with a fixed batch decides itself.
        facts: more to tell of the engine: of ONNX Runtime its provider and version ("runtime").
    """

    def __init__(
        self,
        name: str,
        precision: str,
        files: dict[str, ExportedFile],
        runs: dict[str, RunFile],
        batch_size: int,
        facts: dict[str, Any] | None = None,
    ):
        self.name, self.precision, self.files = name, precision, files
        self.batch_size = min(file.batch_size or batch_size for file in files.values())
        (self.descriptors,) = {file.descriptors for file in files.values()}
        (self.checkpoint_sha256,) = {file.checkpoint_sha256 for file in files.values()}
        self._runs, self._more = runs, dict(facts or {})

    def __str__(self) -> str:
        names = ", ".join(sorted({file.path.name for file in self.files.values()}))
        where = f" on {self._more['provider']} ({self._more['runtime']})" if "provider" in self._more else ""
        return f"{self.name} {self.precision}{where}, {names}, batches of at most {self.batch_size}"

    @property
    def facts(self) -> dict[str, Any]:
        """As ``Engine.facts``: engine, precision, checkpoint, the files with their hashes, and what else is known."""
        return {
            "engine": self.name,
            "precision": self.precision,
            "checkpoint_sha256": self.checkpoint_sha256,
            "exported": {v: {"file": file.path.name, "sha256": file.sha256} for v, file in self.files.items()},
            **self._more,
        }

    def compare_with(self, exact: Engine, batches: Iterable[tuple[str, np.ndarray]]) -> EngineAgreement:
        """How far it agrees with a more exact engine on (view, normalized pictures); one of its facts from then on."""
        agreement = compare_engines(exact, self, batches)
        self._more["agreement"] = {"with": exact.facts["precision"], **agreement.facts}
        return agreement

    def encode(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """As ``Engine.encode``.

        Raises:
            DataError: a batch that is empty or larger than ``batch_size``.
            ExportError: the file answers with other descriptors or shapes than its card says.
        """
        return {key: value for view, images in batch.items() for key, value in self._encode(view, images).items()}

    def _encode(self, view: str, image_B3HW: np.ndarray) -> dict[str, np.ndarray]:
        file, count = self.files[view], len(image_B3HW)
        size = file.batch_size or count
        full = filled_batch(image_B3HW, self.batch_size, size, view)
        outputs = self._runs[view](as_pixels(full, file.mean, file.std) if file.takes_pixels else full)
        got, expected = [rows.shape for rows in outputs], [(size, side) for side in file.dimensions.values()]
        if got != expected:
            said = f"{file.path} returns {_listed(got)} for {size} pictures; its card says {_listed(expected)}"
            raise ExportError(f"{said}: export again")
        named = zip(self.descriptors, outputs, strict=True)
        return {f"{view}.{name}": np.asarray(rows_BD[:count], np.float32) for name, rows_BD in named}


def _listed(shapes: Sequence[tuple[int, ...]]) -> str:
    return ("shape " if len(shapes) == 1 else "shapes ") + ", ".join(map(str, shapes))


def as_pixels(image_B3HW: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Normalized pictures as the uint8 (B, H, W, 3) that they were: exact, as pixels are whole numbers."""
    scale, shift = (np.array(values, np.float32) * 255.0 for values in (std, mean))
    pixels_BHW3 = np.ascontiguousarray(image_B3HW.transpose(0, 2, 3, 1)) * scale
    pixels_BHW3 += shift
    return np.clip(np.rint(pixels_BHW3, out=pixels_BHW3), 0, 255, out=pixels_BHW3).astype(np.uint8)
