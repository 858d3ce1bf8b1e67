"""How this process answers signals, for a while."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def answered(handler: Any, *signals: int) -> Iterator[None]:
    """Answer these signals by ``handler`` (as ``signal.signal`` takes it), and as before afterwards.

    Only in the main thread, as Python allows it nowhere else.
    """
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
