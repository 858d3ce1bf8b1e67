"""Ranks of an Ascend server under a rank table: one process per card, in the environment that HCCL and MindSpore read.

Each rank stays on its share of the cores, by ``os.sched_setaffinity`` (in rank_entry.py) rather than by ``taskset``,
which some images lack.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mindloc.errors import LaunchError
from mindloc.launch.host import share_of_cores
from mindloc.launch.process import Process, entry_command
from mindloc.launch.rank_table import RankTable, write_servers

# seconds in which all cards must have met. HCCL's own 120 are short for servers started by hand and for ranks that
# compile at different speeds; its documents allow 120 to 7200
CONNECT_TIMEOUT_S = 600


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
        LaunchError: a card without an address, which HCCL needs.
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
    """Tables of Atlas A3 may leave them out; the others are read by a HCCL that needs them."""
    for server in table.servers:
        for card in server.cards:
            if not card.device_ip and table.version != "1.2":
                raise LaunchError(
                    f"rank table {table.path} has no device_ip for card {card.device_id} of server {server.id}, which "
                    "HCCL needs; write the table on that server: python -m mindloc rank-table"
                )


def _file_for_hccl(table: RankTable, log_dir: Path) -> Path:
    """The table's own file; ModelArts' layout names no ranks and is written as 1.0 beside the logs."""
    if table.version != "group_list":
        return table.path.absolute()
    path = (log_dir / "rank_table.json").absolute()
    write_servers(path, table.servers)
    return path
