"""An object store that is a folder, where a url is a path."""

import shutil
from pathlib import Path

from mindloc.modelarts.object_store import Unavailable, arriving, folder_bytes


class FolderStore:
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
        try:
            with arriving(path) as temporary:
                shutil.copyfile(source, temporary)
        except OSError as error:
            raise Unavailable(f"can't copy {source} to {path}: {error.strerror or error}") from None
