"""A Milvus collection that is an index of tiles: its address, the connection to it, its fields and its card.

    milvus:tiles.db               milvus-lite, in this process: a directory whose name ends in .db
    milvus:http://host:19530      a server; https:// with TLS; http://host:19530/name for the database "name"
    milvus:tiles.db#rivers        the collection "rivers"; without a name it is "tiles"

A server's token comes from the environment variable MINDLOC_MILVUS_TOKEN, as ``user:password`` or an API key: addresses
end up in logs and lists of processes.

Fields::

    name               VARCHAR, primary key: adding a tile again replaces it
    recall, rerank     FLOAT_VECTOR of unit length, inner product; rerank only if the index has re-rank vectors
    place_a, place_b   DOUBLE, 1e300 where unknown, which no box contains
    bounds             ARRAY of four DOUBLE, empty where unknown

The card is JSON in the collection's properties and, for users who inspect a server, in its description.
"""

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mindloc.errors import TileIndexError, one_line
from mindloc.runtime.packages import optional_module
from mindloc.runtime.process import command_line
from mindloc.search.index import IndexCard, read_index_card

PREFIX = "milvus:"
TOKEN_VARIABLE = "MINDLOC_MILVUS_TOKEN"
DEFAULT_COLLECTION = "tiles"
VERSION = 1
KINDS = ("flat", "hnsw", "ivf_flat", "ivf_pq", "diskann")
EMBEDDED_KINDS = ("flat", "hnsw", "ivf_flat")  # those that milvus-lite has
MOST_DIMENSIONS = 32_768  # milvus.io/docs/limitations.md
NAME_BYTES = 1024  # our limit; Milvus would accept 65 535
CALL_S = 120
LOAD_S = 1800  # a server reads a collection's index into memory
LISTS = 1024  # of ivf_flat and ivf_pq

_CONNECT_S = 10
_COLLECTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")  # as Milvus allows
_CARD_PROPERTY = "mindloc_card"
_MILVUS_LITE_MARK = "LOCK"  # a file that milvus-lite creates in each of its directories
_NOISY = ("pymilvus", "milvus_lite")
_WITHIN_PROCESS = {
    "grpc.enable_http_proxy": 0,  # a proxy can't reach a server in this process
    "grpc.keepalive_time_ms": 2**31 - 1,  # never ping: the server may be busy for longer than pymilvus waits
}
# clients of each directory in this process; milvus-lite serves it once for all of them
_open_directories: Counter[str] = Counter()


@dataclass(frozen=True)
class MilvusAddress:
    """A collection, and the server or directory that it is on."""

    uri: str  # http(s)://..., or the path of a directory
    collection: str

    @property
    def embedded(self) -> bool:
        """Whether milvus-lite serves it from a directory."""
        return not self.uri.startswith(("http://", "https://"))

    def __str__(self) -> str:
        return f"{PREFIX}{self.uri}#{self.collection}"


def parse_address(text: str) -> MilvusAddress:
    """Split an address into its parts.

    Raises:
        TileIndexError: the text is not an address of a collection, or contains a password.
    """
    uri, _, collection = text.removeprefix(PREFIX).partition("#")
    address = MilvusAddress(uri, collection or DEFAULT_COLLECTION)
    if not _COLLECTION.fullmatch(address.collection):
        raise TileIndexError(f"{address.collection!r} is not a collection name: letters, digits and _, no digit first")
    if address.embedded:
        if not uri.endswith(".db") or "://" in uri:
            raise TileIndexError(
                f"{text} is not a Milvus address; give milvus:DIRECTORY.db or milvus:http://host:19530"
            )
        return address
    parts = urlsplit(uri)
    if parts.username is not None:
        raise TileIndexError(f"an address must not contain a password; put user:password into {TOKEN_VARIABLE}")
    if not parts.hostname or not _has_port(parts):
        raise TileIndexError(f"{text} does not name host and port; give for example milvus:http://localhost:19530")
    return address


def _has_port(parts: Any) -> bool:
    try:
        return parts.port is None or parts.port > 0
    except ValueError:
        return False


@dataclass
class MilvusCollection:
    """An open collection, from ``create_collection`` or ``open_collection``, until ``close``."""

    client: Any  # a pymilvus.MilvusClient
    address: MilvusAddress
    card: IndexCard
    kind: str  # of the index of recall vectors

    def close(self) -> None:
        """Release the connection."""
        _disconnect(self.client, self.address)


def create_collection(text: str, card: IndexCard, kind: str) -> MilvusCollection:
    """Create a collection for tiles of this card, or open an existing one if its card is identical.

    Raises:
        TileIndexError: the vectors are too wide for Milvus, it does not have the kind, the existing collection has a
            different card or kind, or the connection fails.
        DeviceError: pymilvus is not installed.
    """
    address = parse_address(text)
    for field, width in _vector_fields(card):
        if width > MOST_DIMENSIONS:
            raise TileIndexError(
                f"{field} vectors have width {width}, but Milvus accepts up to {MOST_DIMENSIONS}; "
                f"reduce them with --pca FILE, see {command_line('pca', 'DIRECTORY', '--out', 'FILE.safetensors')}"
            )
    offered = EMBEDDED_KINDS if address.embedded else KINDS
    if kind not in offered:
        where = "milvus-lite" if address.embedded else "Milvus"
        raise TileIndexError(f"{where} has no index of kind {kind}; choose {', '.join(offered)}")
    with _opened(address, may_be_new=True) as client:
        if client.has_collection(address.collection, timeout=CALL_S):
            _require_same(address, vars(_read_card(client, address)), vars(card))
        else:
            _create_fields(client, address, card)
        _create_missing_indexes(client, address, card, kind)
        _require_same(address, {"kind": _read_kind(client, address)}, {"kind": kind})
        client.load_collection(address.collection, timeout=LOAD_S)
        return MilvusCollection(client, address, card, kind)


def open_collection(text: str) -> MilvusCollection:
    """Open an existing collection.

    Raises:
        TileIndexError: the collection does not exist or was not created by mindloc, or the connection fails.
        DeviceError: pymilvus is not installed.
    """
    address = parse_address(text)
    with _opened(address, may_be_new=False) as client:
        if not client.has_collection(address.collection, timeout=CALL_S):
            there = ", ".join(client.list_collections(timeout=CALL_S)) or "none"
            raise TileIndexError(f"{address.uri} has no collection {address.collection}; it has {there}")
        card = _read_card(client, address)
        client.load_collection(address.collection, timeout=LOAD_S)
        return MilvusCollection(client, address, card, _read_kind(client, address))


def _require_same(address: MilvusAddress, there: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name, value in there.items():
        if value != wanted[name]:
            raise TileIndexError(
                f"{address} exists already with {name} {value}, not {wanted[name]}; name a different collection"
            )


def _vector_fields(card: IndexCard) -> list[tuple[str, int]]:
    fields = [("recall", card.dimension), ("rerank", card.rerank_dimension)]
    return [(field, width) for field, width in fields if width is not None]


def _create_fields(client: Any, address: MilvusAddress, card: IndexCard) -> None:
    types = optional_module("pymilvus").DataType
    text = json.dumps({"version": VERSION, **asdict(card)})
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False, description=text)
    schema.add_field("name", types.VARCHAR, is_primary=True, max_length=NAME_BYTES)
    for field, width in _vector_fields(card):
        schema.add_field(field, types.FLOAT_VECTOR, dim=width)
    schema.add_field("place_a", types.DOUBLE)
    schema.add_field("place_b", types.DOUBLE)
    schema.add_field("bounds", types.ARRAY, element_type=types.DOUBLE, max_capacity=4)
    properties = {_CARD_PROPERTY: text}  # milvus-lite does not store the description
    client.create_collection(address.collection, schema=schema, properties=properties, timeout=CALL_S)


def _create_missing_indexes(client: Any, address: MilvusAddress, card: IndexCard, kind: str) -> None:
    """Create indexes that are missing, also after a killed process; re-rank vectors are compared one by one: flat."""
    there = client.list_indexes(address.collection)
    missing = client.prepare_index_params()
    for field, width in _vector_fields(card):
        if field not in there:
            index, parameters = _index_parameters(kind if field == "recall" else "flat", width)
            missing.add_index(field, index_type=index, index_name=field, metric_type="IP", params=parameters)
    if len(missing):
        client.create_index(address.collection, missing, timeout=LOAD_S)


def _index_parameters(kind: str, width: int) -> tuple[str, dict[str, int]]:
    if kind == "hnsw":
        return "HNSW", {"M": 32, "efConstruction": 200}
    if kind == "ivf_flat":
        return "IVF_FLAT", {"nlist": LISTS}
    if kind == "ivf_pq":
        parts = max(parts for parts in range(1, max(1, width // 4) + 1) if width % parts == 0)
        return "IVF_PQ", {"nlist": LISTS, "m": parts, "nbits": 8}  # four floats or more in a byte
    return kind.upper(), {}


def _read_kind(client: Any, address: MilvusAddress) -> str:
    index = client.describe_index(address.collection, "recall")
    if index is None:  # a process was killed before it created one
        again = command_line("index", "build", "DIRECTORY", "--index", address)
        raise TileIndexError(f"{address} has no index of its recall vectors; build it again: {again}")
    return index["index_type"].lower()


def _read_card(client: Any, address: MilvusAddress) -> IndexCard:
    seen = client.describe_collection(address.collection, timeout=CALL_S)
    text = seen.get("properties", {}).get(_CARD_PROPERTY)
    if text is None:
        raise TileIndexError(
            f"collection {address.collection} of {address.uri} was not created by mindloc; name a different one"
        )
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict) or facts.pop("version", None) != VERSION:
        raise TileIndexError(f"{address} has a card that this program (version {VERSION}) can't read; build it again")
    widths = {field["name"]: field["params"]["dim"] for field in seen["fields"] if "dim" in field["params"]}
    card = read_index_card(facts)
    if card is None or dict(_vector_fields(card)) != widths:
        raise TileIndexError(f"{address} contradicts its card; build it again")
    return card


@contextmanager
def _opened(address: MilvusAddress, may_be_new: bool) -> Iterator[Any]:
    """Context with a connected client; only an error in it disconnects the client."""
    client = _connect(address, may_be_new)
    try:
        with in_one_line(address):
            yield client
    except BaseException:
        _disconnect(client, address)
        raise


def _connect(address: MilvusAddress, may_be_new: bool) -> Any:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read once, at the import
    pymilvus = optional_module("pymilvus")
    options: dict[str, Any] = {"timeout": _CONNECT_S}
    if address.embedded:
        optional_module("milvus_lite")
        _check_directory(Path(address.uri), may_be_new)
        options["grpc_options"] = _WITHIN_PROCESS
    elif token := os.environ.get(TOKEN_VARIABLE):
        options["token"] = token
    for name in _NOISY:  # what they log is also raised
        logging.getLogger(name).handlers = [logging.NullHandler()]
        logging.getLogger(name).propagate = False
    with in_one_line(address), _reason_of_milvus_lite(address):
        client = pymilvus.MilvusClient(address.uri, **options)
    _open_directories[os.path.abspath(address.uri)] += 1
    return client


def _disconnect(client: Any, address: MilvusAddress) -> None:
    """Close a client; the last one on a directory also releases it for other processes."""
    directory = os.path.abspath(address.uri)
    _open_directories[directory] -= 1
    try:
        with in_one_line(address):
            client.close()
    finally:
        if address.embedded and not _open_directories[directory]:
            optional_module("milvus_lite.server_manager").server_manager_instance.release_server(directory)


def _check_directory(directory: Path, may_be_new: bool) -> None:
    if directory.exists() and not directory.is_dir():
        kind = "a file" if directory.is_file() else "a device or a pipe"
        raise TileIndexError(f"{directory} is {kind}, but milvus-lite 3 needs a directory; give a different name")
    if not directory.exists():
        if not may_be_new:
            raise TileIndexError(f"tile index {directory} is missing; check the path, or build it first")
        if not directory.absolute().parent.is_dir():
            raise TileIndexError(f"directory {directory.parent} for {directory.name} is missing; create it first")
    elif not (directory / _MILVUS_LITE_MARK).is_file() and not (may_be_new and not any(directory.iterdir())):
        raise TileIndexError(f"directory {directory} was not created by milvus-lite; give a different name")


@contextmanager
def in_one_line(address: MilvusAddress) -> Iterator[None]:
    """Context that turns errors of Milvus and of the network into one line.

    Raises:
        TileIndexError: such an error; with its message.
    """
    milvus_error = optional_module("pymilvus.exceptions").MilvusException
    rpc_error = optional_module("grpc").RpcError
    try:
        yield
    except (milvus_error, rpc_error) as error:
        raise TileIndexError(_explain(error, address, rpc_error)) from None


def _explain(error: Exception, address: MilvusAddress, rpc_error: type) -> str:
    call = next((link for link in (error, error.__cause__) if isinstance(link, rpc_error)), None)
    status = call.code().name if call is not None else ""
    said = one_line(Exception(getattr(error, "message", "") or (call.details() if call is not None else "") or error))
    if status == "UNAUTHENTICATED" or "auth check failure" in said:
        given = "refuses the token in" if os.environ.get(TOKEN_VARIABLE) else "requires a token, user:password, in"
        return f"Milvus at {address.uri} {given} {TOKEN_VARIABLE}; set it to one that may use this database"
    if status in ("UNAVAILABLE", "DEADLINE_EXCEEDED") or said.startswith("Fail connecting"):
        if address.embedded:
            return f"milvus-lite did not answer in time for {address.uri}; try again when the machine is less busy"
        return f"no Milvus server answers at {address.uri}; start it, or check host, port and http or https"
    return f"Milvus at {address} reports: {said[:300]}"


@contextmanager
def _reason_of_milvus_lite(address: MilvusAddress) -> Iterator[None]:
    """Context that adds why milvus-lite can't open a directory to its error, which it writes only to its log."""
    heard: list[BaseException] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.exc_info[1]:
                heard.append(record.exc_info[1])

    log, listener = logging.getLogger("milvus_lite.server_manager"), Listener()
    log.addHandler(listener)
    try:
        yield
    except optional_module("pymilvus.exceptions").MilvusException:
        if not heard:
            raise
        if type(heard[-1]).__name__ == "DataDirLockedError":
            reason = "another process has it open; wait until it ends, or use a Milvus server"
        else:
            reason = f"can't be opened ({one_line(heard[-1])[:200]}); build it again under a different name"
        raise TileIndexError(f"tile index {address.uri}: {reason}") from None
    finally:
        log.removeHandler(listener)
