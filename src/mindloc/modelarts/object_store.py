"""Where a job's data comes from and its results go: an object store behind one small interface.

Three of them: moxing, which ModelArts' own images have; Huawei's SDK ``esdk-obs-python`` elsewhere; a folder when the
url is a path. A url names an object, or everything under ``url/``; names in a folder are relative and use "/".
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from mindloc.errors import StoreError
from mindloc.runtime.atomic import TEMPORARY_SUFFIX

REMOTE_SCHEMES = ("obs", "s3")
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


class LocalFolder:
    """A disk, also one that is mounted over a network."""

    def names(self, url: str) -> list[str]:
        return sorted(str(path.relative_to(url)) for path in Path(url).rglob("*") if path.is_file())

    def size(self, url: str) -> int | None:
        return Path(url).stat().st_size if Path(url).is_file() else None

    def total_bytes(self, url: str) -> int:
        return folder_bytes(Path(url))

    def fetch(self, url: str, path: Path) -> None:
        self._copy(Path(url), path)

    def fetch_folder(self, url: str, folder: Path) -> None:
        for name in self.names(url):
            self._copy(Path(url) / name, folder / name)

    def send(self, path: Path, url: str) -> None:
        self._copy(path, Path(url))

    def remove(self, url: str) -> None:
        try:
            Path(url).unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable(f"can't delete {url}: {error.strerror or error}") from None

    def _copy(self, source: Path, path: Path) -> None:
        temporary = temporary_beside(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, temporary)
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise Unavailable(f"can't copy {source} to {path}: {error.strerror or error}") from None


def open_store(url: str) -> Store:
    """The store that a url lies in.

    Raises:
        StoreError: a scheme that is not known, or no library here that reads it.
    """
    if not is_remote(url):
        return LocalFolder()
    scheme = url.partition("://")[0]
    if scheme not in REMOTE_SCHEMES:
        raise StoreError(f"{url} is neither a path nor a url of {', '.join(f'{s}://' for s in REMOTE_SCHEMES)}")

    from mindloc.modelarts.moxing_store import MoxingStore, find_moxing
    from mindloc.modelarts.obs_store import build_obs_store

    moxing = find_moxing()
    return MoxingStore(moxing) if moxing else build_obs_store(url)


def is_remote(url: str) -> bool:
    return "://" in url


def join(url: str, name: str) -> str:
    """``url/name``"""
    return f"{url.rstrip('/')}/{name}" if name else url


def folder_bytes(folder: Path) -> int:
    """Of all files in a folder and below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def temporary_beside(path: Path) -> Path:
    return path.parent / f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}"


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
