"""Files and folders that are whole or absent: written beside their place, flushed to the disk, then renamed.

The hash that tells whether a file holds the bytes it held.
"""

import hashlib
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mindloc.errors import MindlocError
from mindloc.runtime.process import fault_point

TEMPORARY_SUFFIX = ".tmp"


@contextmanager
def atomic_write(path: str | Path, what: str = "file", error: type[MindlocError] = MindlocError) -> Iterator[BinaryIO]:
    """A binary file to write; ``path`` holds either its old content or the complete new one, at any moment.

    Args:
        path: the folder is made when absent.
        what: prefix of the fault points passed, e.g. "weights".
        error: class raised when the disk refuses.

    Raises:
        MindlocError: (the class ``error``) the disk is full or refuses; what stood at ``path`` is untouched.
    """
    with _replacing(Path(path), what, error) as temporary, open(temporary, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def atomic_write_text(path: str | Path, text: str, error: type[MindlocError] = MindlocError) -> None:
    """Write a whole UTF-8 text file atomically."""
    with atomic_write(path, error=error) as file:
        file.write(text.encode("utf-8"))


def atomic_link(
    source: str | Path, path: str | Path, what: str = "file", error: type[MindlocError] = MindlocError
) -> None:
    """Give a finished file a second name, replacing what had it; a copy where the disk knows no hard links.

    Raises:
        MindlocError: (the class ``error``) as ``atomic_write``.
    """
    with _replacing(Path(path), what, error) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:  # FAT, some network and object stores
            shutil.copyfile(source, temporary)
        fault_point(f"{what}.mid_write")


def require_replaceable(folder: Path, files: Collection[str], what: str, error: type[MindlocError]) -> None:
    """Refuse a place that holds anything but an older folder of the same kind: putting a new one there would delete it.

    Args:
        files: names that such a folder may hold.
        what: the kind in words, e.g. "descriptor set".

    Raises:
        MindlocError: (the class ``error``) a file stands there, or a folder with other things in it; the disk refuses.
    """
    try:
        restore_folder(folder)
    except OSError as reason:
        raise error(_refusal(folder, reason)) from None
    if not folder.exists():
        return
    if not folder.is_dir():
        raise error(f"{folder} is a file; give a new folder for the {what}")
    others = sorted(path.name for path in folder.iterdir() if path.name not in files)
    if others:
        raise error(f"{folder} holds {others[0]}, so it is no {what} to replace; give a new folder")


def swap_folder(partial: Path, folder: Path, what: str = "folder") -> None:
    """Rename a finished folder to its name; an older one steps aside first, since folders can't be replaced at once.

    ``folder`` holds the older or the finished one at any moment but between two renames; ``restore_folder`` mends what
    a kill just there leaves behind. Files in ``partial`` must have been flushed to the disk.

    Raises:
        OSError: the disk refuses; the older folder is back in its place.
    """
    restore_folder(folder)
    old = _aside(folder)
    shutil.rmtree(old, ignore_errors=True)
    _sync_folder(partial)
    if folder.exists():
        folder.rename(old)
    fault_point(f"{what}.mid_swap")
    try:
        partial.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    _sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def restore_folder(folder: Path) -> None:
    """Put the older folder back where a kill between the two renames of ``swap_folder`` left none; for writers."""
    if not folder.exists() and _aside(folder).exists():
        _aside(folder).rename(folder)


def standing_folder(folder: Path) -> Path | None:
    """Where to read: the folder, or the older one while it steps aside, which nobody but a writer may move back."""
    return next((place for place in (folder, _aside(folder), folder) if place.is_dir()), None)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def remove_temporaries(folder: str | Path) -> None:
    """Delete what killed writers left behind in ``folder``."""
    for path in Path(folder).glob(f".*{TEMPORARY_SUFFIX}"):
        path.unlink(missing_ok=True)


@contextmanager
def _replacing(path: Path, what: str, error: type[MindlocError]) -> Iterator[Path]:
    """A name beside ``path`` to put a file under; on leaving, that file takes the place of ``path``."""
    temporary = path.parent / f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fault_point(f"{what}.before_write")
        yield temporary
        fault_point(f"{what}.before_rename")
        os.replace(temporary, path)
        _sync_folder(path.parent)
        fault_point(f"{what}.after_rename")
    except OSError as reason:
        raise error(_refusal(path, reason)) from None
    finally:
        if temporary.exists():
            temporary.unlink()


def _refusal(path: Path, reason: OSError) -> str:
    return (
        f"can't write {path}: {reason.strerror or reason}; free some space or choose another folder "
        "(what stood there before is untouched)"
    )


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_READ_BYTES = 1 << 22


def content_hash(path: Path) -> str:
    """sha256 of a file of any size, hexadecimal; raises OSError as reading does."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
