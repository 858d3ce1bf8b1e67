"""Which gallery items are right for each query, as a file beside the descriptor sets.

truth.jsonl has one line per query, also for those that nothing in the gallery answers::

    {"query": name, "pos": [gallery names], "pos_semipos": [gallery names]}
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mindloc.descriptors.sets import DescriptorSet
from mindloc.errors import DataError, one_line
from mindloc.runtime.files import atomic_write
from mindloc.vocabulary import MODES


@dataclass(frozen=True)
class Truth:
    """Right items of the queries of one descriptor set, as indices into one gallery."""

    right: dict[str, list[np.ndarray]]  # mode -> one index array per query, int64
    query_total: int  # lines of the file: queries without a descriptor and a right item are counted too


def write_truth(path: Path, query_names: list[str], right_names: dict[str, list[list[str]]]) -> None:
    """Args: right_names: mode -> names of the right gallery items of each query."""
    with atomic_write(path, error=DataError) as file:
        for index, name in enumerate(query_names):
            line = {"query": name, **{mode: right_names[mode][index] for mode in MODES}}
            file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())


def load_truth(path: Path, queries: DescriptorSet, gallery: DescriptorSet) -> Truth:
    """The truth of ``queries`` in ``gallery``.

    Raises:
        DataError: the file is missing or broken, names what neither set holds, or is silent about a query.
    """
    line_of = _load_lines(path)
    position = {name: index for index, name in enumerate(gallery.names)}
    described = set(queries.names)
    lost = next((name for name, line in line_of.items() if name not in described and line["pos_semipos"]), None)
    if lost is not None:
        raise DataError(
            f"{path} names query {lost}, which has right items and no descriptor; extract the queries again"
        )
    right: dict[str, list[np.ndarray]] = {mode: [] for mode in MODES}
    for name in queries.names:
        if name not in line_of:
            raise DataError(f"{path} says nothing about query {name}; write it anew for this split")
        for mode in MODES:
            right[mode].append(_indices(line_of[name][mode], position, f"{path}, query {name}"))
    return Truth(right, len(line_of))


def _load_lines(path: Path) -> dict[str, dict[str, Any]]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read ({one_line(error)}); evaluate again to write it") from None
    lines = {}
    for number, raw in enumerate(text.splitlines(), 1):
        try:
            line = json.loads(raw)
        except ValueError:
            line = None
        if not _is_line(line):
            raise DataError(f"{path} line {number} is {raw[:60]}, expected query, pos and pos_semipos")
        if line["query"] in lines:
            raise DataError(f"{path} line {number}: query {line['query']} comes a second time")
        lines[line["query"]] = line
    return lines


def _is_line(line: Any) -> bool:
    if not isinstance(line, dict) or not isinstance(line.get("query"), str):
        return False
    return all(isinstance(line.get(mode), list) and all(isinstance(x, str) for x in line[mode]) for mode in MODES)


def _indices(names: list[str], position: dict[str, int], where: str) -> np.ndarray:
    absent = next((name for name in names if name not in position), None)
    if absent is not None:
        raise DataError(f"{where}: the gallery has no descriptor of {absent}; extract the gallery again")
    return np.array([position[name] for name in names], np.int64)
