"""Files and directories that are whole or absent, files read as JSON or refused in one line, and the hash of a file.

A file is written beside its place, flushed to the disk, and takes its name by a rename. At any moment a reader
finds the older content or the complete new one.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from mindloc.errors import MindlocError, one_line
from mindloc.runtime.process import fault_point

TEMPORARY_SUFFIX = ".tmp"
_READ_BYTES = 1 << 22
_JSON_KINDS: dict[type, str] = {dict: "an object", list: "a list"}


@contextmanager
def atomic_write(path: str | Path, what: str = "file", error: type[MindlocError] = MindlocError) -> Iterator[BinaryIO]:
    """A binary file to write; ``path`` is either its old content or the complete new one, at any moment.

    Args:
        path: the directory is made when absent.
        what: prefix of the fault points passed, e.g. "weights".
        error: class raised when the disk refuses.

    Raises:
        MindlocError: (the class ``error``) the disk is full or refuses; what was at ``path`` is untouched.
    """
    with replacing(path, what, error) as temporary, synced(temporary) as file:
        yield file


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
    with replacing(path, what, error) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:  # FAT, some network and object stores
            shutil.copyfile(source, temporary)
        fault_point(f"{what}.mid_write")


@contextmanager
def replacing(path: str | Path, what: str = "file", error: type[MindlocError] = MindlocError) -> Iterator[Path]:
    """A name beside ``path`` for whoever writes files by himself; on leaving, that file takes the place of ``path``.

    Raises:
        MindlocError: (the class ``error``) as ``atomic_write``.
    """
    path = Path(path)
    temporary = path.parent / f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}"
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


@contextmanager
def writing(what: str | Path, error: type[MindlocError]) -> Iterator[None]:
    """Turn what the disk says inside into one line, an ``error`` that names what was to be written."""
    try:
        yield
    except OSError as reason:
        raise error(
            f"can't write {what}: {reason.strerror or reason}; free some space or choose another directory "
            "(what was there before is untouched)"
        ) from None


@contextmanager
def synced(path: Path) -> Iterator[BinaryIO]:
    """A new binary file whose content is on the disk itself when the block is left."""
    with open(path, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def remove_temporaries(directory: str | Path) -> None:
    """Delete the files that killed writers left behind in ``directory``."""
    for path in Path(directory).glob(f".*{TEMPORARY_SUFFIX}"):
        path.unlink(missing_ok=True)


@contextmanager
def atomic_directory(directory: Path) -> Iterator[Path]:
    """A directory to fill beside ``directory``, whose name it takes on leaving; an older one there is replaced.

    ``directory`` is the older or the finished one at any moment but between two renames. What a kill just there leaves
    behind, ``existing_directory`` reads and the next writer restores. The files in it must be flushed, see ``synced``.

    Raises:
        OSError: the disk is full or refuses (see ``writing``); the older directory is in its place.
    """
    with scratch_directory(directory) as partial:
        yield partial
        _swap(partial, directory)


def dated_directory(parent: Path) -> Path:
    """``parent/MMDDhhmmss``, new; those of the same second get _2, _3, ...; raises OSError as making it does."""
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
    """An empty directory beside ``path``, gone afterwards, whatever happens; raises OSError as making it does."""
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
    try:
        partial.mkdir(parents=True)
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def require_replaceable(directory: Path, files: Collection[str], what: str, error: type[MindlocError]) -> None:
    """Refuse a place that contains anything but an older directory of the same kind: a new one there would delete it.

    Args:
        files: names that such a directory may contain.
        what: the kind in words, e.g. "descriptor set".

    Raises:
        MindlocError: (the class ``error``) it is a file, or a directory with other things in it; the disk refuses.
    """
    with writing(f"{what} {directory}", error):
        _restore(directory)
    if not directory.exists():
        return
    if not directory.is_dir():
        raise error(f"{directory} is a file; give a new directory for the {what}")
    others = sorted(path.name for path in directory.iterdir() if path.name not in files)
    if others:
        raise error(f"{directory} contains {others[0]}, so it is no {what} to replace; give a new directory")


def existing_directory(directory: Path) -> Path | None:
    """Where to read: the directory, or the older one while it steps aside, which nobody but a writer may move back."""
    return next((place for place in (directory, _aside(directory), directory) if place.is_dir()), None)


def read_json(
    path: Path,
    error: type[MindlocError],
    what: str,
    way_out: str,
    kind: type = dict,
    most_bytes: int | None = None,
) -> Any:
    """What a JSON file contains.

    Args:
        error: class raised when it can't be read.
        what: the file in words, e.g. "rank table"; may be empty.
        way_out: what to do then, the end of the line.
        kind: dict or list, what it must contain at the top.
        most_bytes: a file of more is refused unread.

    Raises:
        MindlocError: (the class ``error``) in one line: absent, not readable, too large, not JSON, of another kind.
    """
    where = f"{what} {path}".lstrip()
    try:
        size = path.stat().st_size
        if most_bytes is not None and size > most_bytes:
            raise error(f"{where} has {size} bytes, expected {most_bytes} at most; {way_out}")
        value = json.loads(path.read_bytes())
    except OSError as reason:
        raise error(f"{where} can't be read: {reason.strerror or reason}; {way_out}") from None
    except (ValueError, RecursionError) as reason:
        raise error(f"{where} can't be read as JSON ({one_line(reason)[:120]}); {way_out}") from None
    if not isinstance(value, kind):
        raise error(f"{where} contains a JSON {type(value).__name__}, expected {_JSON_KINDS[kind]}; {way_out}")
    return value


def read_json_lines(path: Path, error: type[MindlocError], way_out: str) -> Iterator[tuple[str, Any]]:
    """(where, value) of each line of a file of JSON lines; ``where`` names file and line, for messages.

    Args:
        error, way_out: as ``read_json``.

    Raises (while iterating):
        MindlocError: (the class ``error``) in one line: absent, not readable, a line that is not JSON.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as reason:
        raise error(f"{path} can't be read ({one_line(reason)[:120]}); {way_out}") from None
    # not splitlines(): JSON leaves the ends of lines that only Unicode knows in names
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), 1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise error(f"{path} line {number} is not JSON: {line[:60]!r}; {way_out}") from None
        yield f"{path} line {number}", value


def file_sha256(path: Path, error: type[MindlocError], what: str = "") -> str:
    """sha256 of a file of any size, hexadecimal.

    Args:
        error, what: as ``read_json``.

    Raises:
        MindlocError: (the class ``error``) in one line: absent or not readable.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
    except OSError as reason:
        where = f"{what} {path}".lstrip()
        raise error(f"{where} can't be read: {reason.strerror or reason}; check the path and its permissions") from None
    return digest.hexdigest()


def _swap(partial: Path, directory: Path) -> None:
    """Rename a finished directory to its name; an older one is moved aside first: no directory replaces another."""
    _restore(directory)
    old = _aside(directory)
    shutil.rmtree(old, ignore_errors=True)
    _sync_directory(partial)
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
    """Put the older directory back where a kill between the two renames left none."""
    if not directory.exists() and _aside(directory).exists():
        _aside(directory).rename(directory)


def _aside(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.old")


def _sync_directory(directory: Path) -> None:
    """Make the rename itself survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
