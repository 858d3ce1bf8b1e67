"""Where a job's data comes from and its results go: a directory for a path, moxing for a url in ModelArts' own images.

A url names an object, or everything under ``url/``; names in a directory are relative and use "/".
"""

import importlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from mindloc.errors import StoreError, one_line
from mindloc.runtime.files import replacing

REMOTE_SCHEMES = ("obs", "s3")
PAUSES_S = (1.0, 4.0, 15.0)  # between the attempts of ``patiently``
T = TypeVar("T")


class Unavailable(StoreError):
    """A store that failed this time; the same call may work later."""


def build_store(url: str) -> "Store":
    """The store that a url is in.

    Raises:
        StoreError: a scheme that is not known, or no moxing here to read it with.
    """
    if not is_remote(url):
        return DirectoryStore()
    if url.partition("://")[0] not in REMOTE_SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in REMOTE_SCHEMES)
        raise StoreError(f"{url} is neither a path nor a url of {known}; give one of these")
    moxing = find_moxing()
    if moxing is None:
        raise StoreError(
            f"{url} can't be reached: moxing is not installed, which ModelArts' images have; copy what is there to "
            "this machine and give the directory"
        )
    return MoxingStore(moxing)


def is_remote(url: str) -> bool:
    return "://" in url


def join(url: str, name: str) -> str:
    """``url/name``"""
    return f"{url.rstrip('/')}/{name}" if name else url


def patiently(action: Callable[[], T]) -> T:
    """The action's result; while the store is unavailable, the action is retried after a pause.

    Raises:
        StoreError: the last attempt failed, or one failed in a way that retrying can't fix.
    """
    for pause_s in PAUSES_S:
        try:
            return action()
        except Unavailable as error:
            print(f"warning: {error}; trying again in {pause_s:g} s", flush=True)
            time.sleep(pause_s)
    return action()


class DirectoryStore:
    """A disk, also one that is mounted over a network."""

    def names(self, url: str) -> list[str]:
        """Of all objects under a directory; empty when there is none."""
        return sorted(str(path.relative_to(url)) for path in Path(url).rglob("*") if path.is_file())

    def size(self, url: str) -> int | None:
        """Bytes of one object; None when there is no such object."""
        return Path(url).stat().st_size if Path(url).is_file() else None

    def send(self, path: Path, url: str) -> None:
        """Copy one file to an object, which appears whole."""
        with replacing(Path(url), error=Unavailable) as temporary:
            shutil.copyfile(path, temporary)

    def remove(self, url: str) -> None:
        """Delete one object; a missing one is not an error."""
        try:
            Path(url).unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable(f"can't delete {url}: {error.strerror or error}") from None


def find_moxing() -> ModuleType | None:
    """Huawei's moxing; None where it is missing, or is PyPI's package of that name, which is somebody else's."""
    try:
        moxing = importlib.import_module("moxing")
    except ImportError:
        return None
    return moxing if hasattr(moxing, "file") else None


class MoxingStore:
    """What ``DirectoryStore`` does, and copying from there, by ``mox.file``; ``Unavailable`` when it fails."""

    def __init__(self, moxing: Any):
        self._file = moxing.file

    def names(self, url: str) -> list[str]:
        if not self._call("exists", url):
            return []
        names = self._call("list_directory", url, recursive=True)
        return sorted(name.strip("/") for name in names if not name.endswith("/"))

    def size(self, url: str) -> int | None:
        if not self._call("exists", url) or self._call("is_directory", url):
            return None
        return int(self._call("get_size", url))

    def total_bytes(self, url: str) -> int:
        """Of everything under a directory; 0 when there is nothing."""
        # without recursive=True moxing calls every directory 0 bytes large
        return int(self._call("get_size", url, recursive=True)) if self._call("exists", url) else 0

    def fetch(self, url: str, path: Path) -> None:
        """Copy one object to a file, which appears whole."""
        with replacing(path, error=Unavailable) as temporary:
            self._call("copy", url, str(temporary))

    def fetch_directory(self, url: str, directory: Path) -> None:
        """Copy everything under a directory, and check the sizes. What is already there may be kept."""
        wanted = self.total_bytes(url)
        if not wanted:
            raise StoreError(f"{url} is empty; name the directory that the data is in")
        self._call("copy_parallel", url, str(directory))
        found = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
        if found != wanted:
            raise Unavailable(f"{url} has {wanted} bytes and {found} arrived in {directory}")

    def send(self, path: Path, url: str) -> None:
        self._call("copy", str(path), url)

    def remove(self, url: str) -> None:
        if self._call("exists", url):
            self._call("remove", url, recursive=False)

    def _call(self, function: str, url: str, *arguments: Any, **options: Any) -> Any:
        try:
            return getattr(self._file, function)(url, *arguments, **options)
        except Exception as error:  # moxing documents none of its exceptions; each is passed on as one of ours
            reason = one_line(error)
            raise Unavailable(f"mox.file.{function} {url}: {reason}") from error


Store = DirectoryStore | MoxingStore
