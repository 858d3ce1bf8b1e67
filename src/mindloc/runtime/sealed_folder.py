"""Folders that processes share without waiting: each is whole or absent, and nobody works in it.

A process works in a private folder beside them, seals it with the hashes of its files, and renames it. A reader checks
its own copy, so that no process can change or remove what another one reads. Nothing is flushed to the disk as in
runtime/atomic.py: what a power cut damages does not fit its seal, and is as good as absent. A seal is no signature, who
writes the files writes it: what another user could have written is refused.
"""

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from mindloc.runtime.file_hash import content_hash
from mindloc.runtime.user_cache import why_not_run

_SEAL = "files.json"  # written last: name -> sha256 of every other file; its time is that of the last use
_PRIVATE = ".writing-"  # begins the name of a folder in which one process works
_LEFT_BEHIND_S = 24 * 3600  # age from which such a folder that nobody holds belongs to a process that was killed


def private_folder(folder: Path) -> Path:
    """A new folder in ``folder`` that no other process touches as long as this one lives.

    Raises:
        OSError: ``folder`` is not this user's alone; the disk refuses.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _require_ours(folder)
    private = Path(tempfile.mkdtemp(prefix=_PRIVATE, dir=folder))
    _hold(private)
    return private


def renew_private(private: Path) -> None:
    """Make a private folder empty, also one that was renamed or removed.

    Raises:
        OSError: the disk refuses.
    """
    shutil.rmtree(private, ignore_errors=True)
    private.mkdir(mode=0o700)
    _hold(private)


def copy_sealed(place: Path, private: Path) -> bool:
    """Fill an empty private folder from a sealed one, and count that as its last use.

    Returns:
        False, and the folder is empty as before, where there is no whole one.

    Raises:
        OSError: it is not this user's alone; the disk refuses.
    """
    try:
        _require_ours(place)
        shutil.copytree(place, private, symlinks=True, dirs_exist_ok=True)
        os.utime(private)  # copytree made it as old as the original: it would count as left behind
        whole = _is_whole(private)
    except (shutil.Error, FileNotFoundError):  # absent, or another process removes it just now
        whole = False
    if whole:
        with suppress(OSError):  # then it counts as older than it is
            os.utime(place / _SEAL)
    else:
        renew_private(private)
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


def remove_oldest(folder: Path, kept: int, names: re.Pattern) -> None:
    """Remove all sealed folders but those last used.

    Args:
        names: of sealed folders, in full; what is called otherwise is not ours.

    Raises:
        OSError: ``folder`` can't be read.
    """
    used = {}
    for path in folder.iterdir():
        if names.fullmatch(path.name):
            with suppress(OSError):  # no sealed one, or another process removes it as well
                used[path] = (path / _SEAL).stat().st_mtime
    sealed = sorted(used, key=used.__getitem__)
    for path in sealed[: max(0, len(sealed) - kept)]:
        with suppress(OSError):  # another process was faster
            _remove(path)


def remove_left_behind(folder: Path) -> None:
    """Remove the private folders of processes that were killed, a day later.

    Raises:
        OSError: ``folder`` can't be read.
    """
    for path in folder.iterdir():
        if path.name.startswith(_PRIVATE):
            with suppress(OSError):  # another user's, or another process removes it as well
                if time.time() - path.stat().st_mtime > _LEFT_BEHIND_S and not _is_held(path):
                    shutil.rmtree(path, ignore_errors=True)


def _require_ours(folder: Path) -> None:
    if reason := why_not_run(folder):
        raise PermissionError(errno.EPERM, reason, str(folder))


def _hold(private: Path) -> None:
    """Until this process ends, however it does. A disk without locks has the folder's age alone to tell."""
    with suppress(OSError):
        fcntl.flock(os.open(private, os.O_RDONLY), fcntl.LOCK_SH | fcntl.LOCK_NB)


def _is_held(private: Path) -> bool:
    descriptor = os.open(private, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    finally:
        os.close(descriptor)
    return False


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
