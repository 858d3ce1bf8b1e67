"""An index in Milvus: one collection on a server, or in a directory that milvus-lite serves within this process.

Shapes: Q queries, N tiles, K answers, W width of either vector, D of the recall vector, E of the re-rank vector.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mindloc.errors import TileIndexError
from mindloc.runtime.process import fault_point
from mindloc.search.faiss_kinds import require_parameters_of
from mindloc.search.index import (
    Box,
    Hits,
    IndexCard,
    TileFacts,
    Tiles,
    check_queries,
    check_question,
    check_tiles,
)
from mindloc.search.milvus_collection import (
    CALL_S,
    LISTS,
    LOAD_S,
    NAME_BYTES,
    MilvusCollection,
    create_collection,
    in_one_line,
    open_collection,
    parse_address,
)

MOST_ANSWERS = 16_384  # milvus.io/docs/limitations.md
UNKNOWN = 1e300  # as a coordinate where the place is unknown: no box contains it
_MOST_CANDIDATES = 32_768
_MESSAGE_BYTES = 4 << 20  # Milvus accepts 64 MB, but protobuf in Python needs seconds even for 4 MB
_MOST_ROWS = 2000  # of one message, however short they are
_NONE = np.empty(0, np.float32)


class MilvusIndex:
    """A ``TileIndex`` in Milvus, created by ``create_milvus_index`` or ``open_milvus_index``.

    A search finds tiles added by this object at once, and tiles added by others after a moment; ``count`` waits for
    all. Milvus does not order tiles: those of equal score are ordered by name, but Milvus chooses which of them are
    among the first k.
    """

    def __init__(self, collection: MilvusCollection):
        self.card = collection.card
        self._collection = collection
        self._client, self._address, self._kind = collection.client, collection.address, collection.kind
        self._name = collection.address.collection
        self._count_seen = 0
        self._unsaved = False

    @property
    def count(self) -> int:
        rows = self._query("", ["count(*)"], consistency_level="Strong")
        return int(rows[0]["count(*)"])

    def add(self, tiles: Tiles) -> None:
        """Add tiles in batches; repeating an interrupted call adds no tile twice. For errors see ``TileIndex``."""
        recall_ND, rerank_NE = check_tiles(self.card, tiles)
        _check_names(tiles.names)
        width = self.card.dimension + (self.card.rerank_dimension or 0)
        for rows in _batches(len(tiles.names), 4 * width + NAME_BYTES):
            fault_point("milvus.mid_add")
            entities = [_entity_of(tiles, recall_ND, rerank_NE, row) for row in rows]
            with in_one_line(self._address):
                self._client.upsert(self._name, entities, timeout=CALL_S)
            self._unsaved = True

    def remove(self, names: Sequence[str]) -> None:
        """Remove tiles. For errors see ``TileIndex``."""
        self._fetch(names, [])
        for rows in _batches(len(names), NAME_BYTES):
            with in_one_line(self._address):
                chosen = _named([names[row] for row in rows])
                self._client.delete(self._name, filter=chosen, timeout=CALL_S)
            self._unsaved = True
        self._count_seen = 0

    def recall(self, query_QD: np.ndarray, k: int, box: Box | None = None) -> Hits:
        """Stage one. For errors see ``TileIndex``; more than 16 384 answers are an error too."""
        if self._count_seen < k:
            self._count_seen = self.count
        query_QD = check_question(self.card, self._count_seen, query_QD, k, box)
        if k > MOST_ANSWERS:
            raise TileIndexError(f"{k} answers are requested; Milvus gives at most {MOST_ANSWERS}")
        hits = self._recall(query_QD, k, "" if box is None else _within(box.parts(self.card)))
        if box is None and min(map(len, hits.names)) < k:
            check_question(self.card, self.count, query_QD, k, None)  # others may have removed tiles
            raise TileIndexError(f"an index of kind {self._kind} finds fewer than {k} tiles; request fewer answers")
        return hits

    def rerank(self, query_QE: np.ndarray, names: Sequence[Sequence[str]], k: int) -> Hits:
        """Stage two, exact; ties keep the order of ``names``. For errors see ``TileIndex``."""
        query_QE = check_queries(query_QE, self._require_rerank(), zeros=True)
        if len(names) != len(query_QE) or not 1 <= k <= MOST_ANSWERS:
            raise TileIndexError(
                f"there are {len(names)} lists of tiles for {len(query_QE)} queries, and k is {k}; give one list per "
                f"query and k of 1 to {MOST_ANSWERS}"
            )
        found, scores = [], []
        for query_E, own in zip(query_QE, names, strict=True):
            place_of = {name: place for place, name in enumerate(own)}
            wanted = min(k, len(place_of))
            hits = Hits([[]], [_NONE])
            if wanted:
                hits = self._search("rerank", query_E[None], wanted, _named(own), {}, place_of.__getitem__)
            if len(hits.names[0]) < wanted:
                self._fetch(own, [])  # raises, and names the missing tile
            found += hits.names
            scores += hits.scores
        return Hits(found, scores)

    def rerank_vectors(self, names: Sequence[str]) -> np.ndarray:
        """Re-rank vectors of tiles, (N, E) float32, of unit length."""
        width = self._require_rerank()
        rows = self._fetch(names, ["rerank"], 4 * width)
        return np.array([row["rerank"] for row in rows], np.float32).reshape(-1, width)

    def facts(self, names: Sequence[str]) -> list[TileFacts]:
        """Places and bounds of tiles."""
        rows = self._fetch(names, ["place_a", "place_b", "bounds"])
        return [_facts_of(row) for row in rows]

    def search_with(self, given: Mapping[str, int]) -> None:
        """Accept no parameters: an index in Milvus chooses its own. For errors see ``TileIndex``."""
        require_parameters_of(self.card.kind, given)

    def statistics(self) -> dict[str, Any]:
        """Facts for the user: count, kind, address, bytes of a tile's vectors, for a directory also bytes on disk."""
        numbers = {
            "kind": self.card.kind,
            "index": self._kind,
            "address": str(self._address),
            "count": self.count,
            "bytes_per_vector": 4 * self.card.dimension,
            "bytes_per_rerank_vector": 4 * (self.card.rerank_dimension or 0),
        }
        if self._address.embedded:
            files = (path.stat() for path in Path(self._address.uri).rglob("*") if path.is_file())
            numbers["bytes_on_disk"] = sum(file.st_size for file in files)
        return numbers

    def save(self, address: str | Path) -> None:
        """Write added and removed tiles to disk, in this collection only. For errors see ``TileIndex``."""
        if parse_address(str(address)) != self._address:
            raise TileIndexError(f"the index at {self._address} can't be saved elsewhere; build a new one at {address}")
        self._flush()

    def close(self) -> None:
        """Write added tiles to disk, and release the connection."""
        try:
            self._flush()
        finally:
            self._collection.close()

    def _recall(self, query_QD: np.ndarray, k: int, chosen: str) -> Hits:
        """Search; queries with fewer than k answers are searched again, with the widest search of the kind."""
        hits = self._search("recall", query_QD, k, chosen, _search_parameters(self._kind, k))
        short = [query for query, names in enumerate(hits.names) if len(names) < k]
        thorough = _search_parameters(self._kind, k, thorough=True)
        if short and thorough:
            again = self._search("recall", query_QD[short], k, chosen, thorough)
            for query, names, score_K in zip(short, again.names, again.scores, strict=True):
                hits.names[query], hits.scores[query] = names, score_K
        return hits

    def _flush(self) -> None:
        if self._unsaved:
            with in_one_line(self._address):
                self._client.flush(self._name, timeout=LOAD_S)
            self._unsaved = False

    def _search(
        self,
        field: str,
        query_QW: np.ndarray,
        k: int,
        chosen: str,
        parameters: dict[str, Any],
        of_equal: Callable[[str], Any] = str,  # name -> key that orders equal scores
    ) -> Hits:
        if self._address.embedded:
            self._flush()  # else milvus-lite collects unsaved tiles again in every search: 1 s for 5 000 tiles
        names, scores = [], []
        for rows in _batches(len(query_QW), 4 * query_QW.shape[1] + k * NAME_BYTES):
            with in_one_line(self._address):
                answers = self._client.search(
                    self._name,
                    data=list(query_QW[rows.start : rows.stop]),
                    anns_field=field,
                    limit=k,
                    filter=chosen,
                    output_fields=["name"],  # milvus-lite returns all fields for an empty list
                    search_params={"metric_type": "IP", "params": parameters},
                    consistency_level="Session",
                    timeout=CALL_S,
                )
            for hits in answers:
                hits = sorted(hits, key=lambda hit: (-hit["distance"], of_equal(hit["name"])))
                names.append([hit["name"] for hit in hits])
                scores.append(np.array([hit["distance"] for hit in hits], np.float32))
        return Hits(names, scores)

    def _fetch(self, names: Sequence[str], wanted: list[str], bytes_each: int = 64) -> list[dict[str, Any]]:
        """The requested fields of tiles, in the order of ``names``.

        Raises:
            TileIndexError: a name is not in the index; the message names it.
        """
        _check_names(names)
        found: dict[str, dict[str, Any]] = {}
        for rows in _batches(len(names), bytes_each + NAME_BYTES):
            part = _named([names[row] for row in rows])
            found |= {row["name"]: row for row in self._query(part, ["name", *wanted])}
        absent = [name for name in names if name not in found]
        if absent:
            raise TileIndexError(f"tile {absent[0]} is not in the index; check the name")
        return [found[name] for name in names]

    def _query(self, chosen: str, wanted: list[str], consistency_level: str = "Session") -> list[dict[str, Any]]:
        level = {"consistency_level": consistency_level}
        with in_one_line(self._address):
            return self._client.query(self._name, chosen, wanted, timeout=CALL_S, **level)

    def _require_rerank(self) -> int:
        if self.card.rerank_dimension is None:
            raise TileIndexError("the index contains no re-rank vectors; build it from tiles that have some")
        return self.card.rerank_dimension


def create_milvus_index(address: str, card: IndexCard, kind: str = "flat") -> MilvusIndex:
    """Create an index for tiles of this card, or open an existing one if its card is identical.

    Args:
        address: see milvus_collection.py.
        kind: how recall vectors are searched: flat (exact), hnsw, ivf_flat; on a server also ivf_pq and diskann.

    Raises:
        TileIndexError, DeviceError: for the reasons given in ``create_collection``.
    """
    return MilvusIndex(create_collection(address, card, kind))


def open_milvus_index(address: str) -> MilvusIndex:
    """Open an existing index; for errors see ``open_collection``."""
    return MilvusIndex(open_collection(address))


def _named(names: Sequence[str]) -> str:
    """Filter expression for the tiles of these names. Lists that pymilvus formats itself end at a ' in a name."""
    return f"name in [{', '.join(_quoted(name) for name in names)}]"


def _quoted(text: str) -> str:
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        text = text.replace(plain, escaped)
    return f'"{text}"'


def _within(boxes: Sequence[Box]) -> str:
    """Filter expression for the tiles in any of the boxes, edges included."""
    edges = [[_number(edge) for edge in (*box.low, *box.high)] for box in boxes]
    return " or ".join(
        f"(place_a >= {low_a} and place_a <= {high_a} and place_b >= {low_b} and place_b <= {high_b})"
        for low_a, low_b, high_a, high_b in edges
    )


def _number(value: float) -> str:
    """An edge for a filter expression; an infinite one is clipped below the value that marks an unknown place."""
    return repr(float(np.clip(float(value), -UNKNOWN / 10, UNKNOWN / 10)))


def _search_parameters(kind: str, k: int, thorough: bool = False) -> dict[str, int]:
    """Parameters of a search for k answers in an index of this kind; ``thorough``: the widest that Milvus allows."""
    if kind == "hnsw":
        return {"ef": _MOST_CANDIDATES if thorough else max(128, 2 * k)}
    if kind in ("ivf_flat", "ivf_pq"):
        return {"nprobe": LISTS if thorough else 64}
    if kind == "diskann":
        return {"search_list": _MOST_CANDIDATES if thorough else max(100, 2 * k)}
    return {}


def _check_names(names: Sequence[str]) -> None:
    """Check that names fit the primary key.

    Raises:
        TileIndexError: a name is too long or not Unicode.
    """
    for name in names:
        try:
            length = len(name.encode())
        except UnicodeEncodeError:
            raise TileIndexError(f"tile name {name!r} is not Unicode, which Milvus needs; rename the file") from None
        if length > NAME_BYTES:
            raise TileIndexError(f"tile name {name[:60]}... has {length} bytes; expected {NAME_BYTES} or fewer")


def _entity_of(tiles: Tiles, recall_ND: np.ndarray, rerank_NE: np.ndarray | None, row: int) -> dict[str, Any]:
    """One tile as a row of the collection."""
    place, bounds = tiles.place_N2[row].tolist(), tiles.bounds_N4[row].tolist()
    entity = {
        "name": tiles.names[row],
        "recall": recall_ND[row],
        "place_a": UNKNOWN if math.isnan(place[0]) else place[0],
        "place_b": UNKNOWN if math.isnan(place[1]) else place[1],
        "bounds": [] if math.isnan(bounds[0]) else bounds,
    }
    return entity if rerank_NE is None else {**entity, "rerank": rerank_NE[row]}


def _facts_of(row: dict[str, Any]) -> TileFacts:
    """Place and bounds of a tile, from its row of the collection."""
    place = (row["place_a"], row["place_b"])
    return TileFacts(row["name"], None if place[0] == UNKNOWN else place, tuple(row["bounds"]) or None)


def _batches(count: int, bytes_each: int) -> Iterator[range]:
    """Yield the rows of each message, in order."""
    step = max(1, min(_MOST_ROWS, _MESSAGE_BYTES // bytes_each))
    for start in range(0, count, step):
        yield range(start, min(start + step, count))
