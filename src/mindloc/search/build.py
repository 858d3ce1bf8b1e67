"""Build, open, change and describe an index at an address: a directory or ``milvus:...`` (milvus_collection.py)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from mindloc.errors import ConfigError, TileIndexError
from mindloc.runtime.lock import locked
from mindloc.runtime.process import command_line
from mindloc.search.extraction import Extracted
from mindloc.search.faiss_index import build_faiss_index, load_faiss_index
from mindloc.search.faiss_kinds import KINDS as FAISS_KINDS
from mindloc.search.faiss_kinds import FaissParameters, require_parameters_of
from mindloc.search.index import TileIndex, add_all
from mindloc.search.index_directory import require_index_place
from mindloc.search.milvus_collection import KINDS as MILVUS_KINDS
from mindloc.search.milvus_collection import PREFIX as MILVUS_PREFIX
from mindloc.search.milvus_index import create_milvus_index, open_milvus_index

KINDS = tuple(dict.fromkeys((*FAISS_KINDS, *MILVUS_KINDS)))  # without duplicates


class Added(NamedTuple):
    """Result of adding tiles."""

    replaced: int  # added tiles whose name was in the index before
    total: int  # tiles afterwards


def open_index(address: str, memory_map: bool = True) -> TileIndex:
    """Open the index at ``milvus:...`` or in a directory.

    Args:
        memory_map: leave the vectors of a directory in their files; the index can't be changed then.

    Raises:
        TileIndexError: the index is missing or damaged, can't be reached, or is not a tile index.
        DeviceError: the library that reads it is not installed.
    """
    return open_milvus_index(address) if _in_milvus(address) else load_faiss_index(address, memory_map)


def require_buildable(address: str, kind: str, parameters: Mapping[str, int]) -> None:
    """Check that an index of this kind at this address reads all given parameters.

    Raises:
        ConfigError: it does not; the message names them.
    """
    if _in_milvus(address) and parameters:
        raise ConfigError(
            f"--{next(iter(parameters))} is for an index in a directory, Milvus chooses its own sizes; leave it out"
        )
    require_parameters_of(kind, parameters)


def build_index(address: str, extracted: Extracted, kind: str, parameters: Mapping[str, int]) -> None:
    """Build an index from an extraction. An older index in a directory remains until the new one is complete.

    Args:
        kind: one of ``KINDS``.
        parameters: those of ``FaissParameters`` that are not chosen by the number of tiles.

    Raises:
        ConfigError: there are parameters that the kind does not read.
        TileIndexError: something else is at the address, there are too few tiles to learn from, or the disk is full.
    """
    require_buildable(address, kind, parameters)
    if _in_milvus(address):
        _fill_collection(address, extracted, kind)
        return
    with _locked(address):
        require_index_place(Path(address))  # checked before the work, not only when saving
        card = extracted.index_card(kind)
        built = build_faiss_index(card, extracted.tiles(), FaissParameters(**parameters), extracted.count)
        with closing(built) as index:
            index.save(address)


def _fill_collection(address: str, extracted: Extracted, kind: str) -> None:
    """Fill an empty collection; one that contains tiles can't be replaced in one step.

    Raises:
        TileIndexError: the collection contains tiles, or the reasons given in ``create_collection``.
    """
    with closing(create_milvus_index(address, extracted.index_card("milvus"), kind)) as index:
        if index.count:
            raise TileIndexError(
                f"{address} contains {index.count} tiles already; name a different collection, as #NAME, or "
                f"add to this one with: {command_line('index', 'add', 'DIRECTORY', '--index', address)}"
            )
        add_all(index, extracted.tiles(), extracted.count)


def add_tiles(address: str, extracted: Extracted) -> Added:
    """Add an extraction's tiles to an index; a tile replaces an older one of the same name.

    Raises:
        TileIndexError: the tiles do not fit the index; the reasons given in ``open_index``.
    """
    with _changed(address) as index:
        index.card.require_same(extracted.index_card(index.card.kind), address)
        before = index.count
        add_all(index, extracted.tiles(), extracted.count)
        total = index.count
    return Added(before + extracted.count - total, total)


def remove_tiles(address: str, names: Sequence[str]) -> int:
    """Remove tiles from an index and return how many are left.

    Raises:
        TileIndexError: a name is not in the index, then nothing is removed; the reasons given in ``open_index``.
    """
    with _changed(address) as index:
        index.remove(names)
        left = index.count
    return left


def describe_index(address: str) -> dict[str, Any]:
    """Card and statistics of an index; for errors see ``open_index``."""
    with closing(open_index(address)) as index:
        return {**asdict(index.card), **index.statistics()}


@contextmanager
def _changed(address: str) -> Iterator[TileIndex]:
    """Context with an index to change; its end saves the changes, in a directory all of them or none."""
    with _locked(address), closing(open_index(address, memory_map=False)) as index:
        yield index
        index.save(address)


def _locked(address: str) -> AbstractContextManager[Any]:
    """Context with one writer at a time, from reading the index to saving it; Milvus ensures this itself."""
    return nullcontext() if _in_milvus(address) else locked(Path(address), "tile index", TileIndexError, "changed")


def _in_milvus(address: str) -> bool:
    return address.startswith(MILVUS_PREFIX)
