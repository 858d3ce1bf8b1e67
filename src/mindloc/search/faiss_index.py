"""A tile library on FAISS, in memory or memory-mapped from its folder; exact or approximate by kind (faiss_kinds.py).

Tiles that are taken out or replaced are masked; their rows go when the library is built again. Suffixes: Q queries,
N tiles, M rows learned from, K answers, D width of the recall vector, E width of the re-rank vector.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from mindloc.descriptors.sets import GrowingRows
from mindloc.errors import TileIndexError
from mindloc.search import faiss_kinds
from mindloc.search.faiss_kinds import FaissParameters
from mindloc.search.index import Box, Hits, IndexCard, TileFacts, Tiles, TileTable, empty_table
from mindloc.search.index_folder import load_index_folder, read_unswapped, save_index_folder
from mindloc.search.tile_checks import check_length, check_queries, check_question, check_tiles, unit_rows

_WRITE_BYTES = 1 << 22


class FaissIndex:
    """A ``TileIndex``; ``build_faiss_index`` and ``load_faiss_index`` make one.

    Attributes:
        parameters: as built; assign others to change nprobe, refine or ef_search.
    """

    def __init__(
        self,
        card: IndexCard,
        parameters: FaissParameters,
        index: faiss.Index,
        table: TileTable,
        rerank: GrowingRows | None,
        mapped_from: Path | None = None,
    ):
        self.parameters = parameters
        self._card = card
        self._index = index
        self._table = table
        self._rerank = rerank
        self._mapped_from = mapped_from

    @property
    def card(self) -> IndexCard:
        return self._card

    @property
    def count(self) -> int:
        return self._table.count

    def add(self, tiles: Tiles) -> None:
        """Put tiles in; a name that is there already is masked and its new row appended. Errors as ``TileIndex``."""
        self._require_changeable()
        recall_ND, rerank_NE = check_tiles(self._card, tiles)
        self._index.add(recall_ND)
        if rerank_NE is not None:
            self._rerank.append(rerank_NE)
        self._table.append(tiles)

    def remove(self, names: Sequence[str]) -> None:
        """Mask tiles. Errors as ``TileIndex``."""
        self._require_changeable()
        self._table.remove(names)

    def recall(self, query_QD: np.ndarray, k: int, box: Box | None = None) -> Hits:
        """Stage one. Errors as ``TileIndex``."""
        query_QD = check_question(self._card, self.count, query_QD, k, box)
        kept_N = self._table.kept(box)
        score_QK, row_QK = faiss_kinds.search(self._index, query_QD, k, kept_N, self.parameters)
        if row_QK.max(initial=-1) >= len(self._table.names):
            raise TileIndexError("the index speaks of rows that the library does not have; build it again")
        names = self._table.names
        found = [row_K[row_K >= 0].tolist() for row_K in row_QK]
        return Hits(
            [[names[row] for row in rows] for rows in found],
            [score_K[: len(rows)] for score_K, rows in zip(score_QK, found, strict=True)],
        )

    def rerank(self, query_QE: np.ndarray, names: Sequence[Sequence[str]], k: int) -> Hits:
        """Stage two: cosines of re-rank vectors, equal ones in the order of ``names``. Errors as ``TileIndex``."""
        vectors = self._require_rerank()
        query_QE = check_queries(query_QE, vectors.width, zeros=True)
        if len(names) != len(query_QE) or k < 1:
            raise TileIndexError(
                f"{k} of {len(names)} lists of tiles for {len(query_QE)} queries; give a list for each"
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
        """(N, E) float32, of unit length."""
        return self._require_rerank().take(self._table.rows(names))

    def facts(self, names: Sequence[str]) -> list[TileFacts]:
        """Places and bounds of tiles."""
        return self._table.facts(names)

    def statistics(self) -> dict[str, Any]:
        """For people: count, dead rows, bytes, parameters."""
        return {
            "kind": self._card.kind,
            "count": self.count,
            "dead_rows": len(self._table.names) - self.count,
            "bytes_per_vector": faiss_kinds.bytes_per_vector(self._index),
            "bytes_per_rerank_vector": 0 if self._rerank is None else 4 * self._rerank.width,
            "memory_mapped": self._mapped_from is not None,
            **vars(self.parameters),
        }

    def save(self, folder: str | Path) -> None:
        """Write the library to a folder, whole or not at all; dead rows are kept.

        Raises:
            TileIndexError: the folder holds something else, or the disk is full or refuses; an older library stays.
        """
        parts = (self._card, self.parameters, self._table, self._rerank)
        save_index_folder(Path(folder), *parts, self._write_vectors)

    def close(self) -> None:
        """Let go of the vectors and their files; the library can't be asked afterwards."""
        self._index = self._rerank = None

    def _write_vectors(self, write) -> None:
        """Let FAISS write through Python's file: its own overlooks a disk that refuses on closing."""
        refused = []

        def attempt(data: bytes) -> int:
            try:
                return write(data)
            except OSError as error:
                refused.append(error)
                return 0  # ends FAISS's writing

        try:
            faiss.write_index(self._index, faiss.PyCallbackIOWriter(attempt, _WRITE_BYTES))
        except RuntimeError:
            if not refused:
                raise
        if refused:
            raise refused[0]

    def _require_changeable(self) -> None:
        if self._mapped_from is not None:
            raise TileIndexError(
                f"tile library {self._mapped_from} is memory-mapped and can only be searched; "
                "load it with memory_map=False to add or remove tiles, then save it"
            )

    def _require_rerank(self) -> GrowingRows:
        if self._rerank is None:
            raise TileIndexError("the library holds no re-rank vectors; build it from tiles that have some")
        return self._rerank


def build_faiss_index(
    card: IndexCard, tiles: Tiles | Iterable[Tiles], parameters: FaissParameters | None = None
) -> FaissIndex:
    """A library of these tiles, of the kind that the card names.

    Args:
        tiles: at once or in batches. Kinds that learn (ivf_flat, ivf_pq) hold all batches before they begin; of the
            others each is let go once it is in.
        parameters: None chooses all by the number of tiles and the width.

    Raises:
        TileIndexError: as ``TileIndex.add``; an unknown kind, parameters out of range, too few tiles to learn from.
    """
    batches = [tiles] if isinstance(tiles, Tiles) else tiles
    learns = card.kind in faiss_kinds.LEARNED
    if learns:
        batches = list(batches)
    count = sum(len(batch.names) for batch in batches) if learns else 0
    parameters = parameters or FaissParameters()
    learned = min(count, parameters.train_rows)
    parameters = faiss_kinds.resolve(card.kind, card.dimension, count, parameters, learned)
    index = faiss_kinds.new_index(card.kind, card.dimension, parameters)
    if learns:
        index.train(_training_rows(card, batches, count, parameters))
    width = card.rerank_dimension
    rerank = None if width is None else GrowingRows(np.empty((0, width), np.float32))
    library = FaissIndex(card, parameters, index, empty_table(), rerank)
    for batch in batches:
        library.add(batch)
    return library


def load_faiss_index(folder: str | Path, memory_map: bool = True) -> FaissIndex:
    """A saved library; memory-mapped it starts at once and shares its pages, but can't be changed.

    Raises:
        TileIndexError: missing, damaged, changed, or no tile library.
    """
    return read_unswapped(Path(folder), lambda place: _load(place, Path(folder), memory_map))


def _load(place: Path, folder: Path, memory_map: bool) -> FaissIndex:
    saved = load_index_folder(place, memory_map)
    card, rows = saved.card, len(saved.table.names)
    if card.kind not in faiss_kinds.KINDS:
        raise TileIndexError(
            f"tile library {folder} is of kind {card.kind!r}; FAISS has {', '.join(faiss_kinds.KINDS)}"
        )
    index = faiss_kinds.read_vectors(saved.vectors, card.kind, card.dimension, rows, memory_map)
    parameters = faiss_kinds.resolve(card.kind, card.dimension, rows, saved.parameters)
    return FaissIndex(card, parameters, index, saved.table, saved.rerank, folder if memory_map else None)


def _training_rows(card: IndexCard, batches: list[Tiles], count: int, parameters: FaissParameters) -> np.ndarray:
    """(M, D) a seeded sample of all batches' recall vectors."""
    chosen_N = np.zeros(count, bool)
    random = np.random.default_rng(parameters.seed)
    chosen_N[random.choice(count, min(count, parameters.train_rows), replace=False)] = True
    first, parts = 0, []
    for batch in batches:
        check_length("recall vectors", len(batch.recall_ND), len(batch.names))
        own_N = chosen_N[first : first + len(batch.names)]
        parts.append(unit_rows(np.asarray(batch.recall_ND)[own_N], card.dimension, "recall vectors to learn from"))
        first += len(batch.names)
    return np.concatenate(parts)
