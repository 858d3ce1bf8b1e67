"""The object store through moxing, which ModelArts' own images have.

The package ``moxing`` on PyPI is somebody else's and has no ``file``; it is never used.
"""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from mindloc.errors import StoreError, one_line
from mindloc.modelarts.object_store import Unavailable, arriving, folder_bytes


def find_moxing() -> ModuleType | None:
    """Huawei's moxing; None where it is missing or another package has its name."""
    try:
        moxing = importlib.import_module("moxing")
    except ImportError:
        return None
    return moxing if hasattr(moxing, "file") else None


class MoxingStore:
    """``mox.file``: single objects by ``copy``, folders by ``copy_parallel``."""

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
        # without recursive=True moxing calls every folder 0 bytes large
        return int(self._call("get_size", url, recursive=True)) if self._call("exists", url) else 0

    def fetch(self, url: str, path: Path) -> None:
        with arriving(path) as temporary:
            self._call("copy", url, str(temporary))

    def fetch_folder(self, url: str, folder: Path) -> None:
        wanted = self.total_bytes(url)
        if not wanted:
            raise StoreError(f"{url} holds nothing; name the folder that the data lies in")
        self._call("copy_parallel", url, str(folder))
        found = folder_bytes(folder)
        if found != wanted:
            raise Unavailable(f"{url} has {wanted} bytes and {found} arrived in {folder}")

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
