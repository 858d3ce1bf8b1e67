"""What this process spent on compiling graphs, and how old it is."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mindloc.runtime.operator_fusion import failing_clearly, nothing_left_behind
from mindloc.runtime.signals import leaving_at_once

_IMPORTED = time.monotonic()
_compiled_s = 0.0


def compiled_s() -> float:
    """Seconds that this process has spent inside ``compiling`` so far."""
    return _compiled_s


@contextmanager
def compiling() -> Iterator[None]:
    """Count what happens inside as compiling; a command that is told to end there does so at once.

    Raises:
        DeviceError: operators were to be fused and could not be.
    """
    global _compiled_s
    started = time.perf_counter()
    try:
        with leaving_at_once("stopped while compiling"), nothing_left_behind(), failing_clearly():
            yield
    finally:
        _compiled_s += time.perf_counter() - started


def process_age_s() -> float:
    """Seconds since this process was started; where the system does not tell (all but Linux), since this import."""
    try:
        with open("/proc/self/stat", encoding="ascii") as file:
            started = int(file.read().rpartition(")")[2].split()[19])  # clock ticks after boot, field 22 of proc(5)
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return time.monotonic() - _IMPORTED
