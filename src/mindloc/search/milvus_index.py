"""A tile library in Milvus: one collection on a server, or in a folder that milvus-lite serves within this process.

Suffixes: Q queries, N tiles, K answers, W width of either vector, D of the recall vector, E of the re-rank vector.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mindloc.errors import TileIndexError
from mindloc.runtime.process import fault_point
from mindloc.search import milvus_collection
from mindloc.search.index import Box, Hits, IndexCard, TileFacts, Tiles
from mindloc.search.milvus_collection import CALL_S, LOAD_S, NAME_BYTES
from mindloc.search.milvus_connection import (
    MilvusAddress,
    connect,
    disconnect,
    in_one_line,
    named,
    parse_address,
    within,
)
from mindloc.search.tile_checks import check_queries, check_question, check_tiles

MOST_ANSWERS = 16_384  # milvus.io/docs/limitations.md
_MESSAGE_BYTES = 4 << 20  # Milvus takes 64 MB; protobuf in Python needs seconds for these already
_MOST_ROWS = 2000  # of one message, however short
_NONE = np.empty(0, np.float32)


class MilvusIndex:
    """A ``TileIndex``; ``create_milvus_index`` and ``open_milvus_index`` make one.

    Searches see at once what this object has put in, and what others have put in after a moment; ``count`` waits for
    everybody's.
    """

    def __init__(self, client: Any, address: MilvusAddress, card: IndexCard, kind: str):
        self._client = client
        self._address = address
        self._card = card
        self._kind = kind
        self._count_seen = 0
        self._unsaved = False

    @property
    def card(self) -> IndexCard:
        return self._card

    @property
    def count(self) -> int:
        rows = self._query("", ["count(*)"], consistency_level="Strong")
        return int(rows[0]["count(*)"])

    def add(self, tiles: Tiles) -> None:
        """Put tiles in, in batches; broken off and repeated it leaves each tile once. Errors as ``TileIndex``."""
        recall_ND, rerank_NE = check_tiles(self._card, tiles)
        milvus_collection.check_names(tiles.names)
        width = self._card.dimension + (self._card.rerank_dimension or 0)
        for rows in _batches(len(tiles.names), 4 * width + NAME_BYTES):
            fault_point("milvus.mid_add")
            entities = [milvus_collection.entity_of(tiles, recall_ND, rerank_NE, row) for row in rows]
            with in_one_line(self._address):
                self._client.upsert(self._address.collection, entities, timeout=CALL_S)
            self._unsaved = True

    def remove(self, names: Sequence[str]) -> None:
        """Take tiles out. Errors as ``TileIndex``."""
        self._fetch(names, [])
        for rows in _batches(len(names), NAME_BYTES):
            with in_one_line(self._address):
                chosen = named([names[row] for row in rows])
                self._client.delete(self._address.collection, filter=chosen, timeout=CALL_S)
            self._unsaved = True
        self._count_seen = 0

    def recall(self, query_QD: np.ndarray, k: int, box: Box | None = None) -> Hits:
        """Stage one. Errors as ``TileIndex``; moreover more than 16 384 answers."""
        if self._count_seen < k:
            self._count_seen = self.count
        query_QD = check_question(self._card, self._count_seen, query_QD, k, box)
        if k > MOST_ANSWERS:
            raise TileIndexError(f"{k} answers are asked for; Milvus gives at most {MOST_ANSWERS}")
        hits = self._recall(query_QD, k, "" if box is None else within(box))
        if box is None and min(map(len, hits.names)) < k:
            check_question(self._card, self.count, query_QD, k, None)  # others may have taken tiles out
            raise TileIndexError(f"an index of kind {self._kind} finds fewer than {k} tiles; ask for fewer answers")
        return hits

    def rerank(self, query_QE: np.ndarray, names: Sequence[Sequence[str]], k: int) -> Hits:
        """Stage two, exact. Errors as ``TileIndex``."""
        query_QE = check_queries(query_QE, self._require_rerank(), zeros=True)
        if len(names) != len(query_QE) or not 1 <= k <= MOST_ANSWERS:
            raise TileIndexError(
                f"{k} of {len(names)} lists of tiles for {len(query_QE)} queries; give a list for each"
            )
        found, scores = [], []
        for query_E, own in zip(query_QE, names, strict=True):
            wanted = min(k, len(set(own)))
            hits = self._search("rerank", query_E[None], wanted, named(own), {}) if wanted else Hits([[]], [_NONE])
            if len(hits.names[0]) < wanted:
                self._fetch(own, [])  # says which one is not there
            found += hits.names
            scores += hits.scores
        return Hits(found, scores)

    def rerank_vectors(self, names: Sequence[str]) -> np.ndarray:
        """(N, E) float32, of unit length."""
        width = self._require_rerank()
        rows = self._fetch(names, ["rerank"], 4 * width)
        return np.array([row["rerank"] for row in rows], np.float32).reshape(-1, width)

    def facts(self, names: Sequence[str]) -> list[TileFacts]:
        """Places and bounds of tiles."""
        rows = self._fetch(names, ["place_a", "place_b", "bounds"])
        return [milvus_collection.facts_of(row) for row in rows]

    def statistics(self) -> dict[str, Any]:
        """For people: count, kind of index, address, bytes of a tile's vectors and, of a folder, on disk."""
        numbers = {
            "kind": self._card.kind,
            "index": self._kind,
            "address": str(self._address),
            "count": self.count,
            "bytes_per_vector": 4 * self._card.dimension,
            "bytes_per_rerank_vector": 4 * (self._card.rerank_dimension or 0),
        }
        if self._address.embedded:
            files = (path.stat() for path in Path(self._address.uri).rglob("*") if path.is_file())
            numbers["bytes_on_disk"] = sum(file.st_size for file in files)
        return numbers

    def close(self) -> None:
        """Have what was put in written to disk, and let go of the connection."""
        try:
            self._flush()
        finally:
            disconnect(self._client, self._address)

    def _recall(self, query_QD: np.ndarray, k: int, chosen: str) -> Hits:
        """Queries that get fewer than k answers are searched once more, with all effort that the kind knows."""
        hits = self._search("recall", query_QD, k, chosen, milvus_collection.search_parameters(self._kind, k))
        short = [query for query, names in enumerate(hits.names) if len(names) < k]
        thorough = milvus_collection.search_parameters(self._kind, k, thorough=True)
        if short and thorough:
            again = self._search("recall", query_QD[short], k, chosen, thorough)
            for query, names, score_K in zip(short, again.names, again.scores, strict=True):
                hits.names[query], hits.scores[query] = names, score_K
        return hits

    def _flush(self) -> None:
        if self._unsaved:
            with in_one_line(self._address):
                self._client.flush(self._address.collection, timeout=LOAD_S)
            self._unsaved = False

    def _search(self, field: str, query_QW: np.ndarray, k: int, chosen: str, parameters: dict[str, Any]) -> Hits:
        if self._address.embedded:
            self._flush()  # milvus-lite gathers what is not on disk anew for every search: 1 s for 5 000 tiles
        names, scores = [], []
        for rows in _batches(len(query_QW), 4 * query_QW.shape[1] + k * NAME_BYTES):
            with in_one_line(self._address):
                answers = self._client.search(
                    self._address.collection,
                    data=list(query_QW[rows.start : rows.stop]),
                    anns_field=field,
                    limit=k,
                    filter=chosen,
                    output_fields=["name"],  # milvus-lite takes an empty list for all fields
                    search_params={"metric_type": "IP", "params": parameters},
                    consistency_level="Session",
                    timeout=CALL_S,
                )
            names += [[hit["name"] for hit in hits] for hits in answers]
            scores += [np.array([hit["distance"] for hit in hits], np.float32) for hits in answers]
        return Hits(names, scores)

    def _fetch(self, names: Sequence[str], wanted: list[str], bytes_each: int = 64) -> list[dict[str, Any]]:
        """The wanted fields of tiles, in the order of ``names``; says which one is missing."""
        milvus_collection.check_names(names)
        found = {}
        for rows in _batches(len(names), bytes_each + NAME_BYTES):
            part = named([names[row] for row in rows])
            found |= {row["name"]: row for row in self._query(part, ["name", *wanted])}
        absent = [name for name in names if name not in found]
        if absent:
            raise TileIndexError(f"tile {absent[0]} is not in the library; check the name")
        return [found[name] for name in names]

    def _query(self, chosen: str, wanted: list[str], consistency_level: str = "Session") -> list[dict[str, Any]]:
        level = {"consistency_level": consistency_level}
        with in_one_line(self._address):
            return self._client.query(self._address.collection, chosen, wanted, timeout=CALL_S, **level)

    def _require_rerank(self) -> int:
        if self._card.rerank_dimension is None:
            raise TileIndexError("the library holds no re-rank vectors; build it from tiles that have some")
        return self._card.rerank_dimension


def create_milvus_index(address: str, card: IndexCard, kind: str = "flat") -> MilvusIndex:
    """A library for tiles of this card; one that is there already and has the very same card is gone on with.

    Args:
        address: see milvus_connection.py.
        kind: how recall vectors are searched: flat (exact), hnsw, ivf_flat; on a server ivf_pq and diskann too.

    Raises:
        TileIndexError: vectors too wide for Milvus, a kind that it does not have, a collection of another card;
            whatever keeps one from connecting.
        DeviceError: pymilvus is not installed.
    """
    place = parse_address(address)
    milvus_collection.check_dimensions(card)
    offered = milvus_collection.EMBEDDED_KINDS if place.embedded else milvus_collection.KINDS
    if kind not in offered:
        where = "milvus-lite" if place.embedded else "Milvus"
        raise TileIndexError(f"{where} has no index of kind {kind}; it has {', '.join(offered)}")
    client = connect(place, may_be_new=True)
    try:
        with in_one_line(place):
            if client.has_collection(place.collection, timeout=CALL_S):
                milvus_collection.require_same(place, milvus_collection.read_card(client, place), card)
            else:
                milvus_collection.create_collection(client, place, card)
            milvus_collection.create_missing_indexes(client, place, card, kind)
            if (there := milvus_collection.read_kind(client, place)) != kind:
                raise TileIndexError(f"{place} is there already with kind {there}, not {kind}; name another collection")
            client.load_collection(place.collection, timeout=LOAD_S)
            return MilvusIndex(client, place, card, kind)
    except BaseException:
        disconnect(client, place)
        raise


def open_milvus_index(address: str) -> MilvusIndex:
    """A library that was created before.

    Raises:
        TileIndexError: there is none, or not one of mindloc; whatever keeps one from connecting.
        DeviceError: pymilvus is not installed.
    """
    place = parse_address(address)
    client = connect(place, may_be_new=False)
    try:
        with in_one_line(place):
            if not client.has_collection(place.collection, timeout=CALL_S):
                there = ", ".join(client.list_collections(timeout=CALL_S)) or "none"
                raise TileIndexError(f"{place.uri} has no collection {place.collection}; it has {there}")
            card = milvus_collection.read_card(client, place)
            client.load_collection(place.collection, timeout=LOAD_S)
            return MilvusIndex(client, place, card, milvus_collection.read_kind(client, place))
    except BaseException:
        disconnect(client, place)
        raise


def _batches(count: int, bytes_each: int) -> Iterator[range]:
    """Rows of one message after the other."""
    step = max(1, min(_MOST_ROWS, _MESSAGE_BYTES // bytes_each))
    for start in range(0, count, step):
        yield range(start, min(start + step, count))
