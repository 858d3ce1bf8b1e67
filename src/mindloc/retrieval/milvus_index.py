"""A tile library in Milvus: one collection on a server, or in a folder that milvus-lite serves within this process.

Fields of the collection::

    name               VARCHAR, primary key: putting a tile in again replaces it
    recall, rerank     FLOAT_VECTOR of unit length, inner product; rerank only where the card has such
    place_a, place_b   DOUBLE, 1e300 where nobody knows, which no box holds
    bounds             ARRAY of four DOUBLE, empty where nobody knows

The card is JSON in the collection's properties and, for people who look at a server, in its description.

Suffixes: Q queries, N tiles, K answers, D width of the recall vector, E width of the re-rank vector.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from mindloc.errors import TileIndexError
from mindloc.retrieval.milvus_connection import MilvusAddress, connect, disconnect, in_one_line, parse_address
from mindloc.retrieval.tile_checks import check_queries, check_question, check_tiles
from mindloc.retrieval.tile_index import Box, Hits, IndexCard, TileFacts, Tiles
from mindloc.runtime.faults import fault_point
from mindloc.runtime.optional_module import optional_module

VERSION = 1
KINDS = ("flat", "hnsw", "ivf_flat", "ivf_pq", "diskann")
_EMBEDDED_KINDS = ("flat", "hnsw", "ivf_flat")  # those that milvus-lite has
_CARD_PROPERTY = "mindloc_card"

# limits of Milvus: milvus.io/docs/limitations.md
MOST_DIMENSIONS = 32_768
MOST_ANSWERS = 16_384
_NAME_BYTES = 1024  # ours; Milvus would take 65 535
_MESSAGE_BYTES = 32 << 20  # half of what Milvus takes: numbers are longer in some answers than in memory
_MOST_ROWS = 2000  # of one message, however short

_UNKNOWN = 1e300
_CALL_S = 120
_LOAD_S = 1800  # a server reads a collection's index into memory


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
        _check_name_lengths(tiles.names)
        width = self._card.dimension + (self._card.rerank_dimension or 0)
        for rows in _batches(len(tiles.names), 4 * width + _NAME_BYTES):
            fault_point("milvus.mid_add")
            entities = [_entity(tiles, recall_ND, rerank_NE, row) for row in rows]
            with in_one_line(self._address):
                self._client.upsert(self._address.collection, entities, timeout=_CALL_S)
            self._unsaved = True

    def remove(self, names: Sequence[str]) -> None:
        """Take tiles out. Errors as ``TileIndex``."""
        self._fetch(names, [])
        for rows in _batches(len(names), _NAME_BYTES):
            with in_one_line(self._address):
                chosen = _named([names[row] for row in rows])
                self._client.delete(self._address.collection, filter=chosen, timeout=_CALL_S)
            self._unsaved = True
        self._count_seen = 0

    def recall(self, query_QD: np.ndarray, k: int, box: Box | None = None) -> Hits:
        """Stage one. Errors as ``TileIndex``; moreover more than 16 384 answers."""
        if self._count_seen < k:
            self._count_seen = self.count
        query_QD = check_question(self._card, self._count_seen, query_QD, k, box)
        if k > MOST_ANSWERS:
            raise TileIndexError(f"{k} answers are asked for; Milvus gives at most {MOST_ANSWERS}")
        hits = self._search("recall", query_QD, k, "" if box is None else _within(box), self._search_parameters(k))
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
            hits = self._search("rerank", query_E[None], wanted, _named(own), {}) if wanted else Hits([[]], [_NONE])
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
        return [_facts(row) for row in rows]

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

    def _flush(self) -> None:
        if self._unsaved:
            with in_one_line(self._address):
                self._client.flush(self._address.collection, timeout=_LOAD_S)
            self._unsaved = False

    def _search(self, field: str, query_QW: np.ndarray, k: int, chosen: str, parameters: dict[str, Any]) -> Hits:
        if self._address.embedded:
            self._flush()  # milvus-lite gathers what is not on disk anew for every search: 1 s for 5 000 tiles
        names, scores = [], []
        for rows in _batches(len(query_QW), 4 * query_QW.shape[1] + k * _NAME_BYTES):
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
                    timeout=_CALL_S,
                )
            names += [[hit["name"] for hit in hits] for hits in answers]
            scores += [np.array([hit["distance"] for hit in hits], np.float32) for hits in answers]
        return Hits(names, scores)

    def _fetch(self, names: Sequence[str], wanted: list[str], bytes_each: int = 64) -> list[dict[str, Any]]:
        """The wanted fields of tiles, in the order of ``names``; says which one is missing."""
        _check_name_lengths(names)
        found = {}
        for rows in _batches(len(names), bytes_each + _NAME_BYTES):
            part = _named([names[row] for row in rows])
            found |= {row["name"]: row for row in self._query(part, ["name", *wanted])}
        absent = [name for name in names if name not in found]
        if absent:
            raise TileIndexError(f"tile {absent[0]} is not in the library; check the name")
        return [found[name] for name in names]

    def _query(self, chosen: str, wanted: list[str], consistency_level: str = "Session") -> list[dict[str, Any]]:
        level = {"consistency_level": consistency_level}
        with in_one_line(self._address):
            return self._client.query(self._address.collection, chosen, wanted, timeout=_CALL_S, **level)

    def _search_parameters(self, k: int) -> dict[str, Any]:
        if self._kind == "hnsw":
            return {"ef": max(128, 2 * k)}
        if self._kind in ("ivf_flat", "ivf_pq"):
            return {"nprobe": 64}
        return {"search_list": max(100, 2 * k)} if self._kind == "diskann" else {}

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
    _check_dimensions(card)
    offered = _EMBEDDED_KINDS if place.embedded else KINDS
    if kind not in offered:
        where = "milvus-lite" if place.embedded else "Milvus"
        raise TileIndexError(f"{where} has no index of kind {kind}; it has {', '.join(offered)}")
    client = connect(place, may_be_new=True)
    try:
        with in_one_line(place):
            if client.has_collection(place.collection, timeout=_CALL_S):
                _require_same(place, _read_card(client, place), card)
            else:
                _create_collection(client, place, card)
            _create_missing_indexes(client, place, card, kind)
            client.load_collection(place.collection, timeout=_LOAD_S)
            return MilvusIndex(client, place, card, _read_kind(client, place))
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
            if not client.has_collection(place.collection, timeout=_CALL_S):
                there = ", ".join(client.list_collections(timeout=_CALL_S)) or "none"
                raise TileIndexError(f"{place.uri} has no collection {place.collection}; it has {there}")
            card = _read_card(client, place)
            client.load_collection(place.collection, timeout=_LOAD_S)
            return MilvusIndex(client, place, card, _read_kind(client, place))
    except BaseException:
        disconnect(client, place)
        raise


def _create_collection(client: Any, place: MilvusAddress, card: IndexCard) -> None:
    types = optional_module("pymilvus").DataType
    text = json.dumps({"version": VERSION, **asdict(card)})
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False, description=text)
    schema.add_field("name", types.VARCHAR, is_primary=True, max_length=_NAME_BYTES)
    for field, width in _vector_fields(card):
        schema.add_field(field, types.FLOAT_VECTOR, dim=width)
    schema.add_field("place_a", types.DOUBLE)
    schema.add_field("place_b", types.DOUBLE)
    schema.add_field("bounds", types.ARRAY, element_type=types.DOUBLE, max_capacity=4)
    client.create_collection(
        place.collection,
        schema=schema,
        properties={_CARD_PROPERTY: text},  # milvus-lite forgets the description
        timeout=_CALL_S,
    )


def _create_missing_indexes(client: Any, place: MilvusAddress, card: IndexCard, kind: str) -> None:
    """Re-rank vectors are always compared one by one: a search among a hundred named tiles."""
    there = client.list_indexes(place.collection)
    missing = client.prepare_index_params()
    for field, width in _vector_fields(card):
        if field not in there:
            index, parameters = _index_parameters(kind if field == "recall" else "flat", width)
            missing.add_index(field, index_type=index, index_name=field, metric_type="IP", params=parameters)
    if len(missing):
        client.create_index(place.collection, missing, timeout=_LOAD_S)


def _index_parameters(kind: str, width: int) -> tuple[str, dict[str, int]]:
    if kind == "hnsw":
        return "HNSW", {"M": 32, "efConstruction": 200}
    if kind == "ivf_flat":
        return "IVF_FLAT", {"nlist": 1024}
    if kind == "ivf_pq":
        parts = max(parts for parts in range(1, max(1, width // 4) + 1) if width % parts == 0)
        return "IVF_PQ", {"nlist": 1024, "m": parts, "nbits": 8}  # four floats or more in a byte
    return kind.upper(), {}


def _vector_fields(card: IndexCard) -> list[tuple[str, int]]:
    return [("recall", card.dimension)] + ([("rerank", card.rerank_dimension)] if card.rerank_dimension else [])


def _read_kind(client: Any, place: MilvusAddress) -> str:
    return client.describe_index(place.collection, "recall")["index_type"].lower()


def _read_card(client: Any, place: MilvusAddress) -> IndexCard:
    """The card of a collection.

    Raises:
        TileIndexError: it has none, or one that contradicts the collection.
    """
    seen = client.describe_collection(place.collection, timeout=_CALL_S)
    text = seen["properties"].get(_CARD_PROPERTY)
    if text is None:
        raise TileIndexError(f"collection {place.collection} of {place.uri} was not made by mindloc; name another")
    try:
        facts = json.loads(text)
    except ValueError:
        facts = None
    if not isinstance(facts, dict) or facts.pop("version", None) != VERSION:
        raise TileIndexError(f"{place} has a card that this program (version {VERSION}) can't read; build it again")
    widths = {field["name"]: field["params"]["dim"] for field in seen["fields"] if "dim" in field["params"]}
    if set(facts) != {field.name for field in fields(IndexCard)} or dict(_widths(facts)) != widths:
        raise TileIndexError(f"{place} contradicts its card; build it again")
    return IndexCard(**facts)


def _widths(facts: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "recall", facts["dimension"]
    if facts["rerank_dimension"] is not None:
        yield "rerank", facts["rerank_dimension"]


def _require_same(place: MilvusAddress, there: IndexCard, wanted: IndexCard) -> None:
    for name, value in asdict(there).items():
        if value != getattr(wanted, name):
            raise TileIndexError(
                f"{place} is there already with {name} {value}, not {getattr(wanted, name)}; name another collection"
            )


def _check_dimensions(card: IndexCard) -> None:
    for field, width in _vector_fields(card):
        if width > MOST_DIMENSIONS:
            raise TileIndexError(
                f"{field} vectors of width {width}; Milvus takes up to {MOST_DIMENSIONS}: "
                "reduce them (python -m mindloc pca, then --pca FILE)"
            )


def _check_name_lengths(names: Sequence[str]) -> None:
    for name in names:
        try:
            length = len(name.encode())
        except UnicodeEncodeError:
            raise TileIndexError(f"tile name {name!r} is no Unicode, which Milvus needs; rename the file") from None
        if length > _NAME_BYTES:
            raise TileIndexError(f"tile name {name[:60]}... has {length} bytes; a Milvus library takes {_NAME_BYTES}")


def _entity(tiles: Tiles, recall_ND: np.ndarray, rerank_NE: np.ndarray | None, row: int) -> dict[str, Any]:
    place, bounds = tiles.place_N2[row].tolist(), tiles.bounds_N4[row].tolist()
    entity = {
        "name": tiles.names[row],
        "recall": recall_ND[row],
        "place_a": _UNKNOWN if math.isnan(place[0]) else place[0],
        "place_b": _UNKNOWN if math.isnan(place[1]) else place[1],
        "bounds": [] if math.isnan(bounds[0]) else bounds,
    }
    return entity if rerank_NE is None else {**entity, "rerank": rerank_NE[row]}


def _facts(row: dict[str, Any]) -> TileFacts:
    place = (row["place_a"], row["place_b"])
    return TileFacts(row["name"], None if place[0] == _UNKNOWN else place, tuple(row["bounds"]) or None)


def _batches(count: int, bytes_each: int) -> Iterator[range]:
    """Rows of one message after the other."""
    step = max(1, min(_MOST_ROWS, _MESSAGE_BYTES // bytes_each))
    for start in range(0, count, step):
        yield range(start, min(start + step, count))


def _named(names: Sequence[str]) -> str:
    """Expression: the tiles of these names. Lists that pymilvus makes itself end at the first ' in a name."""
    return f"name in [{', '.join(_quoted(name) for name in names)}]"


def _quoted(text: str) -> str:
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        text = text.replace(plain, escaped)
    return f'"{text}"'


def _within(box: Box) -> str:
    """Expression: the tiles in a box, edges included."""
    low_a, low_b, high_a, high_b = (_number(edge) for edge in (*box.low, *box.high))
    return f"place_a >= {low_a} and place_a <= {high_a} and place_b >= {low_b} and place_b <= {high_b}"


def _number(value: float) -> str:
    """Infinite edges stay below the mark of an unknown place."""
    return repr(float(np.clip(float(value), -_UNKNOWN / 10, _UNKNOWN / 10)))


_NONE = np.empty(0, np.float32)
