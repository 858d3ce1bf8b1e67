"""Where errors of the user turn into one line and an exit code, and requests to stop into an interrupt."""

import argparse
import functools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from mindloc.errors import ConfigError, MindlocError
from mindloc.runtime.process import answered


def command(run: Callable[[list[str] | None], int | None]) -> Callable[[list[str] | None], int]:
    """Wrap a ``main``: a ``MindlocError`` prints its one line, Ctrl-C and SIGTERM exit 130, the rest is a traceback."""

    @functools.wraps(run)
    def main(argv: list[str] | None = None) -> int:
        try:
            with _terminated_as_interrupted():
                return run(argv) or 0
        except MindlocError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            return 130

    return main


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with arguments as every error is said.

    Args:
        way_out: end of the line: where the arguments are explained.
    """

    def __init__(self, *args, way_out: str, **kwargs):
        super().__init__(*args, **kwargs)
        self._way_out = way_out

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; {self._way_out}")


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does.

    Once MindSpore reads data it answers Ctrl-C itself, by a SIGTERM to this process: without a word, and with the
    terminal's progress bar left as it was.
    """
    if threading.current_thread() is not threading.main_thread():  # only there can a handler be set
        yield
        return
    with answered(signal.default_int_handler, signal.SIGTERM):
        yield
