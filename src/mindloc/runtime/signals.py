"""How this process answers signals, for a while."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


@contextmanager
def leaving_at_once(words: str) -> Iterator[None]:
    """Let a SIGTERM end a command on the spot, with one line; for work in which nothing is lost.

    MindSpore answers a ``KeyboardInterrupt`` inside its compiler with pages of its own. Only our commands take SIGTERM
    for Ctrl-C, so whoever else calls this keeps what he has; and while MindSpore reads data, Ctrl-C comes as a SIGTERM.
    """
    if signal.getsignal(signal.SIGTERM) is not signal.default_int_handler:
        yield
        return

    def leave(number: int, frame: Any) -> None:
        with suppress(RuntimeError):  # the signal came in the middle of a print
            sys.stdout.flush()
        os.write(2, f"{words}\n".encode())
        os._exit(130)

    with answered(leave, signal.SIGTERM):
        yield
