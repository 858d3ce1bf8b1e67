"""Command that writes, merges, checks and explains the rank table of an Ascend cluster."""

import ipaddress
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import click

from mindloc.cli.command import PATH, SeveralOption, command
from mindloc.errors import LaunchError
from mindloc.launch.host import device_addresses, host_names
from mindloc.launch.rank_table import (
    Card,
    RankTable,
    Server,
    find_server,
    read_rank_table,
    write_rank_table,
    write_servers,
)
from mindloc.runtime.cluster import card_numbers


@command("rank-table", example="--devices 0,1,2,3,4,5,6,7 --out rank_table.json")
@click.option("--devices", metavar="IDS", help="cards of this server, rank 0 first, like 0,1,2,3")
@click.option("--check", type=PATH, metavar="FILE", help="explain a table, or report what is wrong with it")
@click.option("--merge", type=PATH, cls=SeveralOption, metavar="FILE ...", help="tables of the servers, one each")
@click.option("--out", type=PATH, metavar="FILE", help="table to write")
@click.option("--server_id", metavar="ADDRESS", help="address of this server; needed if it has several")
@click.option("--device_ips", metavar="ADDRESSES", help="addresses of the cards' own network ports, like IP,IP")
@click.option(
    "--without_device_ips",
    is_flag=True,
    help="leave the addresses out; only for a trial off Ascend, since HCCL needs them",
)
def rank_table(
    devices: str | None,
    check: Path | None,
    merge: tuple[Path, ...],
    out: Path | None,
    server_id: str | None,
    device_ips: str | None,
    without_device_ips: bool,
) -> None:
    """Write the rank table of this server's Ascend cards (--devices), or check and explain one (--check).

    For several servers, write one table on each server, then merge them: --merge FILE FILE ... --out FILE.
    """
    if sum(map(bool, (devices, check, merge))) != 1:
        raise LaunchError("give exactly one of --devices IDS, --check FILE or --merge FILE ...")
    if device_ips and without_device_ips:
        raise LaunchError("--device_ips and --without_device_ips contradict each other; give one of them")
    if check:
        print(explanation(read_rank_table(check)))
        return
    if out is None:
        raise LaunchError("--out is missing; name the file to write, e.g. --out rank_table.json")
    if merge:
        write_servers(out, merged([read_rank_table(path) for path in merge]))
    else:
        cards = card_numbers("--devices", devices)
        addresses = [""] * len(cards) if without_device_ips else _addresses(device_ips, cards)
        entries = [Card(i, card, address) for i, (card, address) in enumerate(zip(cards, addresses, strict=True))]
        write_rank_table(out, _named(server_id) or only_address(host_names()), entries)
    print(f"{explanation(read_rank_table(out))}\nwritten: {out}")


def explanation(table: RankTable) -> str:
    """The table in words: one line per server, and which of the servers this host is."""
    lines = [f"{table.path}: layout {table.version}, servers: {len(table.servers)}, ranks: {table.size}"]
    for index, server in enumerate(table.servers):
        cards = ", ".join(
            f"rank {card.rank} = card {card.device_id} ({card.device_ip or 'no address'})" for card in server.cards
        )
        lines.append(f"server {index}, {server.id}: {cards}")
    try:
        here = find_server(table, host_names(), os.environ.get("SERVER_ID") or None)
        lines.append(f"this host is server {here}")
    except LaunchError:  # a table may be checked on a machine that it does not list
        lines.append(f"this host ({', '.join(host_names())}) is none of them")
    return "\n".join(lines)


def merged(tables: list[RankTable]) -> list[Server]:
    """The servers of several tables, sorted by their ids as text, as MindSpore does; ranks are numbered in this order.

    Raises:
        LaunchError: a server is in two of the tables.
    """
    servers = sorted((server for table in tables for server in table.servers), key=lambda server: server.id)
    for first, second in itertools.combinations(servers, 2):
        if first.id == second.id:
            raise LaunchError(f"server {first.id} is in two of the tables; give one table per server")
    ranks = itertools.count()
    return [
        Server(server.id, tuple(Card(next(ranks), card.device_id, card.device_ip) for card in server.cards))
        for server in servers
    ]


def _named(server_id: str | None) -> str | None:
    """The checked value of --server_id: an address, or a host's name as ModelArts uses it."""
    if server_id and any(char.isspace() for char in server_id):
        raise LaunchError(f"--server_id is {server_id!r}, expected an address like 10.0.0.1 or a host's name")
    return server_id


def only_address(names: list[str]) -> str:
    """The one address among a host's names.

    Raises:
        LaunchError: there are several, or none.
    """
    addresses = [name for name in names if _is_address(name)]
    if len(addresses) == 1:
        return addresses[0]
    known = f"several addresses ({', '.join(addresses)})" if addresses else "no address of its own"
    raise LaunchError(f"this host has {known}; give the one that other servers use as --server_id")


def _addresses(given: str | None, cards: Sequence[int]) -> list[str]:
    if given is None:
        return device_addresses(cards)
    addresses = given.split(",")
    wrong = [address for address in addresses if not _is_address(address)]
    if wrong or len(set(addresses)) != len(cards) or len(addresses) != len(cards):
        raise LaunchError(
            f"--device_ips is {given!r}, expected {len(cards)} different comma-separated addresses like 192.168.1.1"
        )
    return addresses


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
