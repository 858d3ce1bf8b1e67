"""What libraries write to the console from C++, past Python: kept from it, and readable afterwards."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


class Messages:
    """The text, once the block is left."""

    text = ""


@contextmanager
def native_messages() -> Iterator[Messages]:
    """Take standard error, and what Python prints, out of the console's sight while the block runs.

    For calls that write pages before they raise or go on; what matters of it is said by the caller in one line.
    """
    messages = Messages()
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file, os.fdopen(os.dup(file.fileno()), "w", errors="replace") as printed:
        try:
            os.dup2(file.fileno(), 2)
            with redirect_stdout(printed):
                yield messages
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            printed.flush()
            file.seek(0)
            messages.text = file.read().decode("utf-8", "replace")
