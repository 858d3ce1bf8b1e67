"""The processes of a launch: command line, whole environment and log of each.

- Under **msrun**, the launcher of MindSpore's dynamic cluster, one process starts all ranks of a server. It gives its
  i-th rank DEVICE_ID=i. If the cards are not 0..n-1, they are therefore made the only visible ones
  (CUDA_VISIBLE_DEVICES, ASCEND_RT_VISIBLE_DEVICES), so that the i-th rank has the i-th card of the list.
- Under a **rank table**, on Ascend servers, there is one process per card, in the environment that HCCL and MindSpore
  read.

Each rank is bound to its share of the cores by ``os.sched_setaffinity`` (in rank_entry.py), not by ``taskset``, which
some images lack.
"""

import ipaddress
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mindloc.errors import LaunchError
from mindloc.launch.host import free_port, require_meeting_place, share_of_cores
from mindloc.launch.rank_table import RankTable, Server, write_servers
from mindloc.runtime.process import command_line, variables_for_children

ENTRY = Path(__file__).with_name("rank_entry.py")
SOURCE = Path(__file__).resolve().parents[2]
MASTER_PORT = 8118  # msrun's own default
VISIBLE_DEVICES = {"GPU": "CUDA_VISIBLE_DEVICES", "Ascend": "ASCEND_RT_VISIBLE_DEVICES"}
# seconds within which all ranks must have met under msrun, unless MS_TOPO_TIMEOUT is set: one server starts its ranks
# at once, several servers are started by hand
ONE_SERVER_MEETS_S = 180
SEVERAL_SERVERS_MEET_S = 600
# the same under a rank table: HCCL's default of 120 s is short for servers started by hand and for ranks that compile
# at different speeds; its documents allow 120 to 7200
CONNECT_TIMEOUT_S = 600

# variables that another launcher or a user's shell may have set; a process that inherits them waits for absent ranks
_LAUNCHERS_OWN = (
    *("RANK_TABLE_FILE", "RANK_ID", "RANK_SIZE", "DEVICE_ID", "DEVICE_NUM", "SERVER_ID"),
    *("MS_ROLE", "MS_NODE_ID", "MS_WORKER_NUM", "MS_SERVER_NUM", "MS_SCHED_HOST", "MS_SCHED_PORT"),
    *("MINDLOC_LAUNCH_LINE", "MINDLOC_LAUNCH_PARENT", "MINDLOC_LAUNCH_ID", "MINDLOC_RANK_CORES"),
)


@dataclass(frozen=True)
class Process:
    """A command line, its environment, and the log file of its standard output and standard error."""

    name: str
    rank: int | None  # None: the process starts ranks itself
    environment: dict[str, str]
    command: list[str]
    log: Path


def inherited_environment(environment: Mapping[str, str], first_line: str) -> dict[str, str]:
    """A copy of the environment without the variables of other launchers, with ours.

    Args:
        first_line: launcher and reason, as the first line of every log.
    """
    # unbuffered: the console follows the log of the first rank, and the log of a rank that is killed is complete
    fixed = {**variables_for_children(), "MINDLOC_LAUNCH_LINE": first_line}
    return {"PYTHONUNBUFFERED": "1", "GLOG_v": "3", **alone(environment), **fixed}


def alone(environment: Mapping[str, str]) -> dict[str, str]:
    """A copy of the environment without the variables of any launcher."""
    return {name: value for name, value in environment.items() if name not in _LAUNCHERS_OWN}


def with_source(environment: Mapping[str, str]) -> dict[str, str]:
    """A copy of the environment with mindloc in PYTHONPATH, which ``-m mindloc`` needs in a plain clone."""
    paths = [str(SOURCE), environment.get("PYTHONPATH", "")]
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def own_command(name: str, *words: str) -> list[str]:
    """The command line of a mindloc command with this Python; the process needs an environment from ``with_source``."""
    return [sys.executable, "-m", "mindloc", name, *words]


def entry_command(command: Sequence[str]) -> list[str]:
    """The command preceded by rank_entry.py, the first step of every process."""
    return [sys.executable, str(ENTRY), *command]


def msrun_process(
    command: Sequence[str],
    target: str,
    servers: Sequence[Server],
    server_index: int,
    master: tuple[str, int] | None,
    log_dir: Path,
    inherited: Mapping[str, str],
    cores: Sequence[int],
) -> Process:
    """The process of msrun for the ranks of one server; like each rank, it starts with rank_entry.py.

    Raises:
        LaunchError: msrun is not installed, the servers differ in their number of ranks, or there is no
            address and free port at which the ranks can meet.
    """
    _require_even_ranks(servers)
    local = len(servers[server_index].cards)
    address, port = master or _meeting_place(servers)
    require_meeting_place(address, port, len(servers))
    waits = SEVERAL_SERVERS_MEET_S if len(servers) > 1 else ONE_SERVER_MEETS_S
    options = {
        "worker_num": local * len(servers),
        "local_worker_num": local,
        "node_rank": server_index,
        "master_addr": address,
        "master_port": port,
        "join": True,
        "log_dir": log_dir.absolute(),
        "worker_log_name": "rank",  # rank_N.log, as under a rank table
        "tail_worker_log": local * len(servers),  # the log of no rank: the supervisor prints a log itself
        "cluster_time_out": inherited.get("MS_TOPO_TIMEOUT", waits),
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    # msrun takes no program but python, python3 and pytest, looked up in PATH; the entry then runs ours
    line = [_find_msrun(inherited), *words, "python3", str(ENTRY), *command]
    environment = {
        **_threads_of_a_rank(target, len(cores) // local),
        **inherited,
        **_visible_cards(target, [card.device_id for card in servers[server_index].cards], inherited),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)]),
        "MINDLOC_RANK_CORES": ";".join(",".join(map(str, share)) for share in _shares(target, cores, local)),
    }
    return Process("msrun", None, environment, entry_command(line), log_dir / "msrun.log")


def _require_even_ranks(servers: Sequence[Server]) -> None:
    """Check that server i has the ranks i * n to i * n + n - 1, in the order of its cards, as msrun counts them."""
    local = len(servers[0].cards)
    for index, server in enumerate(servers):
        ranks = [card.rank for card in server.cards]
        if ranks != list(range(index * local, index * local + local)):
            raise LaunchError(
                f"server {server.id} has the ranks {', '.join(map(str, ranks))}, but msrun needs {local} on every "
                f"server, here {index * local} to {index * local + local - 1}; change the rank table"
            )


def _meeting_place(servers: Sequence[Server]) -> tuple[str, int]:
    if len(servers) == 1:
        return "127.0.0.1", free_port()
    for name in (servers[0].id, *servers[0].other_names):
        try:
            return str(ipaddress.ip_address(name)), MASTER_PORT
        except ValueError:  # the name of a host or pod, which msrun could not distinguish from another server's
            continue
    raise LaunchError(
        f"the ranks of {len(servers)} servers must meet at the first one, but {servers[0].id} is not an address; "
        "give its address on every server: MASTER_ADDR=192.168.1.10"
    )


def _find_msrun(environment: Mapping[str, str]) -> str:
    beside = Path(sys.executable).parent
    found = shutil.which("msrun", path=str(beside)) or shutil.which("msrun", path=environment.get("PATH", ""))
    if found is None:
        raise LaunchError(
            f"msrun, which starts several ranks without a rank table, is neither in {beside} nor in PATH; "
            "install MindSpore 2.7.2 or newer in this Python, or set MINDLOC_PYTHON to the Python that has it"
        )
    return found


def _visible_cards(target: str, cards: list[int], inherited: Mapping[str, str]) -> dict[str, str]:
    """The variable that makes only the requested cards visible; none for cards 0..n-1 and on CPU."""
    name = VISIBLE_DEVICES.get(target)
    if name is None or cards == list(range(len(cards))):
        return {}
    if target == "Ascend" and cards != sorted(cards):
        raise LaunchError(f"cards {', '.join(map(str, cards))} are not in rising order, which Ascend needs; sort them")
    visible = inherited.get(name)
    if not visible:
        return {name: ",".join(map(str, cards))}
    names = visible.split(",")  # a card's number counts the cards that the variable leaves visible
    if max(cards) >= len(names):
        raise LaunchError(
            f"card {max(cards)} is requested, but {name}={visible} makes only {len(names)} cards visible; "
            "change one of the two"
        )
    return {name: ",".join(names[card] for card in cards)}


def _threads_of_a_rank(target: str, share: int) -> dict[str, str]:
    """The variable that limits a rank's threads on CPU, where each rank would otherwise start a thread per core."""
    return {"OMP_NUM_THREADS": str(max(1, share))} if target == "CPU" else {}


def _shares(target: str, cores: Sequence[int], count: int) -> list[list[int]]:
    """The cores that each rank is bound to; empty on CPU, so that a rank can use cores that another leaves idle."""
    return [[] if target == "CPU" else share_of_cores(cores, index, count) for index in range(count)]


def table_processes(
    command: Sequence[str],
    table: RankTable,
    server_index: int,
    log_dir: Path,
    inherited: Mapping[str, str],
    cores: Sequence[int],
) -> tuple[Process, ...]:
    """One process per card of a server of the table.

    Raises:
        LaunchError: a card has no address, which HCCL needs.
    """
    _require_addresses(table)
    server = table.servers[server_index]
    common = {
        "HCCL_CONNECT_TIMEOUT": str(CONNECT_TIMEOUT_S),
        **inherited,
        "RANK_TABLE_FILE": str(_file_for_hccl(table, log_dir)),
        "RANK_SIZE": str(table.size),
        "DEVICE_NUM": str(len(server.cards)),
        "SERVER_ID": str(server_index),
    }
    processes = []
    for position, card in enumerate(server.cards):
        own_cores = ",".join(map(str, share_of_cores(cores, position, len(server.cards))))
        own = {"RANK_ID": str(card.rank), "DEVICE_ID": str(card.device_id), "MINDLOC_RANK_CORES": own_cores}
        log = log_dir / f"rank_{card.rank}.log"
        processes.append(Process(f"rank {card.rank}", card.rank, {**common, **own}, entry_command(command), log))
    return tuple(processes)


def _require_addresses(table: RankTable) -> None:
    """Check that every card has an address, which only tables of Atlas A3 (layout 1.2) may leave out."""
    for server in table.servers:
        for card in server.cards:
            if not card.device_ip and table.version != "1.2":
                cards = ",".join(str(each.device_id) for each in server.cards)
                writing = command_line("rank-table", "--devices", cards, "--out", table.path.name)
                raise LaunchError(
                    f"rank table {table.path} has no device_ip for card {card.device_id} of server {server.id}, which "
                    f"HCCL needs; write the table on that server: {writing}"
                )


def _file_for_hccl(table: RankTable, log_dir: Path) -> Path:
    """The file that HCCL reads: the table itself; for ModelArts' layout a copy in layout 1.0 beside the logs."""
    if table.version != "group_list":
        return table.path.absolute()
    path = (log_dir / "rank_table.json").absolute()
    write_servers(path, table.servers)
    return path
