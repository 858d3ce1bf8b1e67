"""How this process answers signals, for a while."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_last_words: list[str] = []


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
    Other threads than the main one get no signals.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.default_int_handler:
        yield
        return

    def leave(number: int, frame: Any) -> None:
        with suppress(RuntimeError):  # the signal came in the middle of a print
            sys.stdout.flush()
        os.write(2, "".join(f"{line}\n" for line in [words, *_last_words]).encode())
        os._exit(130)

    with answered(leave, signal.SIGTERM):
        yield


@contextmanager
def last_words(line: str) -> Iterator[None]:
    """Inside, ``leaving_at_once`` says this line too: what a command would say if it were only interrupted."""
    _last_words.append(line)
    try:
        yield
    finally:
        _last_words.remove(line)
