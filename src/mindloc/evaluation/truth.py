"""The correct references of each query, from a split or from the file truth.jsonl beside the descriptor sets.

A query is an image to be located, a reference an image that can be an answer. Queries are the query side of the split
and references its reference side; eval.swap_sides exchanges them.

truth.jsonl has one line per query, also for a query without a correct reference::

    {"query": name, "pos": [names of references], "pos_semipos": [names of references]}
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mindloc.data.split import Side, Split
from mindloc.descriptors.sets import DescriptorSet
from mindloc.errors import DataError
from mindloc.reading import read_json_lines
from mindloc.runtime.files import ESCAPED, atomic_write
from mindloc.vocabulary import MODES, SideName


@dataclass(frozen=True)
class Role:
    """One side of a split, and its role in a search."""

    name: Literal["query", "reference"]  # to be located, or searched
    side: SideName  # of the split and of the encoder
    images: Side


@dataclass(frozen=True)
class Task:
    """The queries to locate, the references to search, and the correct references of each query."""

    queries: Role
    references: Role
    right: dict[str, list[np.ndarray]]  # mode -> references of each query, as indices

    def answerable(self) -> Role:
        """The queries that have a correct reference; only these are encoded.

        Raises:
            DataError: there are none.
        """
        index = np.array([i for i, references in enumerate(self.right["pos_semipos"]) if len(references)], np.int64)
        if not len(index):
            raise DataError("no query overlaps any reference; check the pair file and the image directories")
        return Role("query", self.queries.side, self.queries.images.take(index))

    def right_names(self) -> dict[str, list[list[str]]]:
        """mode -> names of the correct references of each query."""
        files = self.references.images.files
        return {mode: [[files[i] for i in references] for references in self.right[mode]] for mode in MODES}


def make_task(split: Split, swap_sides: bool = False) -> Task:
    """The task of a split: to locate its query side in its reference side, or the reverse with ``swap_sides``."""
    sides: tuple[SideName, SideName] = ("reference", "query") if swap_sides else ("query", "reference")
    right = {}
    for mode in MODES:
        edges = split.edges(mode)
        if swap_sides:
            edges = edges.swapped(len(split.reference))
        right[mode] = [edges.references_of(query) for query in range(edges.query_count)]
    queries, references = (split.side(side) for side in sides)
    return Task(Role("query", sides[0], queries), Role("reference", sides[1], references), right)


@dataclass(frozen=True)
class Truth:
    """The correct references of the queries in one descriptor set, as indices into the set of the references."""

    right: dict[str, list[np.ndarray]]  # mode -> one index array per query, int64
    query_total: int  # number of lines of the file, including those of queries without a correct reference


def write_truth(path: Path, query_names: list[str], right_names: dict[str, list[list[str]]]) -> None:
    """Write truth.jsonl.

    Args:
        right_names: mode -> names of the correct references of each query.
    """
    with atomic_write(path, error=DataError) as file:
        for index, name in enumerate(query_names):
            line = {"query": name, **{mode: right_names[mode][index] for mode in MODES}}
            file.write((json.dumps(line, ensure_ascii=False) + "\n").encode(errors=ESCAPED))


def load_truth(path: Path, queries: DescriptorSet, references: DescriptorSet) -> Truth:
    """The truth of ``queries`` among ``references``.

    Raises:
        DataError: the file is missing or broken, names an image that the sets lack, or has no line for a query.
    """
    line_of = _load_lines(path)
    position = {name: index for index, name in enumerate(references.names)}
    described = set(queries.names)
    lost = next((name for name, line in line_of.items() if name not in described and line["pos_semipos"]), None)
    if lost is not None:
        raise DataError(
            f"{path} names query {lost}, which has correct references but no descriptor; extract the queries again"
        )
    right: dict[str, list[np.ndarray]] = {mode: [] for mode in MODES}
    for name in queries.names:
        if name not in line_of:
            raise DataError(f"{path} has no line for query {name}; write it again for this split")
        for mode in MODES:
            right[mode].append(_indices(line_of[name][mode], position, f"{path}, query {name}"))
    return Truth(right, len(line_of))


def _load_lines(path: Path) -> dict[str, dict[str, Any]]:
    lines = {}
    for where, line in read_json_lines(Path(path), DataError, "evaluate again to write it"):
        if not _is_line(line):
            raise DataError(f"{where} is {str(line)[:60]}, expected query, pos and pos_semipos; evaluate again")
        if line["query"] in lines:
            raise DataError(f"{where}: query {line['query']} appears twice; evaluate again")
        lines[line["query"]] = line
    return lines


def _is_line(line: Any) -> bool:
    if not isinstance(line, dict) or not isinstance(line.get("query"), str):
        return False
    return all(isinstance(line.get(mode), list) and all(isinstance(x, str) for x in line[mode]) for mode in MODES)


def _indices(names: list[str], position: dict[str, int], where: str) -> np.ndarray:
    absent = next((name for name in names if name not in position), None)
    if absent is not None:
        raise DataError(f"{where}: there is no descriptor of reference {absent}; extract the references again")
    return np.array([position[name] for name in names], np.int64)
