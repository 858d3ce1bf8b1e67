"""One process that is to be started: its command line, its whole environment, its log."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ENTRY = Path(__file__).with_name("rank_entry.py")
SOURCE = Path(__file__).resolve().parents[2]

# what another launcher or a user's shell may have left: who inherits it looks for ranks that are not there
_LAUNCHERS_OWN = (
    *("RANK_TABLE_FILE", "RANK_ID", "RANK_SIZE", "DEVICE_ID", "DEVICE_NUM", "SERVER_ID"),
    *("MS_ROLE", "MS_NODE_ID", "MS_WORKER_NUM", "MS_SERVER_NUM", "MS_SCHED_HOST", "MS_SCHED_PORT"),
    *("MINDLOC_LAUNCH_LINE", "MINDLOC_LAUNCH_PARENT", "MINDLOC_LAUNCH_ID", "MINDLOC_RANK_CORES"),
)


@dataclass(frozen=True)
class Process:
    """A command line, its environment, and the file that gets both its outputs."""

    name: str
    rank: int | None  # None: it starts ranks itself
    environment: dict[str, str]
    command: list[str]
    log: Path


def alone(environment: Mapping[str, str]) -> dict[str, str]:
    """A copy without the variables of any launcher."""
    return {name: value for name, value in environment.items() if name not in _LAUNCHERS_OWN}


def inherited_environment(environment: Mapping[str, str], first_line: str) -> dict[str, str]:
    """A copy without the variables of other launchers, with ours.

    Args:
        first_line: which launcher and why, for the top of every log.
    """
    # unbuffered: the console follows the log of the first rank, and a rank that is killed keeps its last words
    return {"PYTHONUNBUFFERED": "1", "GLOG_v": "3", **alone(environment), "MINDLOC_LAUNCH_LINE": first_line}


def with_source(environment: Mapping[str, str]) -> dict[str, str]:
    """A copy in whose PYTHONPATH mindloc is found, as ``-m mindloc`` needs it in a plain clone."""
    paths = [str(SOURCE), environment.get("PYTHONPATH", "")]
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def entry_command(command: Sequence[str]) -> list[str]:
    """The command behind the first step of every process, rank_entry.py."""
    return [sys.executable, str(ENTRY), *command]
