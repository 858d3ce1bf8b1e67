"""The lock of what has one writer at a time: an index, the sets of an extraction, an evaluation, a run.

The lock is the operating system's and ends with the process. Its file names the owner, for the messages of others.
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

LOCK = ".lock"  # name of a lock file inside its directory, suffix of one beside it
_OWNER = re.compile(r"process \d+ on host [\w.-]+")  # as a lock file names its owner
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # of some network disks
_held = threading.local()  # .paths: what this thread has locked


@contextmanager
def locked(
    path: Path,
    what: str,
    error: type[MindlocError],
    doing: str = "written",
    waits: bool = True,
    inside: bool = False,
) -> Iterator[bool]:
    """Context in which this thread alone changes ``path``; whether it waited for that. It may be entered again inside.

    The lock ends with the process, however that ends.

    Args:
        what: in words, such as "tile index".
        doing: what its owner does to it, as the end of "is being ...".
        waits: for the other process, with a line on stderr; False: raise.
        inside: the lock file is ``.lock`` in directory ``path``, which is never replaced as a whole; False:
            ``.NAME.lock`` beside ``path``.

    Raises:
        MindlocError: (the class ``error``) the lock can't be written; another process has it and ``waits`` is False.
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
    """(The lock, None where the file system has none; whether another process had it first)."""
    from filelock import FileLock, Timeout  # here, since the doctor works without it

    # where the owner before removed the file, FileLock makes a new one
    lock = FileLock(name, fallback_to_soft=False, on_acquired=_sign)
    try:
        lock.acquire(blocking=False)
        return lock, False
    except Timeout:
        says = busy(_owner_of(name))
        if not waits:
            raise error(f"{says}; wait until it ends, or stop it") from None
        sys.stderr.write(f"waiting: {says}\n")  # print may write the line's end apart, and lines of processes mix
        sys.stderr.flush()
        lock.acquire()
        return lock, True
    except OSError as reason:
        if reason.errno not in _NO_LOCKS:
            raise
        print(f"note: {name.parent} can't be locked ({reason.strerror}); write there with one process", file=sys.stderr)
        return None, False


def _owner_of(name: Path) -> str:
    """The process that a lock file names."""
    for _ in range(10):  # it signs just after it has the lock
        with suppress(OSError):  # just removed by it
            if found := _OWNER.match(name.read_text("utf-8", "replace")):
                return found[0]
        time.sleep(0.01)
    return "another process"


def _sign(descriptor: int) -> None:
    """Write who has the lock into its file; without a name, as on a full disk, it is a lock too."""
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on host {platform.node()}".encode(), 0)
