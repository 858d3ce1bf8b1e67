"""Whether processes live, and waiting for what they do."""

import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_S = 20  # for a machine that is busy; nothing here takes a second on an idle one


def alive(number: int | str) -> bool:
    """Whether a process runs; one that has ended and was not asked for is gone."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
