"""The cores that this process may use, which may be fewer than the machine has."""

import os


def usable_cores() -> list[int]:
    """Their numbers, in order."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
