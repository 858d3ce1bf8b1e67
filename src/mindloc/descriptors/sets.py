"""Descriptors on disk, with the name and the place of each row and a card with their origin.

A set is a directory::

    descriptors.npy   (N, D) float32, can be memory-mapped
    rows.jsonl        one line per row: {"name": str, "place": [a, b] | null}; also
                      "bounds": [lowest a, lowest b, highest a, highest b] where they are known
    card.json         version, view, descriptor, place_unit, count, dimension, normalized, checkpoint hash, engine, ...,
                      checksum of the three files

An encoder with several descriptors writes a directory of sets, each named after its descriptor: omega, phi. The
directory of an extraction has one writer at a time: a second writer waits. A reader always sees one complete version.

Shapes: N rows, B rows of one batch, D dimension.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, get_args

import numpy as np

from mindloc.errors import DataError
from mindloc.geo.points import PlaceUnit
from mindloc.reading import checksum, is_unicode, json_checksum, read_array, read_bytes, read_json, read_json_lines
from mindloc.runtime.files import (
    ESCAPED,
    atomic_directory,
    existing_directory,
    read_unswapped,
    require_replaceable,
    synced,
    writing,
)
from mindloc.runtime.process import command_line
from mindloc.vocabulary import CENTROIDS, GLOBAL, OMEGA, PHI

VERSION = 2
RECALL_DESCRIPTORS = (GLOBAL, OMEGA)  # stage one of a search uses one of them
DESCRIPTORS = (*RECALL_DESCRIPTORS, PHI, CENTROIDS)
_FILES = ("descriptors.npy", "rows.jsonl", "card.json")
_HEADER_BYTES = 128  # of descriptors.npy: fixed, so that the row count can be filled in at the end
_BLOCK_NUMBERS = 2**17  # float32 of a block: 512 kB
_LARGEST = 1e300  # coordinate of a place; JSON allows integers beyond the range of float
_REQUIRED_FACTS = ("version", "view", "place_unit", "count", "dimension", "normalized", "checksum")
_NONE = type(None)
# what readers of a card rely on; any of these facts may be null or absent
_KINDS: dict[str, tuple[type, ...]] = {"config": (dict,), "count": (int,), "dimension": (int,), "nodes": (int,)}
_KINDS |= dict.fromkeys(("descriptor", "extraction", "checkpoint_sha256", "reduction_sha256", "checksum"), (str,))

Read = TypeVar("Read")


@dataclass(frozen=True)
class DescriptorSet:
    """One view's descriptors; row i of the matrix belongs to ``rows[i]``."""

    descriptor_ND: np.ndarray  # float32, possibly a memmap
    rows: list[dict[str, Any]]
    card: dict[str, Any]

    @property
    def count(self) -> int:
        return len(self.rows)

    @property
    def names(self) -> list[str]:
        return [row["name"] for row in self.rows]

    @property
    def descriptor(self) -> str:
        """Name of the descriptor, such as "global"."""
        return self.card.get("descriptor", GLOBAL)  # a baseline's card does not name it

    def place_N2(self) -> np.ndarray:
        """Places of all rows in ``card["place_unit"]``, float64; NaN where a row has none."""
        return np.array([row["place"] or (np.nan, np.nan) for row in self.rows], np.float64).reshape(-1, 2)

    def bounds_N4(self) -> np.ndarray:
        """Area of each row in the unit of places, lowest a, lowest b, highest a, highest b; NaN where it has none."""
        return np.array([row.get("bounds") or (np.nan,) * 4 for row in self.rows], np.float64).reshape(-1, 4)


class DescriptorWriter:
    """Writes the sets of an extraction batch by batch; they appear together when every row is on disk.

    Use as a context manager: leaving it normally publishes the directory, in place of an older extraction there;
    leaving it through an exception removes what was written. Entering waits for any other process that writes there.

    Args:
        directory: of the set; with several descriptors, the directory that contains their sets (``set_directory``).
        cards: descriptor -> facts for its card, at least ``view`` and ``place_unit``; count and dimension are added.

    Raises:
        DataError: the directory contains anything but descriptor sets; a batch differs in dimension from the first one,
            contains NaN or infinity, or differs in length from its rows; a name appears twice; there is no row.
    """

    def __init__(self, directory: str | Path, cards: Mapping[str, dict[str, Any]]):
        self.directory = Path(directory)
        self._cards = cards
        self._count = 0
        self._names: set[str] = set()
        self._row_sum = checksum()

    def __enter__(self) -> "DescriptorWriter":
        with self._writing(), contextlib.ExitStack() as opened:
            partial = opened.enter_context(atomic_directory(self.directory, "descriptor set", DataError, require_place))
            self._files: dict[str, _SetFiles] = {}
            for name, card in self._cards.items():
                inner = set_directory(partial, name)
                inner.mkdir(exist_ok=True)
                files = (opened.enter_context(synced(inner / file)) for file in _FILES)
                self._files[name] = _SetFiles({"version": VERSION, **card}, *files)
            self._opened = opened.pop_all()
        return self

    def append(self, descriptors: Mapping[str, np.ndarray], rows: list[dict[str, Any]]) -> None:
        """Add one batch, descriptor -> (B, D); ``rows`` are the lines of rows.jsonl in the same order."""
        batches = {name: np.ascontiguousarray(descriptors[name], dtype="<f4") for name in self._files}
        for row in rows:
            self._check_row(row)
        for name, files in self._files.items():
            files.check(batches[name], rows)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")
        self._row_sum.update(lines)
        with self._writing():
            for name, files in self._files.items():
                files.append(batches[name], lines)
        self._count += len(rows)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        if kind is not None:
            with contextlib.suppress(OSError):  # a full disk fails a second time here
                self._opened.__exit__(kind, error, trace)
            return
        with self._writing(), self._opened:
            if not self._count:
                raise DataError(f"descriptor set {self.directory} would be empty; give it at least one image")
            for files in self._files.values():
                files.complete(self._count, self._row_sum)

    def _check_row(self, row: dict[str, Any]) -> None:
        _check_row(row, f"row {self._count} of {self.directory}")
        if row["name"] in self._names:
            raise DataError(f"{row['name']} appears twice in descriptor set {self.directory}; names must be unique")
        self._names.add(row["name"])

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return writing(f"descriptor set {self.directory}", DataError)


class _SetFiles:
    """The files of one set while they are written."""

    def __init__(self, card: dict[str, Any], matrix: BinaryIO, rows: BinaryIO, card_file: BinaryIO):
        self._card, self._matrix, self._rows, self._card_file = card, matrix, rows, card_file
        self._matrix_sum = checksum()
        self._dimension: int | None = None
        self._normalized = True
        self._matrix.write(_npy_header(0, 0))

    def check(self, batch: np.ndarray, rows: list[dict[str, Any]]) -> None:
        if batch.ndim != 2 or len(batch) != len(rows):
            raise DataError(f"descriptors of {len(rows)} rows have shape {batch.shape}; expected one per row")
        if self._dimension is None:
            self._dimension = batch.shape[1]
        if batch.shape[1] != self._dimension:
            raise DataError(
                f"descriptors have dimension {batch.shape[1]}, but the set has {self._dimension}; all must be equal"
            )
        finite_B = np.isfinite(batch).all(axis=1)
        if not finite_B.all():
            name = rows[int(np.argmin(finite_B))]["name"]
            raise DataError(f"the descriptor of {name} contains NaN or infinity; the encoder's weights are broken")

    def append(self, batch: np.ndarray, lines: bytes) -> None:
        norm_B = np.linalg.norm(batch.astype(np.float64), axis=1)
        self._normalized &= bool(np.all(np.abs(norm_B - 1.0) < 1e-3))
        self._matrix_sum.update(batch.data)
        self._matrix.write(batch.data)
        self._rows.write(lines)

    def complete(self, count: int, row_sum: Any) -> None:
        self._matrix.seek(0)
        self._matrix.write(_npy_header(count, self._dimension or 0))
        card = {**self._card, "count": count, "dimension": self._dimension, "normalized": self._normalized}
        card["checksum"] = _checksum_of(card, self._matrix_sum, row_sum)
        self._card_file.write(json.dumps(card, indent=2, ensure_ascii=False).encode("utf-8", ESCAPED))


def save_descriptor_set(
    directory: str | Path, descriptor_ND: np.ndarray, rows: list[dict[str, Any]], card: dict[str, Any]
) -> None:
    """Write a whole set at once; for arguments and errors see ``DescriptorWriter``."""
    with DescriptorWriter(directory, {GLOBAL: card}) as writer:
        writer.append({GLOBAL: descriptor_ND}, rows)


def make_rows(
    names: Iterable[str], place_N2: np.ndarray | None, bounds_N4: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """Lines of rows.jsonl. Without places, every ``place`` is null; without bounds, ``bounds`` is absent."""
    names = list(names)
    places = [None] * len(names) if place_N2 is None else np.asarray(place_N2, np.float64).tolist()
    rows = [{"name": name, "place": place} for name, place in zip(names, places, strict=True)]
    if bounds_N4 is not None:
        for row, bounds in zip(rows, np.asarray(bounds_N4, np.float64).tolist(), strict=True):
            row["bounds"] = bounds
    return rows


def set_directory(directory: str | Path, descriptor: str) -> Path:
    """Directory of one descriptor's set in the directory of an extraction."""
    return Path(directory) if descriptor == GLOBAL else Path(directory) / descriptor


def require_place(directory: str | Path) -> None:
    """Check that an extraction may be written to ``directory``.

    Raises:
        DataError: it contains anything but the sets of an older extraction; writing would delete it.
    """
    require_replaceable(Path(directory), (*_FILES, *DESCRIPTORS[1:]), "descriptor set", DataError)
    for name in DESCRIPTORS[1:]:
        require_replaceable(Path(directory) / name, _FILES, "descriptor set", DataError)


def load_descriptor_sets(directory: str | Path, memory_map: bool = True) -> dict[str, DescriptorSet]:
    """Read all sets of an extraction, descriptor -> set: "global", or "omega", "phi" and, if requested, "centroids".

    Raises:
        DataError: for the reasons given in ``load_descriptor_set``, or because the sets are of different extractions.
    """
    return _read_version(Path(directory), lambda place: _load_sets(place, memory_map))


def _load_sets(directory: Path, memory_map: bool) -> dict[str, DescriptorSet]:
    inner = [name for name in DESCRIPTORS[1:] if (directory / name).is_dir()]
    if not inner:
        one = _load_set(directory, memory_map)
        return {one.descriptor: one}
    sets = {name: _load_set(directory / name, memory_map) for name in inner}
    if not {OMEGA, PHI} <= sets.keys():
        raise DataError(f"{directory} contains {', '.join(inner)}, expected both omega and phi; extract it again")
    first = sets[OMEGA]
    for name, other in sets.items():
        if other.descriptor != name:
            raise DataError(f"{directory}/{name} contains {other.descriptor} descriptors; extract it again")
        same_origin = all(other.card.get(fact) == first.card.get(fact) for fact in ("extraction", "checkpoint_sha256"))
        if other.names != first.names or not same_origin:
            raise DataError(f"{directory}: omega and {name} come from different extractions; extract it again")
    return sets


def load_descriptor_set(directory: str | Path, memory_map: bool = True) -> DescriptorSet:
    """Read a set and check it: files complete, counts and dimension agree, no NaN, names unique.

    Raises:
        DataError: a check failed; the message names the file and what is wrong with it.
    """
    return _read_version(Path(directory), lambda place: _load_set(place, memory_map))


def _read_version(directory: Path, read: Callable[[Path], Read]) -> Read:
    """The result of ``read`` on one version of the directory, which a writer may replace meanwhile."""
    if existing_directory(directory) is None:
        raise DataError(f"descriptor set {directory} is missing; write one with: {_extraction(directory)}")
    return read_unswapped(directory, read, "descriptor set", DataError)


def _extraction(out: str | Path) -> str:
    """The command that writes a set there."""
    return command_line("extract", "IMAGES", "--checkpoint", "RUN", "--out", out)


def _load_set(directory: Path, memory_map: bool) -> DescriptorSet:
    if not (directory / "card.json").is_file():
        raise DataError(f"{directory} contains no descriptor set; write one with: {_extraction('DIRECTORY')}")
    card = _load_card(directory / "card.json")
    rows = _load_rows(directory / "rows.jsonl")
    descriptor_ND = _load_matrix(directory / "descriptors.npy", memory_map)
    expected = (card["count"], card["dimension"])
    if descriptor_ND.shape != expected or len(rows) != card["count"]:
        raise DataError(
            f"descriptor set {directory} contradicts itself: card {expected}, descriptors.npy {descriptor_ND.shape}, "
            f"rows.jsonl {len(rows)} lines; extract it again"
        )
    stated = card.pop("checksum")
    row_sum = checksum(read_bytes(directory / "rows.jsonl", DataError, "extract the set again"))
    matrix_sum, broken = _examine(descriptor_ND)
    if _checksum_of(card, matrix_sum, row_sum) != stated:
        raise DataError(f"descriptor set {directory} was changed or damaged (its checksum differs); extract it again")
    if broken is not None:
        name = rows[broken]["name"]
        raise DataError(f"{directory}: the descriptor of {name} contains NaN or infinity; extract the set again")
    return DescriptorSet(descriptor_ND, rows, card)


def _checksum_of(card: dict[str, Any], *sums: Any) -> str:
    """Checksum of a set: of its card without the checksum, and of its other files, whose checksums are given."""
    return json_checksum([card, *(part.hexdigest() for part in sums)])


def _load_card(path: Path) -> dict[str, Any]:
    card = read_json(path, DataError, "", "extract the set again")
    if card.get("version") != VERSION:
        version = card.get("version")
        raise DataError(f"{path} has version {version}, this program reads {VERSION}; extract the set again")
    absent = [fact for fact in _REQUIRED_FACTS if fact not in card]
    if absent:
        raise DataError(f"{path} lacks {', '.join(absent)}; extract the set again")
    if not card["view"] or not isinstance(card["view"], str):
        raise DataError(f"{path} has view {card['view']!r}, expected a name such as drone; extract the set again")
    wrong = next((fact for fact in card.keys() & _KINDS if not isinstance(card[fact], (*_KINDS[fact], _NONE))), None)
    if wrong is None and card["place_unit"] not in (None, *get_args(PlaceUnit)):
        wrong = "place_unit"
    if wrong is not None:
        raise DataError(f"{path} has {wrong} {str(card[wrong])[:60]!r}, of a wrong type; extract the set again")
    return card


def _load_rows(path: Path) -> list[dict[str, Any]]:
    rows, seen = [], set()
    for where, row in read_json_lines(path, DataError, "extract the set again"):
        _check_row(row, where)
        if row["name"] in seen:
            raise DataError(
                f"{where}: the name {row['name']} is used twice; names must be unique: extract the set again"
            )
        seen.add(row["name"])
        rows.append(row)
    return rows


def _check_row(row: Any, where: str) -> None:
    known = isinstance(row, dict) and isinstance(row.get("name"), str)
    if not (known and _are_numbers(row.get("place"), 2) and _are_numbers(row.get("bounds"), 4)):
        raise DataError(
            f"{where} is {str(row)[:80]}, expected name (text), place (two numbers or null) and optionally "
            "bounds (four numbers)"
        )
    if not is_unicode(row["name"]):
        raise DataError(f"{where}: the name {row['name']!r} is not valid Unicode; rename the file")


def _are_numbers(values: Any, count: int) -> bool:
    """Whether these are ``count`` finite numbers, or None."""
    if values is None:
        return True
    if not isinstance(values, (list, tuple)) or len(values) != count:
        return False
    return all(isinstance(x, (int, float)) and abs(x) <= _LARGEST for x in values)


def _load_matrix(path: Path, memory_map: bool) -> np.ndarray:
    matrix = read_array(path, DataError, "extract the set again", memory_map)
    if matrix.ndim != 2 or matrix.dtype != np.float32:
        kind = f"{matrix.dtype} of shape {matrix.shape}"
        raise DataError(f"{path} contains {kind}, expected float32 of shape (count, dimension); extract the set again")
    return matrix


def _examine(descriptor_ND: np.ndarray) -> tuple[Any, int | None]:
    """(Checksum of a matrix, the first row with NaN or infinity), in one pass of blocks that fit the cache."""
    whole, broken = checksum(), None
    block_rows = max(1, _BLOCK_NUMBERS // max(1, descriptor_ND.shape[1]))
    for start in range(0, len(descriptor_ND), block_rows):
        block = np.ascontiguousarray(descriptor_ND[start : start + block_rows])
        whole.update(block.data)
        if broken is None and not np.isfinite(block).all():
            broken = start + int(np.argmin(np.isfinite(block).all(axis=1)))
    return whole, broken


def _npy_header(count: int, dimension: int) -> bytes:
    """The .npy 1.0 header, padded to a fixed length."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count}, {dimension}), }}"
    length = _HEADER_BYTES - 10
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + text.ljust(length - 1).encode() + b"\n"
