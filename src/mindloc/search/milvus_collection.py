"""What a collection of Milvus looks like that is a tile library: fields, card, indexes, rows.

Fields::

    name               VARCHAR, primary key: putting a tile in again replaces it
    recall, rerank     FLOAT_VECTOR of unit length, inner product; rerank only where the card has such
    place_a, place_b   DOUBLE, 1e300 where nobody knows, which no box holds
    bounds             ARRAY of four DOUBLE, empty where nobody knows

The card is JSON in the collection's properties and, for people who look at a server, in its description.

Suffixes: N tiles, D width of the recall vector, E width of the re-rank vector.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from mindloc.errors import TileIndexError
from mindloc.runtime.packages import optional_module
from mindloc.search.index import IndexCard, TileFacts, Tiles, read_index_card
from mindloc.search.milvus_connection import UNKNOWN, MilvusAddress

VERSION = 1
KINDS = ("flat", "hnsw", "ivf_flat", "ivf_pq", "diskann")
EMBEDDED_KINDS = ("flat", "hnsw", "ivf_flat")  # those that milvus-lite has
MOST_DIMENSIONS = 32_768  # milvus.io/docs/limitations.md
NAME_BYTES = 1024  # ours; Milvus would take 65 535
CALL_S = 120
LOAD_S = 1800  # a server reads a collection's index into memory

_LISTS = 1024
_MOST_CANDIDATES = 32_768
_CARD_PROPERTY = "mindloc_card"


def create_collection(client: Any, place: MilvusAddress, card: IndexCard) -> None:
    """Make the collection, still without indexes."""
    types = optional_module("pymilvus").DataType
    text = json.dumps({"version": VERSION, **asdict(card)})
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False, description=text)
    schema.add_field("name", types.VARCHAR, is_primary=True, max_length=NAME_BYTES)
    for field, width in _vector_fields(card):
        schema.add_field(field, types.FLOAT_VECTOR, dim=width)
    schema.add_field("place_a", types.DOUBLE)
    schema.add_field("place_b", types.DOUBLE)
    schema.add_field("bounds", types.ARRAY, element_type=types.DOUBLE, max_capacity=4)
    client.create_collection(
        place.collection,
        schema=schema,
        properties={_CARD_PROPERTY: text},  # milvus-lite forgets the description
        timeout=CALL_S,
    )


def create_missing_indexes(client: Any, place: MilvusAddress, card: IndexCard, kind: str) -> None:
    """Make the indexes that a killed process has not; re-rank vectors are compared one by one, among named tiles."""
    there = client.list_indexes(place.collection)
    missing = client.prepare_index_params()
    for field, width in _vector_fields(card):
        if field not in there:
            index, parameters = _index_parameters(kind if field == "recall" else "flat", width)
            missing.add_index(field, index_type=index, index_name=field, metric_type="IP", params=parameters)
    if len(missing):
        client.create_index(place.collection, missing, timeout=LOAD_S)


def _index_parameters(kind: str, width: int) -> tuple[str, dict[str, int]]:
    if kind == "hnsw":
        return "HNSW", {"M": 32, "efConstruction": 200}
    if kind == "ivf_flat":
        return "IVF_FLAT", {"nlist": _LISTS}
    if kind == "ivf_pq":
        parts = max(parts for parts in range(1, max(1, width // 4) + 1) if width % parts == 0)
        return "IVF_PQ", {"nlist": _LISTS, "m": parts, "nbits": 8}  # four floats or more in a byte
    return kind.upper(), {}


def search_parameters(kind: str, k: int, thorough: bool = False) -> dict[str, int]:
    """How far an index of this kind looks for k answers; thorough: as far as Milvus lets it."""
    if kind == "hnsw":
        return {"ef": _MOST_CANDIDATES if thorough else max(128, 2 * k)}
    if kind in ("ivf_flat", "ivf_pq"):
        return {"nprobe": _LISTS if thorough else 64}
    if kind == "diskann":
        return {"search_list": _MOST_CANDIDATES if thorough else max(100, 2 * k)}
    return {}


def _vector_fields(card: IndexCard) -> list[tuple[str, int]]:
    fields = [("recall", card.dimension), ("rerank", card.rerank_dimension)]
    return [(field, width) for field, width in fields if width is not None]


def read_kind(client: Any, place: MilvusAddress) -> str:
    """Kind of the index of recall vectors.

    Raises:
        TileIndexError: a process that was killed has made none.
    """
    index = client.describe_index(place.collection, "recall")
    if index is None:
        raise TileIndexError(f"{place} has no index of its recall vectors; build it once more: python -m mindloc index")
    return index["index_type"].lower()


def read_card(client: Any, place: MilvusAddress) -> IndexCard:
    """The card of a collection.

    Raises:
        TileIndexError: it has none, or one that contradicts the collection.
    """
    seen = client.describe_collection(place.collection, timeout=CALL_S)
    text = seen.get("properties", {}).get(_CARD_PROPERTY)
    if text is None:
        raise TileIndexError(f"collection {place.collection} of {place.uri} was not made by mindloc; name another")
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict) or facts.pop("version", None) != VERSION:
        raise TileIndexError(f"{place} has a card that this program (version {VERSION}) can't read; build it again")
    widths = {field["name"]: field["params"]["dim"] for field in seen["fields"] if "dim" in field["params"]}
    card = read_index_card(facts)
    if card is None or dict(_vector_fields(card)) != widths:
        raise TileIndexError(f"{place} contradicts its card; build it again")
    return card


def require_same(place: MilvusAddress, there: IndexCard, wanted: IndexCard) -> None:
    """Refuse to go on with a collection of another card.

    Raises:
        TileIndexError: naming what differs.
    """
    for name, value in asdict(there).items():
        if value != getattr(wanted, name):
            raise TileIndexError(
                f"{place} is there already with {name} {value}, not {getattr(wanted, name)}; name another collection"
            )


def check_dimensions(card: IndexCard) -> None:
    """Refuse vectors that Milvus would.

    Raises:
        TileIndexError: they are too wide.
    """
    for field, width in _vector_fields(card):
        if width > MOST_DIMENSIONS:
            raise TileIndexError(
                f"{field} vectors of width {width}; Milvus takes up to {MOST_DIMENSIONS}: "
                "reduce them (python -m mindloc pca, then --pca FILE)"
            )


def check_names(names: Sequence[str]) -> None:
    """Refuse names that the primary key can't hold.

    Raises:
        TileIndexError: too long, or no Unicode.
    """
    for name in names:
        try:
            length = len(name.encode())
        except UnicodeEncodeError:
            raise TileIndexError(f"tile name {name!r} is no Unicode, which Milvus needs; rename the file") from None
        if length > NAME_BYTES:
            raise TileIndexError(f"tile name {name[:60]}... has {length} bytes; a Milvus library takes {NAME_BYTES}")


def entity_of(tiles: Tiles, recall_ND: np.ndarray, rerank_NE: np.ndarray | None, row: int) -> dict[str, Any]:
    """One tile as the collection takes it; its vectors of unit length."""
    place, bounds = tiles.place_N2[row].tolist(), tiles.bounds_N4[row].tolist()
    entity = {
        "name": tiles.names[row],
        "recall": recall_ND[row],
        "place_a": UNKNOWN if math.isnan(place[0]) else place[0],
        "place_b": UNKNOWN if math.isnan(place[1]) else place[1],
        "bounds": [] if math.isnan(bounds[0]) else bounds,
    }
    return entity if rerank_NE is None else {**entity, "rerank": rerank_NE[row]}


def facts_of(row: dict[str, Any]) -> TileFacts:
    """What the collection's fields say of a tile."""
    place = (row["place_a"], row["place_b"])
    return TileFacts(row["name"], None if place[0] == UNKNOWN else place, tuple(row["bounds"]) or None)
