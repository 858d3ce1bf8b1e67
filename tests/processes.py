"""Whether processes live, and waiting for what they do."""

import time
from collections.abc import Callable

import psutil


def alive(number: int | str) -> bool:
    """Whether a process runs; one that has ended and was not asked for is gone."""
    try:
        return psutil.Process(int(number)).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait as long as it takes on a machine that is busy; the test's own limit ends what never comes."""
    while not condition():
        time.sleep(0.05)
