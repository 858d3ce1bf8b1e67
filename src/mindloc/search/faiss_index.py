"""An index on FAISS, in memory or memory-mapped from its directory; exact or approximate by kind (faiss_kinds.py).

Tiles that are removed or replaced are masked; their rows are deleted only when the index is built again.

Shapes: Q queries, N tiles, M rows learned from, K answers, D width of the recall vector, E width of the re-rank vector.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from mindloc.errors import ConfigError, TileIndexError
from mindloc.runtime.console import status_line
from mindloc.runtime.files import read_unswapped
from mindloc.search import faiss_kinds
from mindloc.search.faiss_kinds import FaissParameters, require_parameters_of
from mindloc.search.index import (
    Box,
    Hits,
    IndexCard,
    TileFacts,
    Tiles,
    add_all,
    check_length,
    check_queries,
    check_question,
    check_tiles,
    checked_unit_rows,
)
from mindloc.search.index_directory import load_index_directory, save_index_directory
from mindloc.search.tile_table import GrowingRows, TileTable, empty_table

MOST_EFFORT = 100_000  # of nprobe, refine and ef_search: beyond it FAISS only runs out of memory
_WRITE_BYTES = 1 << 22


class FaissIndex:
    """A ``TileIndex`` on FAISS, created by ``build_faiss_index`` or ``load_faiss_index``.

    Attributes:
        parameters: those it was built with; ``search_with`` changes nprobe, refine and ef_search.
    """

    def __init__(
        self,
        card: IndexCard,
        parameters: FaissParameters,
        vectors: faiss.Index,
        table: TileTable,
        mapped_from: Path | None = None,
    ):
        self.parameters = parameters
        self._card = card
        self._vectors = vectors
        self._table = table
        self._mapped_from = mapped_from

    @property
    def card(self) -> IndexCard:
        return self._card

    @property
    def count(self) -> int:
        return self._table.count

    def add(self, tiles: Tiles) -> None:
        """Add tiles; the older row of a name is masked, its new row appended. For errors see ``TileIndex``."""
        self._require_changeable()
        recall_ND, rerank_NE = check_tiles(self._card, tiles)
        self._vectors.add(recall_ND)
        self._table.append(tiles, rerank_NE)

    def remove(self, names: Sequence[str]) -> None:
        """Mask tiles. For errors see ``TileIndex``."""
        self._require_changeable()
        self._table.remove(names)

    def recall(self, query_QD: np.ndarray, k: int, box: Box | None = None) -> Hits:
        """Stage one. For errors see ``TileIndex``."""
        query_QD = check_question(self._card, self.count, query_QD, k, box)
        kept_N = self._table.kept(None if box is None else box.parts(self._card))
        score_QK, row_QK = faiss_kinds.search(self._vectors, query_QD, k, kept_N, self.parameters)
        if row_QK.max(initial=-1) >= len(self._table.names):
            raise TileIndexError("the vectors have rows that the index's table does not have; build it again")
        names = self._table.names
        found = [row_K[row_K >= 0].tolist() for row_K in row_QK]
        return Hits(
            [[names[row] for row in rows] for rows in found],
            [score_K[: len(rows)] for score_K, rows in zip(score_QK, found, strict=True)],
        )

    def rerank(self, query_QE: np.ndarray, names: Sequence[Sequence[str]], k: int) -> Hits:
        """Stage two: cosines of re-rank vectors; ties keep the order of ``names``. For errors see ``TileIndex``."""
        vectors = self._require_rerank()
        query_QE = check_queries(query_QE, vectors.width, zeros=True)
        if len(names) != len(query_QE) or k < 1:
            raise TileIndexError(
                f"there are {len(names)} lists of tiles for {len(query_QE)} queries, and k is {k}; give one list per "
                "query and k of 1 or more"
            )
        kept_names, scores = [], []
        for query_E, own in zip(query_QE, names, strict=True):
            # einsum sums every row in the same order, so that equal vectors score alike; a matrix product does not
            score_N = np.einsum("ne,e->n", vectors.take(self._table.rows(own)), query_E)
            best = np.argsort(-score_N, kind="stable")[:k]
            kept_names.append([own[place] for place in best])
            scores.append(score_N[best])
        return Hits(kept_names, scores)

    def rerank_vectors(self, names: Sequence[str]) -> np.ndarray:
        """Re-rank vectors of tiles, (N, E) float32, of unit length."""
        return self._require_rerank().take(self._table.rows(names))

    def facts(self, names: Sequence[str]) -> list[TileFacts]:
        """Places and bounds of tiles."""
        return self._table.facts(names)

    def search_with(self, given: Mapping[str, int]) -> None:
        """See ``TileIndex``; ``refine`` needs an index that was built with it, and so contains whole vectors."""
        require_parameters_of(self._card.kind, given)
        if "refine" in given and not self.parameters.refine:
            raise ConfigError("the index has no whole vectors to refine with; build it with --refine, or leave it out")
        for name, value in given.items():
            if not 1 <= value <= MOST_EFFORT:
                raise ConfigError(f"--{name} is {value}; give 1 to {MOST_EFFORT}")
        self.parameters = replace(self.parameters, **given)

    def statistics(self) -> dict[str, Any]:
        """Facts for the user: count, dead rows, bytes, the parameters that the kind reads."""
        return {
            "kind": self._card.kind,
            "count": self.count,
            "dead_rows": len(self._table.names) - self.count,
            "bytes_per_vector": faiss_kinds.bytes_per_vector(self._vectors),
            "bytes_per_rerank_vector": 4 * (self._card.rerank_dimension or 0),
            "memory_mapped": self._mapped_from is not None,
            **{name: getattr(self.parameters, name) for name in faiss_kinds.KINDS[self._card.kind].reads},
        }

    def save(self, address: str | Path) -> None:
        """Write the index to a directory, all of it or nothing; dead rows are kept. For errors see ``TileIndex``."""
        save_index_directory(Path(address), self._card, self.parameters, self._table, self._write_vectors)

    def close(self) -> None:
        """Release the vectors and their files; the index can't be searched afterwards."""
        self._vectors = self._table = None

    def _write_vectors(self, write) -> None:
        """Let FAISS write through a Python file: its own writer misses errors that the disk reports on closing."""
        refused = []

        def attempt(data: bytes) -> int:
            try:
                return write(data)
            except OSError as error:
                refused.append(error)
                return 0  # ends FAISS's writing

        try:
            faiss.write_index(self._vectors, faiss.PyCallbackIOWriter(attempt, _WRITE_BYTES))
        except RuntimeError:
            if not refused:
                raise
        if refused:
            raise refused[0]

    def _require_changeable(self) -> None:
        if self._mapped_from is not None:
            raise TileIndexError(
                f"tile index {self._mapped_from} is memory-mapped and can only be searched; "
                "load it with memory_map=False to add or remove tiles, then save it"
            )

    def _require_rerank(self) -> GrowingRows:
        if self._table.rerank is None:
            raise TileIndexError("the index contains no re-rank vectors; build it from tiles that have some")
        return self._table.rerank


def build_faiss_index(
    card: IndexCard,
    tiles: Tiles | Iterable[Tiles],
    parameters: FaissParameters | None = None,
    total: int | None = None,
) -> FaissIndex:
    """Build an index of these tiles, of the kind that the card names.

    Args:
        tiles: at once or in batches. Kinds that learn (ivf_flat, ivf_pq) keep all batches until they have learned;
            others release each once it is added.
        parameters: None chooses all by the number of tiles and the width.
        total: number of all tiles, for the progress bar.

    Raises:
        TileIndexError: the reasons given in ``TileIndex.add``; the kind is unknown, a parameter is out of range, or
            there are too few tiles to learn from.
    """
    batches = [tiles] if isinstance(tiles, Tiles) else tiles
    learns = card.kind in faiss_kinds.KINDS and faiss_kinds.KINDS[card.kind].learns
    if learns:
        batches = list(batches)
    count = sum(len(batch.names) for batch in batches) if learns else 0
    parameters = parameters or FaissParameters()
    learned = min(count, parameters.train_rows)
    parameters = faiss_kinds.resolve(card.kind, card.dimension, count, parameters, learned)
    vectors = faiss_kinds.new_index(card.kind, card.dimension, parameters)
    if learns:
        with status_line(f"learning from {learned} tiles"):
            vectors.train(_training_rows(card, batches, count, parameters))
    index = FaissIndex(card, parameters, vectors, empty_table(card.rerank_dimension))
    add_all(index, batches, total)
    return index


def load_faiss_index(directory: str | Path, memory_map: bool = True) -> FaissIndex:
    """Load a saved index. Memory-mapped, it is ready at once and shares its pages, but can't be changed.

    Raises:
        TileIndexError: the index is missing, damaged or changed, or the directory is not a tile index.
    """
    return read_unswapped(
        Path(directory), lambda place: _load(place, Path(directory), memory_map), "tile index", TileIndexError
    )


def _load(place: Path, directory: Path, memory_map: bool) -> FaissIndex:
    saved = load_index_directory(place, memory_map)
    card, rows = saved.card, len(saved.table.names)
    if card.kind not in faiss_kinds.KINDS:
        raise TileIndexError(
            f"tile index {directory} has kind {card.kind!r}, expected {', '.join(faiss_kinds.KINDS)}; build it again"
        )
    vectors = faiss_kinds.read_vectors(saved.vectors, card.kind, card.dimension, rows, memory_map)
    parameters = faiss_kinds.resolve(card.kind, card.dimension, rows, saved.parameters)
    return FaissIndex(card, parameters, vectors, saved.table, directory if memory_map else None)


def _training_rows(card: IndexCard, batches: list[Tiles], count: int, parameters: FaissParameters) -> np.ndarray:
    """A seeded sample of the recall vectors of all batches, (M, D)."""
    chosen_N = np.zeros(count, bool)
    random = np.random.default_rng(parameters.seed)
    chosen_N[random.choice(count, min(count, parameters.train_rows), replace=False)] = True
    first, parts = 0, []
    for batch in batches:
        check_length("recall vectors", len(batch.recall_ND), len(batch.names))
        own_N = chosen_N[first : first + len(batch.names)]
        parts.append(
            checked_unit_rows(np.asarray(batch.recall_ND)[own_N], card.dimension, "recall vectors to learn from")
        )
        first += len(batch.names)
    return np.concatenate(parts)
