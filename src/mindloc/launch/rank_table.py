"""Rank tables: which card of which server is which rank, in the three layouts that Ascend platforms write.

- "1.0": ``server_list`` with ``device`` lists (HCCL's template one, which ``rank-table`` writes);
- "1.2": layout 1.0 with ``super_device_id`` and ``super_pod_list`` (Atlas A3);
- "group_list": ModelArts' own (HCCL's template two): instances in the order of their pods, ranks numbered across all.

All values are strings, including numbers, since HCCL reads nothing else. This module is as strict: each field that it
uses must be present, be a string, and agree with the other fields.
"""

import ipaddress
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mindloc.errors import LaunchError
from mindloc.reading import read_json
from mindloc.runtime.cluster import is_number
from mindloc.runtime.files import atomic_write_text
from mindloc.runtime.process import command_line

LARGEST_BYTES = 16 << 20  # a table of 10 000 cards has 2 MB
WRITING = ("rank-table", "--devices", "0,1,2,3,4,5,6,7", "--out", "rank_table.json")  # command of a whole server
_WRITE_AGAIN = f"write the table again, e.g. with: {command_line(*WRITING)}"
_LOOPBACK = ("127.0.0.1", "localhost")  # this host, in a table of one server


@dataclass(frozen=True)
class Card:
    """One accelerator and the rank that runs on it."""

    rank: int
    device_id: int
    device_ip: str = ""  # address of its own network port; "" if the table has none


@dataclass(frozen=True)
class Server:
    """A machine and its cards, in rank order."""

    id: str
    cards: tuple[Card, ...]
    other_names: tuple[str, ...] = ()  # further names of this machine: host address, pod


@dataclass(frozen=True)
class RankTable:
    """A checked rank table: each of the ranks 0..size-1 appears once, servers are in the order of their first rank."""

    path: Path
    version: str  # "1.0", "1.2" or "group_list"
    servers: tuple[Server, ...]

    @property
    def size(self) -> int:
        """Number of ranks on all servers."""
        return sum(len(server.cards) for server in self.servers)


def read_rank_table(path: str | Path) -> RankTable:
    """Read and check a rank table in any of the three layouts.

    Raises:
        LaunchError: the table is invalid; the message names the file, the value, the expectation and the way out.
    """
    path = Path(path)
    tree = read_json(path, LaunchError, "rank table", "check the path, or write it again", most_bytes=LARGEST_BYTES)
    version, servers = _parse(path, tree)
    return RankTable(path, version, tuple(sorted(servers, key=lambda server: server.cards[0].rank)))


def find_server(table: RankTable, names: Iterable[str], server: str | None = None) -> int:
    """The index of this machine in ``table.servers``.

    Args:
        names: the machine's addresses and host names.
        server: index or ``server_id`` of this machine as given by the user; takes precedence over ``names``.

    Raises:
        LaunchError: the table does not list the machine, or does not have ``server``.
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
        f"give the index of this server, SERVER_ID=0, or write a table here with: {command_line(*WRITING)}"
    )


def _named_server(table: RankTable, name: str) -> int:
    ids = [server.id for server in table.servers]
    if name in ids:
        return ids.index(name)
    if is_number(name) and int(name) < len(ids):
        return int(name)
    raise LaunchError(
        f"SERVER_ID is {name!r}, but rank table {table.path} has servers 0 to {len(ids) - 1} ({_server_ids(table)}); "
        "give the index of this server, or leave SERVER_ID out if its address is in the table"
    )


def _server_ids(table: RankTable) -> str:
    return ", ".join(server.id for server in table.servers)


def write_rank_table(path: str | Path, server_id: str, cards: Sequence[Card]) -> None:
    """Write a table of one server in layout 1.0, completely or not at all.

    Raises:
        LaunchError: the file can't be written.
    """
    write_servers(path, [Server(server_id, tuple(cards))])


def write_servers(path: str | Path, servers: Sequence[Server]) -> None:
    """Write a table of several servers in layout 1.0, completely or not at all.

    Raises:
        LaunchError: the file can't be written.
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


@dataclass(frozen=True)
class _Node:
    """A JSON object of the file and its position there. The methods check a field; errors name file and position."""

    path: Path
    where: str  # "" at the top, else like "server_list[0].device[1]"
    tree: dict[str, Any]

    def refuse(self, what: str, way_out: str = _WRITE_AGAIN) -> LaunchError:
        place = f"{self.where}." if self.where else ""
        return LaunchError(f"rank table {self.path}: {place}{what}; {way_out}")

    def text(self, key: str) -> str:
        value = self._field(key)
        if not isinstance(value, str) or not value:
            raise self.refuse(f"{key} is {value!r}, expected a string in quotes")
        return value

    def number(self, key: str) -> int:
        value = self._field(key)
        if not isinstance(value, str) or not is_number(value):
            raise self.refuse(f'{key} is {value!r}, expected a number from 0 as a string, like "0"')
        return int(value)

    def count(self, key: str) -> int:
        """A number that ModelArts writes with or without quotes."""
        return replace(self, tree={**self.tree, key: str(self._field(key))}).number(key)

    def address(self, key: str) -> str:
        """An IP address; "" if the field is absent, as in a table that was written for a trial."""
        if self.tree.get(key, "") == "":
            return ""
        try:
            return str(ipaddress.ip_address(self.text(key)))
        except ValueError:
            raise self.refuse(f"{key} is {self.tree[key]!r}, expected an address such as 192.168.100.101") from None

    def nodes(self, key: str) -> "list[_Node]":
        """The objects of a list, which must not be empty."""
        value = self._field(key)
        if not isinstance(value, list) or not value:
            raise self.refuse(f"{key} is {value!r}, expected a list with at least one entry")
        for index, entry in enumerate(value):
            if not isinstance(entry, dict):
                raise self.refuse(f"{key}[{index}] is {entry!r}, expected an object")
        place = f"{self.where}.{key}" if self.where else key
        return [_Node(self.path, f"{place}[{index}]", entry) for index, entry in enumerate(value)]

    def _field(self, key: str) -> Any:
        if key not in self.tree:
            raise self.refuse(f"{key} is missing")
        return self.tree[key]


def _parse(path: Path, tree: dict[str, Any]) -> tuple[str, list[Server]]:
    """(layout, servers) of a table's JSON object, checked as a whole.

    Raises:
        LaunchError: for the reasons given in ``read_rank_table``.
    """
    top = _Node(path, "", tree)
    layout = "group_list" if "group_list" in tree else top.text("version")
    if layout not in ("1.0", "1.2", "group_list"):
        raise top.refuse(f"version is {layout!r}; mindloc reads 1.0, 1.2 and ModelArts' group_list")
    if (status := top.text("status")) != "completed":
        raise top.refuse(
            f"status is {status!r}, expected 'completed'", "the platform is still writing it: wait, then start again"
        )
    servers = _from_groups(top) if layout == "group_list" else _from_servers(top)
    if layout == "1.2":
        _check_super_pods(top, {server.id for server in servers})
    _check_ranks(top, servers)
    _check_addresses(top, servers)
    return layout, servers


def _from_servers(top: _Node) -> list[Server]:
    nodes = top.nodes("server_list")
    if (count := top.number("server_count")) != len(nodes):
        raise top.refuse(f'server_count is "{count}", but server_list has {len(nodes)}')
    servers = []
    for node in nodes:
        server_id = node.text("server_id")
        if server_id in [server.id for server in servers]:
            raise node.refuse(f"server_id {server_id!r} appears twice; each server must be in the table once")
        cards = [_card(device, device.number("rank_id")) for device in _distinct_devices(node, "device")]
        names = tuple(name for key in ("host_ip", "server_ip") if (name := node.address(key)))
        servers.append(Server(server_id, _in_rank_order(cards), names))
    return servers


def _from_groups(top: _Node) -> list[Server]:
    """The servers of ModelArts' layout. Ranks are numbered by the pods' numbers, then by the order of devices."""
    groups = [group for group in top.nodes("group_list") if group.count("device_count")]
    if (count := top.count("group_count")) != len(top.tree["group_list"]):
        raise top.refuse(f'group_count is "{count}", but group_list has {len(top.tree["group_list"])}')
    servers: list[Server] = []
    for group in groups:
        instances, found = group.nodes("instance_list"), 0
        if (count := group.count("instance_count")) != len(instances):
            raise group.refuse(f'instance_count is "{count}", but instance_list has {len(instances)}')
        for instance in sorted(instances, key=_pod_number):
            devices = _distinct_devices(instance, "devices")
            first = sum(len(server.cards) for server in servers)
            cards = tuple(_card(device, first + index) for index, device in enumerate(devices))
            found += len(cards)
            servers.append(Server(instance.text("server_id"), cards, (instance.text("pod_name"),)))
        if (count := group.count("device_count")) != found:
            raise group.refuse(f'device_count is "{count}", but its instances have {found} devices')
    if not servers:
        raise top.refuse("group_list has no group with devices")
    return servers


def _pod_number(instance: _Node) -> int:
    """The number at the end of a pod's name: 15 for ``job94dc-job-net-15``."""
    number = instance.text("pod_name").rpartition("-")[2]
    if not is_number(number):
        raise instance.refuse(f"pod_name is {instance.tree['pod_name']!r}, expected a name that ends in -NUMBER")
    return int(number)


def _distinct_devices(server: _Node, key: str) -> list[_Node]:
    devices = server.nodes(key)
    seen = set()
    for device in devices:
        if (device_id := device.number("device_id")) in seen:
            raise device.refuse(f'device_id "{device_id}" appears twice; each card of a server must be there once')
        seen.add(device_id)
    return devices


def _card(device: _Node, rank: int) -> Card:
    return Card(rank, device.number("device_id"), device.address("device_ip"))


def _in_rank_order(cards: list[Card]) -> tuple[Card, ...]:
    return tuple(sorted(cards, key=lambda card: card.rank))


def _check_super_pods(top: _Node, known: set[str]) -> None:
    for server in top.nodes("server_list"):
        for device in server.nodes("device"):
            device.number("super_device_id")
    listed = [node for pod in top.nodes("super_pod_list") for node in pod.nodes("server_list")]
    for node in listed:
        if node.text("server_id") not in known:
            raise node.refuse(f"server_id is {node.tree['server_id']!r}, which the table's server_list does not have")
    if len(listed) != len(known):
        raise top.refuse(f"super_pod_list has {len(listed)} servers, expected each of the {len(known)} servers once")


def _check_ranks(top: _Node, servers: list[Server]) -> None:
    ranks = sorted(card.rank for server in servers for card in server.cards)
    for expected, rank in enumerate(ranks):
        if rank != expected:
            what = f"rank {rank} appears twice" if rank < expected else f"rank {expected} is missing"
            raise top.refuse(f"{what}; {len(ranks)} cards must have the ranks 0 to {len(ranks) - 1}, once each")


def _check_addresses(top: _Node, servers: list[Server]) -> None:
    owners: dict[str, int] = {}
    for card in (card for server in servers for card in server.cards if card.device_ip):
        if card.device_ip in owners:
            what = f"ranks {owners[card.device_ip]} and {card.rank} have the same device_ip {card.device_ip}"
            raise top.refuse(f"{what}; every card must have its own")
        owners[card.device_ip] = card.rank
