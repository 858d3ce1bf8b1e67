"""Where a Milvus library is, the way to it, and in one line what stands in that way.

    milvus:tiles.db               milvus-lite, in this process: a folder whose name ends in .db
    milvus:http://host:19530      a server; https:// with TLS; http://host:19530/name for a database of another name
    milvus:tiles.db#rivers        the collection "rivers"; without a name it is "tiles"

A server's token comes from the environment variable MINDLOC_MILVUS_TOKEN, as ``user:password`` or an API key: addresses
end up in logs and lists of processes.

Milvus' filter expressions for tiles by name and for tiles in a box, whatever the names are made of.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from mindloc.errors import TileIndexError, one_line
from mindloc.runtime.packages import optional_module
from mindloc.search.index import Box

UNKNOWN = 1e300  # as a coordinate where nobody knows the place: no box holds it


def named(names: Sequence[str]) -> str:
    """Expression: the tiles of these names. Lists that pymilvus makes itself end at the first ' in a name."""
    return f"name in [{', '.join(_quoted(name) for name in names)}]"


def _quoted(text: str) -> str:
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        text = text.replace(plain, escaped)
    return f'"{text}"'


def within(box: Box) -> str:
    """Expression: the tiles in a box, edges included."""
    low_a, low_b, high_a, high_b = (_number(edge) for edge in (*box.low, *box.high))
    return f"place_a >= {low_a} and place_a <= {high_a} and place_b >= {low_b} and place_b <= {high_b}"


def _number(value: float) -> str:
    """Infinite edges stay below the mark of an unknown place."""
    return repr(float(np.clip(float(value), -UNKNOWN / 10, UNKNOWN / 10)))


PREFIX = "milvus:"
TOKEN_VARIABLE = "MINDLOC_MILVUS_TOKEN"
DEFAULT_COLLECTION = "tiles"

_CONNECT_S = 10
_COLLECTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")  # as Milvus allows
_LIBRARY_MARK = "LOCK"  # milvus-lite leaves it in each of its folders
_NOISY = ("pymilvus", "milvus_lite")
_WITHIN_PROCESS = {
    "grpc.enable_http_proxy": 0,  # no proxy knows a server in this process
    "grpc.keepalive_time_ms": 2**31 - 1,  # never: it is alive, though perhaps busy for longer than pymilvus waits
}
_open_folders: Counter[str] = Counter()  # milvus-lite serves a folder once, for all who opened it in this process


@dataclass(frozen=True)
class MilvusAddress:
    """A collection, and the server or folder that holds it."""

    uri: str  # http(s)://..., or the path of a folder
    collection: str

    @property
    def embedded(self) -> bool:
        """Whether milvus-lite serves it from a folder."""
        return not self.uri.startswith(("http://", "https://"))

    def __str__(self) -> str:
        return f"{PREFIX}{self.uri}#{self.collection}"


def parse_address(text: str) -> MilvusAddress:
    """The address in its parts.

    Raises:
        TileIndexError: it is none, or holds a password.
    """
    uri, _, collection = text.removeprefix(PREFIX).partition("#")
    address = MilvusAddress(uri, collection or DEFAULT_COLLECTION)
    if not _COLLECTION.fullmatch(address.collection):
        raise TileIndexError(f"{address.collection!r} is no collection's name: letters, digits and _, no digit first")
    if address.embedded:
        if not uri.endswith(".db") or "://" in uri:
            raise TileIndexError(f"{text} is no Milvus address; give milvus:FOLDER.db or milvus:http://host:19530")
        return address
    parts = urlsplit(uri)
    if parts.username is not None:
        raise TileIndexError(f"a password does not belong into an address; put user:password into {TOKEN_VARIABLE}")
    if not parts.hostname or not _has_port(parts):
        raise TileIndexError(f"{text} names no host and port; give for example milvus:http://localhost:19530")
    return address


def _has_port(parts: Any) -> bool:
    try:
        return parts.port is None or parts.port > 0
    except ValueError:
        return False


def connect(address: MilvusAddress, may_be_new: bool) -> Any:
    """A pymilvus client; give it to ``disconnect`` in the end.

    Args:
        may_be_new: a folder that is not there yet is made.

    Raises:
        TileIndexError: no server answers, it refuses the token, the folder is no Milvus library or another process has
            it open.
        DeviceError: pymilvus is not installed.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read once, at the import
    pymilvus = optional_module("pymilvus")
    options: dict[str, Any] = {"timeout": _CONNECT_S}
    if address.embedded:
        optional_module("milvus_lite")
        _check_folder(Path(address.uri), may_be_new)
        options["grpc_options"] = _WITHIN_PROCESS
    elif token := os.environ.get(TOKEN_VARIABLE):
        options["token"] = token
    _silence()
    with in_one_line(address), _reason_of_milvus_lite(address):
        client = pymilvus.MilvusClient(address.uri, **options)
    _open_folders[os.path.abspath(address.uri)] += 1
    return client


def disconnect(client: Any, address: MilvusAddress) -> None:
    """Close the client; the last one on a folder lets other processes have it."""
    folder = os.path.abspath(address.uri)
    _open_folders[folder] -= 1
    try:
        with in_one_line(address):
            client.close()
    finally:
        if address.embedded and not _open_folders[folder]:
            optional_module("milvus_lite.server_manager").server_manager_instance.release_server(folder)


@contextmanager
def in_one_line(address: MilvusAddress) -> Iterator[None]:
    """Turn whatever Milvus or the network says within into one line.

    Raises:
        TileIndexError: with what was said.
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
        given = "refuses the token in" if os.environ.get(TOKEN_VARIABLE) else "wants a token, user:password, in"
        return f"Milvus at {address.uri} {given} {TOKEN_VARIABLE}; set it to one that may use this database"
    if status in ("UNAVAILABLE", "DEADLINE_EXCEEDED") or said.startswith("Fail connecting"):
        if address.embedded:
            return f"milvus-lite gave no answer about {address.uri} in time; try again when the machine is less busy"
        return f"no Milvus server answers at {address.uri}; start it, or check host, port and http or https"
    return f"Milvus at {address} refuses: {said[:300]}"


def _check_folder(folder: Path, may_be_new: bool) -> None:
    if folder.is_file():
        raise TileIndexError(f"{folder} is a file; milvus-lite 3 keeps a library in a folder: give another name")
    if not folder.exists():
        if not may_be_new:
            raise TileIndexError(f"tile library {folder} is missing; check the path, or build it first")
        if not folder.absolute().parent.is_dir():
            raise TileIndexError(f"folder {folder.parent} for {folder.name} is missing; make it first")
    elif not (folder / _LIBRARY_MARK).is_file() and any(folder.iterdir()):
        raise TileIndexError(f"folder {folder} was not made by milvus-lite; give another name")


@contextmanager
def _reason_of_milvus_lite(address: MilvusAddress) -> Iterator[None]:
    """milvus-lite tells its log alone why it can't open a folder."""
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
            reason = "another process has it open; wait for its end, or run a Milvus server for several"
        else:
            reason = f"can't be opened ({one_line(heard[-1])[:200]}); build it again under another name"
        raise TileIndexError(f"tile library {address.uri}: {reason}") from None
    finally:
        log.removeHandler(listener)


def _silence() -> None:
    """Keep the libraries' logs off the console; what they say arrives as exceptions."""
    for name in _NOISY:
        log = logging.getLogger(name)
        log.handlers = [logging.NullHandler()]
        log.propagate = False
