"""Where errors of the user turn into one line and an exit code."""

import functools
import sys
from collections.abc import Callable

from mindloc.errors import MindlocError


def command(run: Callable[[list[str] | None], int | None]) -> Callable[[list[str] | None], int]:
    """Wrap a command's ``main``: a ``MindlocError`` prints its one line, Ctrl-C exits 130, the rest is a traceback."""

    @functools.wraps(run)
    def main(argv: list[str] | None = None) -> int:
        try:
            return run(argv) or 0
        except MindlocError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
        except KeyboardInterrupt:
            print("stopped by Ctrl-C", file=sys.stderr)
            return 130

    return main
