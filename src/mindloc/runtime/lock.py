"""Locks for what may have one writer at a time: an index, the sets of an extraction, an evaluation, a run.

The operating system releases the lock when its process ends. The lock file names the owner, for messages of others.
"""

import errno
import os
import platform
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mindloc.errors import MindlocError
from mindloc.runtime.process import unfinished

if TYPE_CHECKING:
    from filelock import FileLock

LOCK = ".lock"  # name of a lock file inside the locked directory, suffix of one beside it
_OWNER = re.compile(r"process \d+ on host [\w.-]+")  # content of a lock file
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # errors of network disks without locks
_held = threading.local()  # .paths: the paths that this thread has locked


@contextmanager
def locked(
    path: Path,
    what: str,
    error: type[MindlocError],
    doing: str = "written",
    waits: bool = True,
    inside: bool = False,
) -> Iterator[bool]:
    """Context in which only this thread changes ``path``; its value is whether it waited for another process.

    The same thread may enter it again inside. The lock ends with the process, even if that is killed.

    Args:
        what: the kind of ``path`` in words, such as "tile index".
        doing: what the owner does to ``path``, as the end of "is being ...".
        waits: True: wait for another owner, with a line on stderr. False: raise an error.
        inside: True: the lock file is ``.lock`` in the directory ``path``, which is never replaced as a whole. False:
            it is ``.NAME.lock`` beside ``path``.

    Raises:
        MindlocError: (raised as the class ``error``) the lock can't be written, or another process has it and ``waits``
            is False.
    """
    path = Path(os.path.realpath(path))
    held: set[Path] = _held.__dict__.setdefault("paths", set())
    if path in held:
        yield False
        return
    name = path / LOCK if inside else path.with_name(f".{path.name}{LOCK}")
    try:
        name.parent.mkdir(parents=True, exist_ok=True)
        lock, waited = _lock(name, lambda owner: f"{what} {path} is being {doing} by {owner}", error, waits)
    except OSError as reason:
        raise error(
            f"can't write {what} {path}: {reason.strerror or reason}; free some space or choose another directory"
        ) from None
    held.add(path)
    try:
        with unfinished(name):
            yield waited
    finally:
        held.remove(path)
        if lock:
            with suppress(OSError):  # its directory may be gone
                name.unlink()
            lock.release()


def _lock(
    name: Path, busy: Callable[[str], str], error: type[MindlocError], waits: bool
) -> "tuple[FileLock | None, bool]":
    """(the lock, or None if the file system does not support locks; whether another process had it first)."""
    from filelock import FileLock, Timeout  # here, since the doctor works without it

    # if the previous owner removed the file, FileLock makes a new one
    lock = FileLock(name, fallback_to_soft=False, on_acquired=_sign)
    try:
        lock.acquire(blocking=False)
        return lock, False
    except Timeout:
        reason = busy(_owner_of(name))
        if not waits:
            raise error(f"{reason}; wait until it ends, or stop it") from None
        # print may write the end of the line separately, and then the lines of several processes mix
        sys.stderr.write(f"waiting: {reason}\n")
        sys.stderr.flush()
        lock.acquire()
        return lock, True
    except OSError as failure:
        if failure.errno not in _NO_LOCKS:
            raise
        print(f"note: {name.parent} can't be locked ({failure.strerror}); use one writer at a time", file=sys.stderr)
        return None, False


def _owner_of(name: Path) -> str:
    """The process named in a lock file; "another process" if none is named."""
    for _ in range(10):  # the owner writes its name just after it gets the lock
        with suppress(OSError):  # the owner has just removed the file
            if found := _OWNER.match(name.read_text("utf-8", "replace")):
                return found[0]
        time.sleep(0.01)
    return "another process"


def _sign(descriptor: int) -> None:
    """Write the owner into the lock file; if that fails, as on a full disk, the lock is still valid."""
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on host {platform.node()}".encode(), 0)
