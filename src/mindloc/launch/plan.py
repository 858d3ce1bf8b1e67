"""Who runs what and where: from a command and the ranks asked for to processes with their whole environment.

Two ways to start several ranks:

- **rank table**, on Ascend alone: one process per card of this server is started from here, and HCCL reads the table
  itself. MindSpore then compiles whole graphs with GE (jit level O2), whatever the program asks for.
- **msrun**, the launcher of MindSpore's dynamic cluster, on every target. Off Ascend a table tells the layout alone.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mindloc.cores import usable_cores
from mindloc.errors import LaunchError
from mindloc.launch.msrun_process import msrun_process
from mindloc.launch.process import Process, entry_command, inherited_environment
from mindloc.launch.rank_table import RankTable
from mindloc.launch.table_layouts import Card, Server
from mindloc.launch.table_processes import table_processes

Launcher = Literal["rank_table", "msrun", "one_process"]
LAUNCHERS = ("rank_table", "msrun")  # those that can be asked for
NOBODY_TO_MEET = "one rank has nobody to meet"


def launcher_line(launcher: Launcher, reason: str) -> str:
    """Like ``launcher: rank table, because it was asked for``."""
    return f"launcher: {launcher.replace('_', ' ')}, because {reason}"


@dataclass(frozen=True)
class Plan:
    """What is to be started on this server, and why that way."""

    launcher: Launcher
    reason: str
    processes: tuple[Process, ...]
    world_size: int  # ranks on all servers
    ranks: tuple[int, ...]  # those of this server
    log_dir: Path  # rank_N.log for each of them

    @property
    def first_line(self) -> str:
        return launcher_line(self.launcher, self.reason)

    def rank_log(self, rank: int) -> Path:
        return self.log_dir / f"rank_{rank}.log"


def plan_ranks(
    command: Sequence[str],
    *,
    target: str,
    log_dir: Path,
    table: RankTable | None = None,
    device_ids: Sequence[int] = (0,),
    server_index: int = 0,
    server_count: int = 1,
    master: tuple[str, int] | None = None,
    launcher: str | None = None,
    environment: Mapping[str, str] | None = None,
    cores: Sequence[int] | None = None,
) -> Plan:
    """The processes of this server.

    Args:
        command: what every rank runs, the program first.
        target: "Ascend", "GPU" or "CPU".
        log_dir: folder of the logs; a table in ModelArts' layout is written there as HCCL reads it.
        table: the layout of all servers; wins over ``device_ids`` and ``server_count``.
        device_ids: cards of this server, as many ranks; the other servers have as many.
        server_index: which of the servers this one is.
        master: address and port at which the ranks of several servers meet; None: the table's first server.
        launcher: "rank_table" or "msrun" when it is not left to us.
        environment: what the processes inherit; None: this process's own.
        cores: what the ranks share out; None: all that this process may use.

    Raises:
        LaunchError: the launcher asked for can't work, or the layout is not one that it can start.
    """
    servers = table.servers if table else _even_servers(device_ids, server_count)
    size = sum(len(server.cards) for server in servers)
    chosen, reason = choose_launcher(target, table, size, launcher)
    environment = os.environ if environment is None else environment
    if chosen == "one_process":
        return plan_one_process(command, log_dir=log_dir, reason=reason, environment=environment)
    inherited = inherited_environment(environment, launcher_line(chosen, reason))
    ranks = tuple(card.rank for card in servers[server_index].cards)
    shared = list(usable_cores() if cores is None else cores)
    if chosen == "rank_table":
        assert table is not None  # choose_launcher has seen to it
        processes = table_processes(command, table, server_index, log_dir, inherited, shared)
    else:
        processes = (msrun_process(command, target, servers, server_index, master, log_dir, inherited, shared),)
    return Plan(chosen, reason, processes, size, ranks, log_dir)


def plan_one_process(
    command: Sequence[str],
    *,
    log_dir: Path,
    reason: str = NOBODY_TO_MEET,
    environment: Mapping[str, str] | None = None,
    rank: int = 0,
    world_size: int = 1,
    rank_variables: Mapping[str, str] | None = None,
) -> Plan:
    """One process, on whatever device it finds by itself.

    Args:
        rank, world_size: its place where somebody else starts the other ranks.
        rank_variables: what tells it that place.
    """
    inherited = inherited_environment(
        os.environ if environment is None else environment, launcher_line("one_process", reason)
    )
    own, log = {**inherited, **(rank_variables or {})}, log_dir / f"rank_{rank}.log"
    process = Process(f"rank {rank}", rank, own, entry_command(command), log)
    return Plan("one_process", reason, (process,), world_size, (rank,), log_dir)


def choose_launcher(target: str, table: RankTable | None, world_size: int, asked: str | None) -> tuple[Launcher, str]:
    """(launcher, why) for a target and what was given.

    Raises:
        LaunchError: the one asked for can't work here.
    """
    if asked == "msrun" and world_size == 1:
        raise LaunchError("launcher msrun lets several ranks meet and there is one; leave LAUNCHER out")
    if asked == "msrun":
        return "msrun", "it was asked for"
    if asked == "rank_table":
        if table is None:
            raise LaunchError("launcher rank_table needs a rank table and none is given; leave LAUNCHER out")
        if target != "Ascend":
            raise LaunchError(
                f"launcher rank_table starts Ascend cards alone and the target is {target}; leave LAUNCHER out, the "
                "table then tells msrun the layout"
            )
        return "rank_table", "it was asked for"
    if asked is not None:
        raise LaunchError(f"launcher is {asked!r}; choose from {', '.join(LAUNCHERS)}, or leave it out")
    if table is not None and target == "Ascend":
        return "rank_table", f"{table.path} is given and the target is Ascend"
    if world_size == 1:
        return "one_process", NOBODY_TO_MEET
    if table is not None:
        return "msrun", f"the target is {target}, where {table.path} tells the layout alone ({world_size} ranks)"
    return "msrun", f"no rank table is given ({world_size} ranks)"


def _even_servers(device_ids: Sequence[int], count: int) -> tuple[Server, ...]:
    """Servers with the same cards each, ranks counted through."""
    size = len(device_ids)
    return tuple(
        Server(f"server {index}", tuple(Card(index * size + i, card) for i, card in enumerate(device_ids)))
        for index in range(count)
    )
