"""Folders that processes share without locks: each is whole or absent, and nobody works in it.

A process works in a private folder beside them, seals it with the hashes of its files, and renames it. A reader checks
its own copy, so that no process can change or remove what another one reads. Nothing is flushed to the disk as in
runtime/atomic.py: what a power cut damages does not fit its seal, and is as good as absent.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

_SEAL = "files.json"  # written last: name -> sha256 of every other file; its time is that of the last use
_PRIVATE = ".writing-"  # begins the name of a folder in which one process works
_LEFT_BEHIND_S = 24 * 3600  # age from which such a folder belongs to a process that was killed


def private_folder(folder: Path) -> Path:
    """A new folder in ``folder`` that no other process touches.

    Raises:
        OSError: the disk refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=_PRIVATE, dir=folder))


def copy_sealed(place: Path, private: Path) -> bool:
    """Fill an empty private folder from a sealed one, and count that as its last use.

    Returns:
        False, and the folder is empty as before, where there is no whole one.

    Raises:
        OSError: it belongs to another user; the disk refuses.
    """
    try:
        shutil.copytree(place, private, symlinks=True, dirs_exist_ok=True)
        os.utime(private)  # copytree made it as old as the original: it would count as left behind
        whole = _is_whole(private)
    except (shutil.Error, FileNotFoundError):  # absent, or another process removes it just now
        whole = False
    if whole:
        with suppress(OSError):  # then it counts as older than it is
            os.utime(place / _SEAL)
    else:
        shutil.rmtree(private)
        private.mkdir(mode=0o700)
    return whole


def put_sealed(private: Path, place: Path) -> None:
    """Seal a private folder and rename it; one that stands there already stays, if it is whole.

    Raises:
        OSError: the disk refuses.
    """
    (private / _SEAL).write_text(json.dumps(_hashes(private)), encoding="utf-8")
    if place.exists() and not _is_whole(place):
        _remove(place)
    try:
        os.rename(private, place)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # another process was faster
            raise


def remove_oldest(folder: Path, kept: int) -> None:
    """Remove all sealed folders but those last used, and what processes that were killed left behind.

    Raises:
        OSError: ``folder`` can't be read.
    """
    used = {}
    for path in folder.iterdir():
        is_private = path.name.startswith(_PRIVATE)
        with suppress(OSError):  # another user's, or another process removes it as well
            used[path] = (path if is_private else path / _SEAL).stat().st_mtime
    private = {path for path in used if path.name.startswith(_PRIVATE)}
    sealed = sorted(used.keys() - private, key=used.__getitem__)
    for path in sealed[: max(0, len(sealed) - kept)]:
        with suppress(OSError):  # another process was faster
            _remove(path)
    for path in private:
        if time.time() - used[path] > _LEFT_BEHIND_S:
            shutil.rmtree(path, ignore_errors=True)


def content_hash(path: Path) -> str:
    """sha256 of a small file, hexadecimal; raises OSError as reading does."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _remove(place: Path) -> None:
    """By one rename as well: whoever copies sees a whole folder, or misses files and notices."""
    aside = place.with_name(f"{_PRIVATE}{secrets.token_hex(8)}")
    os.rename(place, aside)
    shutil.rmtree(aside, ignore_errors=True)


def _is_whole(place: Path) -> bool:
    """Whether a folder holds the bytes that were sealed."""
    try:
        return json.loads((place / _SEAL).read_text(encoding="utf-8")) == _hashes(place)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False


def _hashes(place: Path) -> dict[str, str]:
    files = sorted(path for path in place.rglob("*") if path.is_file() and path.name != _SEAL)
    return {path.relative_to(place).as_posix(): content_hash(path) for path in files}
