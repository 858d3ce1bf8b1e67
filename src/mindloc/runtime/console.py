"""Console output: text of at most 80 columns; progress bars and notes on stderr, which disappear after the work.

Text may contain names from files. Characters that could change a terminal, or hide a part of a line, are escaped.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import fill
from typing import Any, TextIO

COLUMNS = 80
_LONGEST = 1000  # characters of an error line
# control characters except tab and line feed; separators of lines and paragraphs; changes of text direction; surrogates
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def escaped(text: str) -> str:
    """The text with unsafe characters written as in Python, such as \\x1b."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_error_line(text: str) -> str:
    """The text on one line, escaped; its middle is left out if it is too long."""
    line = escaped(" ".join(text.splitlines()))
    half = _LONGEST // 2
    return line if len(line) <= _LONGEST else f"{line[:half]} ... {line[-half:]}"


class _SafeOutput:
    """Standard output that escapes text, and drops text after a failed write, so that the work continues."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.failure: OSError | None = None  # after the first one nothing is written any more

    def write(self, text: str) -> int:
        self._tried(lambda: self._stream.write(escaped(text)))
        return len(text)

    def flush(self) -> None:
        self._tried(self._stream.flush)

    def _tried(self, call: Any) -> None:
        if self.failure is None:
            try:
                call()
            except OSError as error:
                self.failure = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def safe_console() -> Iterator[_SafeOutput]:
    """Context in which ``print`` never fails, for any text and any target of standard output and error.

    A closed pipe (``| head``) is not a failure; a full disk is noted in ``failure`` of the context's value.
    """
    before = sys.stdout, sys.stderr
    nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - replaces a stream that the user closed
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # for terminals that lack some characters
    output = _SafeOutput(sys.stdout or nowhere)
    sys.stdout, sys.stderr = output, sys.stderr or nowhere  # type: ignore[assignment]
    try:
        yield output
    finally:
        output.flush()
        if output.failure is not None and sys.__stdout__ is not None and before[0] is sys.__stdout__:
            os.dup2(nowhere.fileno(), 1)  # else Python complains at exit about the rest of its buffer
        sys.stdout, sys.stderr = before
        if isinstance(output.failure, BrokenPipeError):
            output.failure = None


def progress_bar(*args: Any, **options: Any) -> Any:
    """A progress bar of tqdm, with tqdm's arguments; not shown if stderr is not a terminal."""
    from tqdm import tqdm  # here, since the doctor works without it

    return tqdm(*args, leave=False, disable=None, miniters=1, **options)  # 1: work comes in bursts


@contextmanager
def status_line(text: str) -> Iterator[None]:
    """Context in which a line is shown below the progress bars, for work whose progress is unknown."""
    with progress_bar(desc=text, bar_format="{desc}"):
        yield


def wrapped(text: str, start: str = "", indent: str = "") -> str:
    """The text in lines of at most ``COLUMNS``; the first starts with ``start``, the others with ``indent``.

    Commands and paths are not broken, so that they can be copied.
    """
    return fill(
        text,
        COLUMNS,
        initial_indent=start,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
