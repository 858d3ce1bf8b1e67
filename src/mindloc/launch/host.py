"""Facts about this machine: its names in a rank table, its cards' network addresses, its free ports and cores."""

import errno
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from mindloc.errors import LaunchError

HCCN_CONF = Path("/etc/hccn.conf")
# variables in which ModelArts gives a container the address of its host and the name of its pod
_NAMES_IN_ENVIRONMENT = ("MA_CURRENT_HOST_IP", "MA_CURRENT_INSTANCE_NAME", "POD_NAME")


def host_names(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Every address and name under which a rank table may list this machine, sorted."""
    name = socket.gethostname()
    names = {name, *(environment[key] for key in _NAMES_IN_ENVIRONMENT if environment.get(key))}
    return sorted(names | set(host_addresses(name)))


def host_addresses(name: str) -> list[str]:
    """This machine's own IPv4 addresses and what its name resolves to, without the loopback, sorted."""
    own = [address for addresses in psutil.net_if_addrs().values() for address in addresses]
    addresses = {address.address for address in own if address.family == socket.AF_INET}
    with suppress(socket.gaierror):  # the name does not resolve, as in some containers
        addresses.update(str(entry[4][0]) for entry in socket.getaddrinfo(name, None))
    return sorted(address for address in addresses if not address.startswith("127.") and address != "::1")


def device_addresses(device_ids: Sequence[int]) -> list[str]:
    """The network address of each Ascend card, from the driver's tool, else from its configuration file.

    Raises:
        LaunchError: neither has the address of one of the cards.
    """
    tool = shutil.which("hccn_tool") or shutil.which("hccn_tool", path="/usr/local/Ascend/driver/tools")
    addresses = [_read_tool(tool, device_id) if tool else None for device_id in device_ids]
    configured = _configured_addresses()
    found = [address or configured.get(card) for address, card in zip(addresses, device_ids, strict=True)]
    missing = [str(card) for card, address in zip(device_ids, found, strict=True) if not address]
    if missing:
        raise LaunchError(
            f"no network address found for card {', '.join(missing)}: neither hccn_tool nor {HCCN_CONF} has it; "
            "give the addresses with --device_ips, or write a table for a trial off Ascend with --without_device_ips"
        )
    return [str(address) for address in found]


def _read_tool(tool: str, device_id: int) -> str | None:
    """The address that hccn_tool prints, like ``ipaddr:192.168.100.101``; None if the tool fails."""
    try:
        answer = subprocess.run([tool, "-i", str(device_id), "-ip", "-g"], capture_output=True, text=True, timeout=30)
    except (
        OSError,
        subprocess.TimeoutExpired,
    ):  # a tool without its driver: the configuration file may still have the address
        return None
    found = re.search(r"ipaddr:\s*(\S+)", answer.stdout)
    return found[1] if found and answer.returncode == 0 else None


def _configured_addresses() -> dict[int, str]:
    """Card -> address from lines like ``address_0=192.168.100.101``; empty without the file."""
    try:
        text = HCCN_CONF.read_text(encoding="utf-8")
    except OSError:
        return {}
    return {int(card): address for card, address in re.findall(r"^\s*address_(\d+)\s*=\s*(\S+)", text, re.MULTILINE)}


def free_port() -> int:
    """A TCP port that is free at the moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_meeting_place(address: str, port: int, server_count: int) -> None:
    """Check that ranks can meet there; where the address is another server's, that one checks it.

    Raises:
        LaunchError: another process listens on the port; there is one server, and the address is not its own.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # free as soon as nobody listens any more
        try:
            probe.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise LaunchError(
                    f"port {port} of {address}, where the ranks would meet, is in use by another process; take one "
                    f"that is free, the same on every server: MASTER_ADDR={address} MASTER_PORT={free_port()}"
                ) from None
            is_elsewhere = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
            if is_elsewhere and server_count == 1:
                raise LaunchError(
                    f"MASTER_ADDR is {address}, which is not an address of this machine, where all ranks run; unset "
                    "it, or give MASTER_ADDR=127.0.0.1"
                ) from None


def share_of_cores(cores: Sequence[int], index: int, count: int) -> list[int]:
    """The ``index``-th of ``count`` equal, contiguous shares of the cores; all cores if there are fewer than shares.

    Neighboring cores are on one socket, so a rank's memory is near its cores.
    """
    share = len(cores) // count
    return list(cores[index * share : (index + 1) * share]) if share else list(cores)
