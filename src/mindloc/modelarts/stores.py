"""Stores of a job's data and results: a directory for a path; for a url moxing, which ModelArts' images contain.

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
PAUSES_S = (1.0, 4.0, 15.0)  # between the attempts of ``with_retries``
T = TypeVar("T")


class Unavailable(StoreError):
    """A store failed; the same call may succeed later."""


def build_store(url: str) -> "Store":
    """The store that a url belongs to.

    Raises:
        StoreError: the scheme is unknown, or moxing is not installed.
    """
    if not is_remote(url):
        return DirectoryStore()
    if url.partition("://")[0] not in REMOTE_SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in REMOTE_SCHEMES)
        raise StoreError(f"{url} is neither a path nor a url of {known}; give one of these")
    moxing = find_moxing()
    if moxing is None:
        raise StoreError(
            f"{url} can't be reached: moxing, which ModelArts' images contain, is not installed; copy the data to this "
            "machine and give its directory"
        )
    return MoxingStore(moxing)


def is_remote(url: str) -> bool:
    return "://" in url


def join(url: str, name: str) -> str:
    """``url/name``, or ``url`` if ``name`` is empty."""
    return f"{url.rstrip('/')}/{name}" if name else url


def with_retries(action: Callable[[], T]) -> T:
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
    """The store for paths, on a disk or a mounted network disk."""

    def names(self, url: str) -> list[str]:
        """Names of all objects under a directory; empty if there is none."""
        return sorted(str(path.relative_to(url)) for path in Path(url).rglob("*") if path.is_file())

    def size(self, url: str) -> int | None:
        """Bytes of one object; None if there is no such object."""
        return Path(url).stat().st_size if Path(url).is_file() else None

    def send(self, path: Path, url: str) -> None:
        """Copy one file to an object, which appears only when it is complete."""
        with replacing(Path(url), error=Unavailable) as temporary:
            shutil.copyfile(path, temporary)

    def remove(self, url: str) -> None:
        """Delete one object; a missing one is not an error."""
        try:
            Path(url).unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable(f"can't delete {url}: {error.strerror or error}") from None


def find_moxing() -> ModuleType | None:
    """Huawei's module moxing; None if it is not installed, or if it is PyPI's unrelated package of that name."""
    try:
        moxing = importlib.import_module("moxing")
    except ImportError:
        return None
    return moxing if hasattr(moxing, "file") else None


class MoxingStore:
    """The store for urls, by ``mox.file``: the methods of ``DirectoryStore``, and copies to this machine.

    Every method raises ``Unavailable`` if moxing fails.
    """

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
        """Bytes of everything under a directory; 0 if there is nothing."""
        # without recursive=True moxing returns 0 for every directory
        return int(self._call("get_size", url, recursive=True)) if self._call("exists", url) else 0

    def fetch(self, url: str, path: Path) -> None:
        """Copy one object to a file, which appears only when it is complete."""
        with replacing(path, error=Unavailable) as temporary:
            self._call("copy", url, str(temporary))

    def fetch_directory(self, url: str, directory: Path) -> None:
        """Copy everything under a directory, and check the total size. Files that are already there may be kept."""
        expected = self.total_bytes(url)
        if not expected:
            raise StoreError(f"{url} is empty; give the directory that contains the data")
        self._call("copy_parallel", url, str(directory))
        found = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
        if found != expected:
            raise Unavailable(f"{url} has {expected} bytes, but {found} arrived in {directory}")

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
