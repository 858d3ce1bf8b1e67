"""Rank tables: which card of which server is which rank, in the three layouts that Ascend platforms hand out.

- "1.0": ``server_list`` with ``device`` lists (HCCL's template one, what ``rank-table`` writes);
- "1.2": the same with ``super_device_id`` and ``super_pod_list`` (Atlas A3);
- "group_list": ModelArts' own (HCCL's template two): instances in the order of their pods, ranks counted through.

All values are strings, numbers too: HCCL reads them no other way.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mindloc.errors import LaunchError, one_line
from mindloc.launch.table_layouts import Card, Server, parse_table
from mindloc.runtime.atomic import atomic_write_text
from mindloc.runtime.whole_numbers import is_number

_LOOPBACK = ("127.0.0.1", "localhost")  # means this host where no other could be meant
LARGEST_BYTES = 16 << 20  # a table of 10 000 cards has 2 MB


@dataclass(frozen=True)
class RankTable:
    """A checked table: ranks 0..size-1 once each, servers in the order of their first rank."""

    path: Path
    version: str  # "1.0", "1.2" or "group_list"
    servers: tuple[Server, ...]

    @property
    def size(self) -> int:
        """Number of ranks on all servers."""
        return sum(len(server.cards) for server in self.servers)


def read_rank_table(path: str | Path) -> RankTable:
    """The table in a file, of any of the three layouts.

    Raises:
        LaunchError: one line that names the file, the value, what was expected and the way out.
    """
    path = Path(path)
    version, servers = parse_table(path, _read_object(path))
    return RankTable(path, version, tuple(sorted(servers, key=lambda server: server.cards[0].rank)))


def find_server(table: RankTable, names: Iterable[str], server: str | None = None) -> int:
    """Which of ``table.servers`` this machine is.

    Args:
        names: the machine's addresses and host names.
        server: the answer itself as the user gives it, its index or its ``server_id``; wins over ``names``.

    Raises:
        LaunchError: none of them, or an index that the table does not have.
    """
    if server is not None:
        return _named_server(table, server)
    names = sorted(set(names))
    known = {*names, *(_LOOPBACK if len(table.servers) == 1 else ())}
    for index, listed in enumerate(table.servers):
        if not {listed.id, *listed.other_names}.isdisjoint(known):
            return index
    raise LaunchError(
        f"rank table {table.path}: this host ({', '.join(names)}) is none of its servers ({_server_ids(table)}); "
        "write a table here with python -m mindloc rank-table, or say which server it is: SERVER_ID=0"
    )


def write_rank_table(path: str | Path, server_id: str, cards: Sequence[Card]) -> None:
    """Write a table of one server in layout 1.0, whole or not at all.

    Raises:
        LaunchError: the disk refuses.
    """
    write_servers(path, [Server(server_id, tuple(cards))])


def write_servers(path: str | Path, servers: Sequence[Server]) -> None:
    """Write a table of several servers in layout 1.0, whole or not at all.

    Raises:
        LaunchError: the disk refuses.
    """
    tree = {
        "version": "1.0",
        "server_count": str(len(servers)),
        "server_list": [
            {"server_id": server.id, "device": [_device(card) for card in server.cards], "host_nic_ip": "reserve"}
            for server in servers
        ],
        "status": "completed",
    }
    atomic_write_text(path, json.dumps(tree, indent=2) + "\n", LaunchError)


def _device(card: Card) -> dict[str, str]:
    address = {"device_ip": card.device_ip} if card.device_ip else {}
    return {"device_id": str(card.device_id), **address, "rank_id": str(card.rank)}


def _named_server(table: RankTable, name: str) -> int:
    ids = [server.id for server in table.servers]
    if name in ids:
        return ids.index(name)
    if is_number(name) and int(name) < len(ids):
        return int(name)
    raise LaunchError(
        f"SERVER_ID is {name!r}, but rank table {table.path} has servers 0 to {len(ids) - 1} ({_server_ids(table)}); "
        "give the index of this server, or leave SERVER_ID out where its address is in the table"
    )


def _server_ids(table: RankTable) -> str:
    return ", ".join(server.id for server in table.servers)


def _read_object(path: Path) -> dict:
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise LaunchError(f"rank table {path} has {path.stat().st_size} bytes, expected a few thousand; is it one?")
        tree = json.loads(path.read_bytes())
    except OSError as error:
        raise LaunchError(f"rank table {path} can't be read: {error.strerror}; check the path") from None
    except (ValueError, RecursionError) as error:
        reason = one_line(error)
        raise LaunchError(f"rank table {path} is no JSON ({reason}); write it again or copy it whole") from None
    if not isinstance(tree, dict):
        raise LaunchError(f"rank table {path} holds a {type(tree).__name__}, expected an object with server_list")
    return tree
