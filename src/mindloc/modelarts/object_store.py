"""Where a job's data comes from and its results go: an object store behind one small interface.

A url names an object, or everything under ``url/``; names in a folder are relative and use "/".
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from mindloc.errors import StoreError
from mindloc.runtime.atomic import TEMPORARY_SUFFIX

PAUSES_S = (1.0, 4.0, 15.0)  # between the attempts of ``patiently``
T = TypeVar("T")


class Unavailable(StoreError):
    """A store that failed this time; the same call may work later."""


class Store(Protocol):
    """What a job needs of a store. Every call raises ``Unavailable`` when the store fails."""

    def names(self, url: str) -> list[str]:
        """Of all objects under a folder; empty when there is none."""

    def size(self, url: str) -> int | None:
        """Bytes of one object; None when there is no such object."""

    def total_bytes(self, url: str) -> int:
        """Of everything under a folder; 0 when there is nothing."""

    def fetch(self, url: str, path: Path) -> None:
        """Copy one object to a file, which appears whole."""

    def fetch_folder(self, url: str, folder: Path) -> None:
        """Copy everything under a folder, and check the sizes. What is already there may be kept."""

    def send(self, path: Path, url: str) -> None:
        """Copy one file to an object, which appears whole."""

    def remove(self, url: str) -> None:
        """Delete one object; none there is no error."""


def is_remote(url: str) -> bool:
    return "://" in url


def join(url: str, name: str) -> str:
    """``url/name``"""
    return f"{url.rstrip('/')}/{name}" if name else url


def folder_bytes(folder: Path) -> int:
    """Of all files in a folder and below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def arriving(path: Path) -> Iterator[Path]:
    """Another name to write a file under: it takes its own when it is whole, and is gone when that failed."""
    temporary = path.parent / f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def patiently(action: Callable[[], T]) -> T:
    """The action's result, tried again after a pause while the store is unavailable.

    Raises:
        StoreError: at the last attempt, or one that no patience mends.
    """
    for pause_s in PAUSES_S:
        try:
            return action()
        except Unavailable as error:
            print(f"warning: {error}; trying again in {pause_s:g} s", flush=True)
            time.sleep(pause_s)
    return action()
