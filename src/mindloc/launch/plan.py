"""The plan of a launch: from a command and the requested ranks to processes with their whole environment.

Two ways to start several ranks:

- **rank table**, on Ascend alone: one process per card of this server is started from here, and HCCL reads the table
  itself. MindSpore then compiles whole graphs with GE (jit level O2), whatever the program sets.
- **msrun**, the launcher of MindSpore's dynamic cluster, on every target. Off Ascend a table only gives the layout.

The functions at the end of this module find the inputs of the plan: the target that works here, the number of this
server, the address at which the ranks meet, and the cards.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mindloc.errors import LaunchError
from mindloc.launch.host import free_port, host_names
from mindloc.launch.processes import (
    MASTER_PORT,
    Process,
    entry_command,
    inherited_environment,
    msrun_process,
    table_processes,
    with_source,
)
from mindloc.launch.rank_table import Card, RankTable, Server, find_server
from mindloc.runtime.cluster import number_in
from mindloc.runtime.process import command_line, usable_cores

Launcher = Literal["rank_table", "msrun", "one_process"]
LAUNCHERS = ("rank_table", "msrun")  # those that can be requested
SINGLE_RANK = "there is one rank"
# run in a separate process, since the launcher itself does not import MindSpore
_WHICH_TARGET = (
    "from mindloc.runtime.device import choose_target; from mindloc.runtime.packages import check_packages; "
    "check_packages(); print(choose_target('auto')[0])"
)


@dataclass(frozen=True)
class Plan:
    """The processes to start on this server, and the reason for the launcher."""

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
    """Plan the processes of this server.

    Args:
        command: the command line of every rank.
        target: "Ascend", "GPU" or "CPU".
        log_dir: directory of the logs; a table in ModelArts' layout is written there as HCCL reads it.
        table: the layout of all servers; takes precedence over ``device_ids`` and ``server_count``.
        device_ids: cards of this server, one rank each; the other servers have the same number of cards.
        server_index: index of this server among all servers.
        master: address and port at which the ranks of several servers meet; None: the table's first server.
        launcher: "rank_table" or "msrun"; None: whichever fits.
        environment: what the processes inherit; None: this process's own.
        cores: the cores that the ranks share; None: all that this process may use.

    Raises:
        LaunchError: the requested launcher can't be used, or it can't start this layout.
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
        assert table is not None  # as choose_launcher has checked
        processes = table_processes(command, table, server_index, log_dir, inherited, shared)
    else:
        processes = (msrun_process(command, target, servers, server_index, master, log_dir, inherited, shared),)
    return Plan(chosen, reason, processes, size, ranks, log_dir)


def plan_one_process(
    command: Sequence[str],
    *,
    log_dir: Path,
    reason: str = SINGLE_RANK,
    environment: Mapping[str, str] | None = None,
    rank: int = 0,
    world_size: int = 1,
    rank_variables: Mapping[str, str] | None = None,
) -> Plan:
    """Plan one process, which finds its device itself.

    Args:
        rank, world_size: rank of the process and number of ranks, if the platform starts the other ranks.
        rank_variables: environment variables that give the process its rank.
    """
    inherited = inherited_environment(
        os.environ if environment is None else environment, launcher_line("one_process", reason)
    )
    own, log = {**inherited, **(rank_variables or {})}, log_dir / f"rank_{rank}.log"
    process = Process(f"rank {rank}", rank, own, entry_command(command), log)
    return Plan("one_process", reason, (process,), world_size, (rank,), log_dir)


def choose_launcher(
    target: str, table: RankTable | None, world_size: int, requested: str | None
) -> tuple[Launcher, str]:
    """(launcher, reason) for a target, a rank table and a requested launcher.

    Raises:
        LaunchError: the requested launcher can't be used here.
    """
    if requested == "msrun" and world_size == 1:
        raise LaunchError("launcher msrun is for several ranks, but there is one; leave LAUNCHER out")
    if requested == "msrun":
        return "msrun", "it was requested"
    if requested == "rank_table":
        if table is None:
            raise LaunchError("launcher rank_table needs a rank table, but none is given; leave LAUNCHER out")
        if target != "Ascend":
            raise LaunchError(
                f"launcher rank_table is for Ascend only, but the target is {target}; leave LAUNCHER out, then msrun "
                "takes the layout from the table"
            )
        return "rank_table", "it was requested"
    if requested is not None:
        raise LaunchError(f"launcher is {requested!r}; choose from {', '.join(LAUNCHERS)}, or leave it out")
    if table is not None and target == "Ascend":
        return "rank_table", f"{table.path} is given and the target is Ascend"
    if world_size == 1:
        return "one_process", SINGLE_RANK
    if table is not None:
        return "msrun", f"the target is {target}, where {table.path} only gives the layout ({world_size} ranks)"
    return "msrun", f"no rank table is given ({world_size} ranks)"


def launcher_line(launcher: Launcher, reason: str) -> str:
    """The line that states launcher and reason, like ``launcher: rank table, because it was requested``."""
    return f"launcher: {launcher.replace('_', ' ')}, because {reason}"


def _even_servers(device_ids: Sequence[int], count: int) -> tuple[Server, ...]:
    """``count`` servers with the same cards each; ranks are numbered across all of them."""
    size = len(device_ids)
    return tuple(
        Server(f"server {index}", tuple(Card(index * size + i, card) for i, card in enumerate(device_ids)))
        for index in range(count)
    )


def settled_target(configured: str, environment: Mapping[str, str]) -> tuple[str, list[str]]:
    """(target, arguments that pass it to every rank): "auto" is resolved once, so that all ranks have the same target.

    Args:
        configured: run.device_target; any value but "auto" is returned as it is, and checked by the ranks.

    Raises:
        LaunchError: MindSpore can't be loaded; the message contains its last line.
    """
    if configured != "auto":
        return configured, []
    target = _best_target(environment)
    return target, ["--device_target", target]


def _best_target(environment: Mapping[str, str]) -> str:
    """The first of Ascend, GPU, CPU that works here; raises LaunchError for the reason given in ``settled_target``."""
    environment = {"GLOG_v": "3", **with_source(environment)}
    answer = subprocess.run([sys.executable, "-c", _WHICH_TARGET], env=environment, capture_output=True, text=True)
    if answer.returncode != 0:
        words = answer.stderr.strip().splitlines() or ["no message"]
        raise LaunchError(
            f"{sys.executable} can't load MindSpore to find a device ({words[-1].strip()}); "
            f"give one with --device_target, or see {command_line('doctor')}"
        )
    return answer.stdout.splitlines()[-1]


def place_of_this_server(
    environment: Mapping[str, str], table: RankTable | None, may_be_several: bool
) -> tuple[int, int]:
    """(index of this server, number of servers).

    Args:
        environment: SERVER_ID is the index of this server, SERVER_COUNT the number of servers if there is no table.
        may_be_several: False for a program of one rank, which ignores both variables.

    Raises:
        LaunchError: a variable is not a number, is missing, or contradicts the other variable or the table.
    """
    if not may_be_several:
        return 0, 1
    if table is not None:
        return find_server(table, host_names(environment), environment.get("SERVER_ID") or None), len(table.servers)
    count = number_in(environment, "SERVER_COUNT", 1)
    if count > 1 and not environment.get("SERVER_ID"):
        raise LaunchError(f"SERVER_COUNT is {count}, but SERVER_ID is not set; count servers from 0: SERVER_ID=0")
    index = number_in(environment, "SERVER_ID", 0)
    if index >= count:
        raise LaunchError(f"SERVER_ID is {index}, expected 0 to {count - 1}; for several servers give SERVER_COUNT too")
    return index, count


def meeting_place(environment: Mapping[str, str], server_count: int) -> tuple[str, int] | None:
    """(address, port) at which ranks under msrun meet, from MASTER_ADDR and MASTER_PORT; None if neither is given.

    Raises:
        LaunchError: the port is not a number from 1024 to 65535, or several servers are given a port but no address.
    """
    address, port = environment.get("MASTER_ADDR"), number_in(environment, "MASTER_PORT", 0)
    if port and not 1024 <= port <= 65535:
        raise LaunchError(f"MASTER_PORT is {port}, expected a free port from 1024 to 65535; change or unset it")
    if not address and not port:
        return None
    if not address and server_count > 1:
        raise LaunchError(
            f"MASTER_PORT is {port}, but MASTER_ADDR is not given; {server_count} servers need both or none"
        )
    return address or "127.0.0.1", port or (MASTER_PORT if server_count > 1 else free_port())


def cards_of_this_server(ranks: int, configured: Sequence[int]) -> tuple[int, ...]:
    """The cards of ``ranks`` ranks: those of run.device_ids if it names as many, else 0, 1, 2, ...

    Raises:
        LaunchError: run.device_ids names several cards, but not as many as ranks.
    """
    if len(configured) == ranks:
        return tuple(configured)
    if len(configured) > 1:
        raise LaunchError(
            f"{ranks} ranks are requested, but run.device_ids names {len(configured)} cards; name as many, or none"
        )
    return tuple(range(ranks))


def require_shareable_batch(batch_size: int, ranks: int) -> None:
    """Check that the ranks can share a batch evenly.

    Raises:
        LaunchError: they can't; the message names the nearest batch sizes that they can share.
    """
    if batch_size % ranks:
        below = batch_size - batch_size % ranks
        fitting = " or ".join(f"--set train.batch_size={size}" for size in (below, below + ranks) if size)
        raise LaunchError(
            f"train.batch_size is {batch_size} for all ranks together, which {ranks} ranks can't share evenly; "
            f"change the number of ranks, or {fitting}"
        )
