"""Check whether processes are alive, and wait for a condition."""

import time
from collections.abc import Callable

import psutil


def alive(number: int | str) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return psutil.Process(int(number)).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait without a limit, since the machine may be busy; the test's own time limit ends it."""
    while not condition():
        time.sleep(0.05)
