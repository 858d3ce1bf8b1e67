"""An index on disk: a directory whose card.json contains the size and checksum of every other file in it.

::

    card.json      format, version, the IndexCard, parameters, rows, count, {file: bytes, checksum},
                   its own checksum
    vectors.faiss  recall vectors, as FAISS writes them
    phi.npy        re-rank vectors of unit length, (rows, E) float32; only where there are any
    names.json     a list of all rows' names
    places.npy     (rows, 2) float64, NaN where unknown
    bounds.npy     (rows, 4) float64, NaN where unknown
    alive.npy      (rows,) bool, False where a tile was removed or replaced

The directory appears under its name when everything is on disk; sizes and checksums are checked before reading.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mindloc.errors import TileIndexError
from mindloc.reading import checksum, file_checksum, is_unicode, json_checksum, read_array, read_json
from mindloc.runtime.files import atomic_directory, require_replaceable, synced, writing
from mindloc.runtime.process import command_line, fault_point
from mindloc.search.faiss_kinds import FaissParameters
from mindloc.search.index import IndexCard, is_count, read_index_card
from mindloc.search.tile_table import GrowingRows, TileTable

FORMAT = "mindloc tile index"
VERSION = 2
VECTORS = "vectors.faiss"
_PHI = "phi.npy"
_NAMES = "names.json"
_ARRAYS = ("places.npy", "bounds.npy", "alive.npy")
_CARD = "card.json"
_ALL = (_CARD, VECTORS, _PHI, _NAMES, *_ARRAYS)


@dataclass(frozen=True)
class SavedIndex:
    """What a directory contains, checked; the vectors are still in their file."""

    card: IndexCard
    parameters: FaissParameters
    table: TileTable
    vectors: Path


def save_index_directory(
    directory: Path,
    card: IndexCard,
    parameters: FaissParameters,
    table: TileTable,
    write_vectors: Callable[[Callable[[bytes], int]], None],
) -> None:
    """Write an index; an older one at ``directory`` is replaced when the new one is complete.

    Args:
        write_vectors: writes the recall vectors by calling the function that it receives.

    Raises:
        TileIndexError: the directory contains something else, or the disk is full or not writable.
    """
    replaced = atomic_directory(directory, "tile index", TileIndexError, require_index_place)
    with writing(f"tile index {directory}", TileIndexError), replaced as partial:
        fault_point("index.before_write")
        files = _write_files(partial, table, write_vectors)
        facts = {"format": FORMAT, "version": VERSION, "index": asdict(card), "parameters": asdict(parameters)}
        facts |= {"rows": len(table.names), "count": table.count, "files": files}
        with synced(partial / _CARD) as file:
            file.write(json.dumps({**facts, "checksum": json_checksum(facts)}, indent=2).encode())
        fault_point("index.before_swap")


def require_index_place(directory: Path) -> None:
    """Check that an index may be saved to ``directory``.

    Raises:
        TileIndexError: it contains anything but an older index; saving would delete it.
    """
    require_replaceable(directory, _ALL, "tile index", TileIndexError)


def _write_files(
    partial: Path, table: TileTable, write_vectors: Callable[[Callable[[bytes], int]], None]
) -> dict[str, dict[str, Any]]:
    """Write all files except the card; returns name -> size and checksum of each."""
    files: dict[str, dict[str, Any]] = {}
    with _summed(partial / VECTORS, files) as sink:
        write_vectors(sink.write)
    fault_point("index.mid_write")
    if table.rerank is not None:
        with _summed(partial / _PHI, files) as sink:
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(table.rerank), table.rerank.width)}
            np.lib.format.write_array_header_1_0(sink, header)
            for block in table.rerank.blocks():
                sink.write(np.ascontiguousarray(block, "<f4").data.cast("B"))
    with _summed(partial / _NAMES, files) as sink:
        sink.write(json.dumps(table.names).encode())
    for name, array in zip(_ARRAYS, (table.place_N2, table.bounds_N4, table.alive_N), strict=True):
        with _summed(partial / name, files) as sink:
            np.save(sink, array)
    return files


class _Sink:
    """A file whose checksum and size are computed while it is written."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._digest = checksum()
        self._bytes = 0

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        self._bytes += len(data)
        self._file.write(data)
        return len(data)

    def facts(self) -> dict[str, Any]:
        return {"bytes": self._bytes, "checksum": self._digest.hexdigest()}


@contextmanager
def _summed(path: Path, files: dict[str, dict[str, Any]]) -> Iterator[_Sink]:
    with synced(path) as file:
        sink = _Sink(file)
        yield sink
        files[path.name] = sink.facts()


def load_index_directory(directory: Path, memory_map: bool) -> SavedIndex:
    """Read an index from its directory: check card, sizes and checksums, then read the table.

    Args:
        memory_map: leave the re-rank vectors in their file.

    Raises:
        TileIndexError: a file is missing, cut off, changed or contradicts the card; the directory is not a tile index.
    """
    facts = _read_facts(directory / _CARD)
    card, parameters = _parse(directory / _CARD, facts)
    _check_files(directory, card, facts["files"])
    table = _read_table(directory, facts, card.rerank_dimension, memory_map)
    return SavedIndex(card, parameters, table, directory / VECTORS)


def _read_facts(path: Path) -> dict[str, Any]:
    if not path.exists():
        building = command_line("index", "build", "DIRECTORY", "--index", "PATH")
        raise TileIndexError(f"{path.parent} contains no tile index; name one, or build one with: {building}")
    facts = read_json(path, TileIndexError, "", "build the index again")
    if facts.get("format") != FORMAT:
        raise TileIndexError(f"{path} is not the card of a tile index; name the directory of an index")
    if facts.get("version") != VERSION:
        version = facts.get("version")
        raise TileIndexError(f"{path} has version {version!r}, this program reads {VERSION}; build the index again")
    if facts.pop("checksum", None) != json_checksum(facts):
        raise TileIndexError(f"{path} was changed since it was saved (its checksum differs); build the index again")
    return facts


def _parse(path: Path, facts: dict[str, Any]) -> tuple[IndexCard, FaissParameters]:
    """Index card and parameters, after a check that every fact has the correct type."""
    card, given = read_index_card(facts.get("index")), facts.get("parameters")
    known = isinstance(given, dict) and set(given) == {field.name for field in fields(FaissParameters)}
    known = known and all(is_count(value) for value in [*given.values(), facts.get("rows"), facts.get("count")])
    if card is None or not known:
        raise TileIndexError(f"{path} lacks facts or has some of a wrong type; build the index again")
    return card, FaissParameters(**given)


def _check_files(directory: Path, card: IndexCard, files: Any) -> None:
    expected = {VECTORS, _NAMES, *_ARRAYS} | ({_PHI} if card.rerank_dimension is not None else set())
    if not isinstance(files, dict) or set(files) != expected:
        raise TileIndexError(
            f"{directory / _CARD} does not list exactly {', '.join(sorted(expected))}; build the index again"
        )
    for name, facts in files.items():
        path = directory / name
        size = facts.get("bytes") if isinstance(facts, dict) else None
        if not path.is_file():
            raise TileIndexError(f"{path} is missing; copy the index or build it again")
        if (found := path.stat().st_size) != size:
            raise TileIndexError(
                f"{path} has {found} bytes, but card.json says {size}; copy the index or build it again"
            )
    for name, facts in files.items():
        if file_checksum(directory / name, TileIndexError) != facts.get("checksum"):
            raise TileIndexError(
                f"{directory / name} was changed since it was saved (its checksum differs); build it again"
            )


def _read_table(directory: Path, facts: dict[str, Any], rerank_width: int | None, memory_map: bool) -> TileTable:
    rows = facts["rows"]
    names = read_json(directory / _NAMES, TileIndexError, "", "build the index again", kind=list)
    if len(names) != rows or not all(isinstance(name, str) and is_unicode(name) for name in names):
        raise TileIndexError(f"{directory / _NAMES} is not a list of {rows} names; build the index again")
    kinds = ((np.float64, (rows, 2)), (np.float64, (rows, 4)), (np.bool_, (rows,)))
    arrays = [_read_array(directory / name, *kind) for name, kind in zip(_ARRAYS, kinds, strict=True)]
    rerank = None
    if rerank_width is not None:
        rerank = GrowingRows(_read_array(directory / _PHI, np.float32, (rows, rerank_width), memory_map))
    table = TileTable(names, *arrays, rerank)
    if not table.count == np.count_nonzero(table.alive_N) == facts["count"]:
        raise TileIndexError(
            f"tile index {directory} has duplicate names, or tiles that its card.json does not count; build it again"
        )
    return table


def _read_array(path: Path, kind: type, shape: tuple[int, ...], memory_map: bool = False) -> np.ndarray:
    array = read_array(path, TileIndexError, "build the index again", memory_map)
    if array.dtype != kind or array.shape != shape:
        raise TileIndexError(f"{path} is not {np.dtype(kind)} of shape {shape}; build the index again")
    return array
