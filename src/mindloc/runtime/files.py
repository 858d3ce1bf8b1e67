"""Atomic files and directories.

A file is written under a temporary name beside its path, flushed to disk and renamed. At any moment a reader finds the
old content or the complete new content. For a link, the target of the link is written, not the link itself.
"""

import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from mindloc.errors import MindlocError
from mindloc.runtime.lock import locked
from mindloc.runtime.process import fault_point, unfinished

TEMPORARY_SUFFIX = ".tmp"
_OWN_NAME = r"\d+-[0-9a-f]{8}"  # as _own_name gives it
ESCAPED = "backslashreplace"  # half of a surrogate pair, of a name that is not UTF-8, as JSON writes it: \\udc80
Read = TypeVar("Read")


@contextmanager
def atomic_write(path: str | Path, what: str = "file", error: type[MindlocError] = MindlocError) -> Iterator[BinaryIO]:
    """Context with a binary file to write; at any moment ``path`` has its old content or the complete new content.

    Args:
        path: a missing directory is created.
        what: prefix of the names of the fault points, such as "weights".
        error: class of the exception for a failed write.

    Raises:
        MindlocError: (raised as the class ``error``) the disk is full or not writable; ``path`` is unchanged.
    """
    with replacing(path, what, error) as temporary, synced(temporary) as file:
        yield file


def atomic_write_text(path: str | Path, text: str, error: type[MindlocError] = MindlocError) -> None:
    """Write a whole UTF-8 text file atomically."""
    with atomic_write(path, error=error) as file:
        file.write(text.encode("utf-8", ESCAPED))


def atomic_link(
    source: str | Path, path: str | Path, what: str = "file", error: type[MindlocError] = MindlocError
) -> None:
    """Give a complete file a second name, replacing an older file of that name; copies it if hard links don't work.

    Raises:
        MindlocError: (raised as the class ``error``) for the reasons given in ``atomic_write``.
    """
    with replacing(path, what, error) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:  # FAT, some network and object stores
            shutil.copyfile(source, temporary)
        fault_point(f"{what}.mid_write")


def followed(path: Path) -> Path:
    """The target of a symbolic link, relative to the current directory if ``path`` is; any other path unchanged."""
    return path.parent / path.readlink() if path.is_symlink() else path


@contextmanager
def replacing(path: str | Path, what: str = "file", error: type[MindlocError] = MindlocError) -> Iterator[Path]:
    """Context with a temporary path beside ``path`` for the caller to write; on leaving, it is renamed to ``path``.

    Raises:
        MindlocError: (raised as the class ``error``) for the reasons given in ``atomic_write``.
    """
    path = output_file(path, error)
    temporary = path.parent / f".{path.name}.{_own_name()}{TEMPORARY_SUFFIX}"
    with writing(path, error):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fault_point(f"{what}.before_write")
            yield temporary
            fault_point(f"{what}.before_rename")
            os.replace(temporary, path)
            _sync_directory(path.parent)
            fault_point(f"{what}.after_rename")
        finally:
            if temporary.exists():
                temporary.unlink()


def output_file(path: str | Path, error: type[MindlocError]) -> Path:
    """The file to write: the target if ``path`` is a link, else ``path`` itself.

    Raises:
        MindlocError: (raised as the class ``error``) the path is a directory, a device or a pipe, which a file must not
            replace.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        kind = "a directory" if target.is_dir() else "a device or a pipe"
        raise error(f"{path} is {kind}; give the path of a file")
    return target


def _own_name() -> str:
    """A part of a temporary name that no other process uses, on this machine or another one."""
    return f"{os.getpid()}-{secrets.token_hex(4)}"


@contextmanager
def writing(what: str | Path, error: type[MindlocError]) -> Iterator[None]:
    """Context that turns an OSError into a one-line ``error``, which names the file that could not be written."""
    try:
        yield
    except OSError as reason:
        raise error(
            f"can't write {what}: {reason.strerror or reason}; free some space or choose another directory"
        ) from None


@contextmanager
def synced(path: Path) -> Iterator[BinaryIO]:
    """Context with a new binary file, whose content is flushed to disk (fsync) on leaving."""
    with open(path, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def remove_temporaries(directory: str | Path) -> None:
    """Delete the temporary files that killed processes left in ``directory``."""
    for path in Path(directory).glob(f".*{TEMPORARY_SUFFIX}"):
        path.unlink(missing_ok=True)


@contextmanager
def atomic_directory(
    directory: Path,
    what: str = "directory",
    error: type[MindlocError] = MindlocError,
    check: Callable[[Path], None] = lambda directory: None,
) -> Iterator[Path]:
    """Context with a temporary directory for the caller to fill; on leaving, it replaces ``directory``.

    At any moment ``directory`` is the old or the complete new one, except between two renames. If the process is killed
    there, ``existing_directory`` finds the old one and the next writer restores it. The caller must flush the files in
    it, see ``synced``. One process at a time can be in this context.

    Args:
        what, error: arguments of ``locked``.
        check: raises an error if ``directory`` must not be replaced, see ``require_replaceable``.

    Raises:
        MindlocError: for the reasons given in ``locked``, or raised by ``check``.
        OSError: the disk is full or not writable (see ``writing``); the old directory is unchanged.
    """
    directory = Path(os.path.realpath(directory))
    with locked(directory, what, error):
        check(directory)
        with scratch_directory(directory) as partial:
            yield partial
            _swap(partial, directory)


def dated_directory(parent: Path) -> Path:
    """Make a new directory ``parent/MMDDhhmmss``, with _2, _3, ... if several start within a second.

    Raises:
        OSError: the directory can't be made.
    """
    parent.mkdir(parents=True, exist_ok=True)
    stamp, attempt = time.strftime("%m%d%H%M%S"), 1
    directory = parent / stamp
    while True:
        try:
            directory.mkdir()
        except FileExistsError:
            attempt += 1
            directory = parent / f"{stamp}_{attempt}"
        else:
            return directory


@contextmanager
def scratch_directory(path: Path) -> Iterator[Path]:
    """Context with an empty directory beside ``path``, which is always removed on leaving.

    The caller must have the lock of ``path``: older directories of this kind were left by killed processes and are
    removed.

    Raises:
        OSError: the directory can't be made.
    """
    path = Path(os.path.realpath(path))
    remove_leftovers(path)
    partial = path.with_name(f".{path.name}.{_own_name()}.partial")
    with unfinished(partial):
        try:
            partial.mkdir(parents=True)
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def remove_leftovers(path: Path) -> None:
    """Delete what killed processes left of ``path``, whose lock the caller has; never that of another's name."""
    own = re.compile(rf"\.{re.escape(path.name)}\.{_OWN_NAME}\.(partial|tmp)")
    for left in path.parent.iterdir() if path.parent.is_dir() else ():
        if own.fullmatch(left.name):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def require_replaceable(directory: Path, files: Collection[str], what: str, error: type[MindlocError]) -> None:
    """Check that ``directory`` is absent or has an older result of the same kind: replacing it deletes its content.

    Args:
        files: names that a directory of this kind may contain.
        what: the kind in words, such as "descriptor set".

    Raises:
        MindlocError: (raised as the class ``error``) the path is a file, the directory contains other files, or the
            disk is not writable.
    """
    directory = Path(os.path.realpath(directory))
    with writing(f"{what} {directory}", error):
        _restore(directory)
    if not directory.exists():
        return
    if not directory.is_dir():
        raise error(f"{directory} is a file; give a new directory for the {what}")
    others = sorted(path.name for path in directory.iterdir() if path.name not in files)
    if others:
        raise error(f"{directory} contains {others[0]}, so it is not a {what} to replace; give a new directory")


def existing_directory(directory: Path) -> Path | None:
    """The path to read: ``directory``, or the renamed old one while a writer replaces it; None if there is neither.

    Only a writer may rename the old directory back.
    """
    directory = Path(os.path.realpath(directory))
    # checked several times, as writers may rename the directory between two checks
    return next((place for place in (directory, _aside(directory)) * 3 if place.is_dir()), None)


def read_unswapped(directory: Path, read: Callable[[Path], Read], what: str, error: type[MindlocError]) -> Read:
    """The result of ``read`` on a directory, read again if the directory was replaced while it was being read.

    Args:
        read: called with the path to read from, see ``existing_directory``.
        what, error: arguments of ``locked``.

    Raises:
        MindlocError: (raised as the class ``error``) the directory is missing, or ``read`` fails.
    """
    failed_in = None
    while True:
        place = existing_directory(directory)
        if place is None:
            raise error(f"{what} {directory} is missing; check the path, or make it first")
        version = _version(place)
        if version is None:
            continue  # just renamed
        try:
            found = read(place)
        except (error, FileNotFoundError) as problem:
            if version == failed_in and isinstance(problem, FileNotFoundError):
                raise error(f"{what} {directory} lacks {problem.filename}; make it again") from None
            if version == failed_in:
                raise
            failed_in = version  # try once more: it may have been renamed during the attempt
        else:
            if _version(existing_directory(directory)) == version:
                return found


def _version(place: Path | None) -> tuple[Path, int, int] | None:
    if place is None:
        return None
    try:
        found = place.stat()
    except FileNotFoundError:
        return None
    return place, found.st_ino, found.st_mtime_ns


def _swap(partial: Path, directory: Path) -> None:
    """Rename ``partial`` to ``directory``, and before that an older ``directory``, which a rename can't replace."""
    _restore(directory)
    old = _aside(directory)
    shutil.rmtree(old, ignore_errors=True)
    for inner in (*(path for path in partial.iterdir() if path.is_dir()), partial):
        _sync_directory(inner)
    if directory.exists():
        directory.rename(old)
    fault_point("directory.mid_swap")
    try:
        partial.rename(directory)
    except OSError:
        if old.exists():
            old.rename(directory)
        raise
    _sync_directory(directory.parent)
    shutil.rmtree(old, ignore_errors=True)


def _restore(directory: Path) -> None:
    """Rename the old directory back if a process was killed between the two renames."""
    if not directory.exists() and _aside(directory).exists():
        _aside(directory).rename(directory)


def _aside(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.old")


def _sync_directory(directory: Path) -> None:
    """Flush a rename to disk, so that it survives a power failure."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
