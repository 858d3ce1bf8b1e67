"""What a user sees at a terminal: text of at most 80 columns; bars and notes on stderr, gone when the work is done."""

from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import fill
from typing import Any

COLUMNS = 80


def progress_bar(*args: Any, **options: Any) -> Any:
    """A bar of tqdm, with its arguments; not shown where stderr is not a terminal."""
    from tqdm import tqdm  # here, since the doctor works without it

    return tqdm(*args, leave=False, disable=None, miniters=1, **options)  # 1: work comes in bursts


@contextmanager
def status_line(text: str) -> Iterator[None]:
    """Show a line, below the progress bars, during work that can't say how far it is."""
    with progress_bar(desc=text, bar_format="{desc}"):
        yield


def wrapped(text: str, start: str = "", indent: str = "") -> str:
    """Prose in lines of at most ``COLUMNS``, the first after ``start``, the others after ``indent``.

    Commands and paths stay whole, so that they can be copied.
    """
    return fill(
        text,
        COLUMNS,
        initial_indent=start,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
