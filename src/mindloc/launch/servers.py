"""What the environment says about the servers of a training: how many, which one this is, where their ranks meet."""

from collections.abc import Mapping, Sequence

from mindloc.errors import LaunchError
from mindloc.launch.host import free_port, host_names
from mindloc.launch.msrun_process import MASTER_PORT
from mindloc.launch.rank_table import RankTable, find_server
from mindloc.runtime.whole_numbers import number_in


def place_of_this_server(
    environment: Mapping[str, str], table: RankTable | None, may_be_several: bool
) -> tuple[int, int]:
    """(index of this server, number of servers).

    Args:
        environment: SERVER_ID says which one this is, SERVER_COUNT how many there are where no table does.
        may_be_several: False for a program of one rank, which takes no notice of either.

    Raises:
        LaunchError: a variable is no number, is missing, or contradicts the other or the table.
    """
    if not may_be_several:
        return 0, 1
    if table is not None:
        return find_server(table, host_names(environment), environment.get("SERVER_ID") or None), len(table.servers)
    count = number_in(environment, "SERVER_COUNT", 1)
    if count > 1 and not environment.get("SERVER_ID"):
        raise LaunchError(f"SERVER_COUNT is {count}; say which of them this is, from 0: SERVER_ID=0")
    index = number_in(environment, "SERVER_ID", 0)
    if index >= count:
        raise LaunchError(f"SERVER_ID is {index}, expected 0 to {count - 1}; for several servers give SERVER_COUNT too")
    return index, count


def meeting_place(environment: Mapping[str, str], server_count: int) -> tuple[str, int] | None:
    """Address and port at which ranks under msrun meet, by MASTER_ADDR and MASTER_PORT; None when neither is given.

    Raises:
        LaunchError: the port is no number from 1024 to 65535, or there is a port alone for several servers.
    """
    address, port = environment.get("MASTER_ADDR"), number_in(environment, "MASTER_PORT", 0)
    if port and not 1024 <= port <= 65535:
        raise LaunchError(f"MASTER_PORT is {port}, expected a free port from 1024 to 65535")
    if not address and not port:
        return None
    if not address and server_count > 1:
        raise LaunchError(
            f"MASTER_PORT is {port}, but MASTER_ADDR is not given; {server_count} servers need both or none"
        )
    return address or "127.0.0.1", port or (MASTER_PORT if server_count > 1 else free_port())


def cards_of_this_server(ranks: int, configured: Sequence[int]) -> tuple[int, ...]:
    """Cards for so many ranks: those of run.device_ids when somebody chose as many, else 0, 1, 2, ...

    Raises:
        LaunchError: run.device_ids names another number of several cards.
    """
    if len(configured) == ranks:
        return tuple(configured)
    if len(configured) > 1:
        raise LaunchError(
            f"{ranks} ranks are asked for, but run.device_ids names {len(configured)} cards; give as many, or none"
        )
    return tuple(range(ranks))


def require_shareable_batch(batch_size: int, ranks: int) -> None:
    """Refuse a number of ranks among which a batch can't be shared evenly.

    Raises:
        LaunchError: naming the nearest sizes that can.
    """
    if batch_size % ranks:
        below = batch_size - batch_size % ranks
        fitting = " or ".join(str(size) for size in (below, below + ranks) if size)
        raise LaunchError(
            f"train.batch_size is {batch_size}, of all ranks together, and {ranks} ranks can't share it evenly; "
            f"take another number of ranks, or --set train.batch_size={fitting}"
        )
