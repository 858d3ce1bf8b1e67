"""Whole numbers that somebody wrote: in the environment, on a command line, in a table."""

from collections.abc import Mapping

from mindloc.errors import LaunchError

_MOST_DIGITS = 18  # of the longest numbers in tables; Python itself refuses to read thousands of digits


def is_number(text: str) -> bool:
    """Whether these are digits, 0 to 9, and nothing else, and not endlessly many."""
    return text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS


def number_in(environment: Mapping[str, str], name: str, default: int) -> int:
    """A variable's number; the default where it is absent or empty.

    Raises:
        LaunchError: it is something else.
    """
    text = environment.get(name) or str(default)
    if not is_number(text):
        raise LaunchError(f"{name} is {text!r} in the environment, expected a number from 0; set it so, or unset it")
    return int(text)


def card_numbers(name: str, text: str) -> tuple[int, ...]:
    """Cards of a list such as "0,1,2,3", in its order.

    Args:
        name: what the user knows the list by.

    Raises:
        LaunchError: one is no number, or stands there twice.
    """
    words = text.split(",")
    if not all(map(is_number, words)) or len(set(map(int, words))) < len(words):
        raise LaunchError(f"{name} is {text!r}, expected different cards' numbers; write them with commas, like 0,1")
    return tuple(map(int, words))
