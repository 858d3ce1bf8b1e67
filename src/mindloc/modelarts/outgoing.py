"""The results of a job: a directory of the store is kept equal to the run directory while the training writes it.

Whenever the job is cut off, the store has a run that can be resumed. So each pass (``look``) sends the files in this
order: log, metrics and config; weights; ``weights_best`` and ``weights_end``; states, each of which completes a
checkpoint. Then it deletes from the store the checkpoints that the training has deleted, so that the store does not
have more of them than the run directory. Last come reports. The first failure ends a pass; the next pass starts there.
"""

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from enum import IntEnum
from fnmatch import fnmatch
from pathlib import Path

from mindloc.errors import StoreError
from mindloc.modelarts.stores import Store, Unavailable, join, with_retries
from mindloc.runtime.checkpoint import STATE_SUFFIX, WEIGHTS_SUFFIX

CHECKPOINTS, REPORTS = "checkpoints/", "reports/"
NEIGHBORS = "neighbors/"  # descriptors of a running search; its result is in the checkpoints


class Outgoing:
    """Sends what is new in a run directory, once (``look``) or repeatedly in a thread (``start``, ``finish``).

    Args:
        logs: a second directory, whose files are sent to ``logs_name`` under ``url``.
        every_s: seconds between the thread's passes.
    """

    def __init__(self, store: Store, url: str, run: Path, logs: Path, logs_name: str, every_s: float):
        self.store, self.url, self.run, self.every_s = store, url, run, every_s
        self.logs, self.logs_name = logs, logs_name
        self._sent: dict[str, tuple[int, ...]] = {}  # name -> inode, size and time of the file when it was sent
        self._put_off: set[str] = set()  # names that failed once; sent after the others of their kind
        self._in_store = {name for name in with_retries(lambda: store.names(url)) if is_numbered(name)}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look_repeatedly, name="results out", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        """Send all that is left, including unfinished reports.

        Raises:
            StoreError: something could not be sent; the message names it.
        """
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        with_retries(self._last_look)

    def look(self, last: bool = False) -> list[str]:
        """Send what has changed since it was sent, up to the first failure.

        Args:
            last: continue after a failure, and send the files of unfinished reports too.

        Returns:
            Names of the files that failed, and of those that had to wait for them.
        """
        found = find_files(self.run, unfinished_reports=last)
        found |= {f"{self.logs_name}/{path.relative_to(self.logs).as_posix()}": path for path in walk(self.logs)}
        names = sorted(found, key=lambda name: (kind_of(name), name in self._put_off, name))
        states = [name for name in names if kind_of(name) == Kind.STATE]
        failed = self._send_each([name for name in names if kind_of(name) < Kind.STATE], found, last)
        if failed:  # a state without its weights and metrics would be a damaged checkpoint
            failed += [name for name in states if name not in self._sent]
        else:
            failed += self._send_each(states, found, last)
        if states and not failed:
            failed += self._drop(set(found))
        if last or not failed:
            failed += self._send_each([name for name in names if kind_of(name) > Kind.STATE], found, last)
        return failed

    def _look_repeatedly(self) -> None:
        while not self._stop.wait(self.every_s):
            self.look()

    def _last_look(self) -> None:
        missing = self.look(last=True)
        if missing:
            some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise Unavailable(f"{len(missing)} files have not reached {self.url} ({some})")

    def _send_each(self, names: Sequence[str], found: dict[str, Path], continues: bool) -> list[str]:
        """Send the files in this order and return the names of those that failed."""
        failed: list[str] = []
        for name in names:
            if not self._send(name, found[name]):
                failed.append(name)
                if not continues:
                    break
        return failed

    def _send(self, name: str, path: Path) -> bool:
        """Send one file unless it was sent already; False if that failed."""
        try:
            state = _state_of(path)
            if self._sent.get(name) == state:
                return True
            with tempfile.TemporaryDirectory(prefix="outgoing_", dir=self.run.parent) as aside:
                self._send_copy(set_aside(path, name, Path(aside)), name)
        except FileNotFoundError:  # deleted by the training meanwhile
            return True
        except (StoreError, OSError) as error:
            self._put_off.add(name)
            print(f"warning: {name} is not sent yet: {error}", flush=True)
            return False
        self._sent[name] = state
        self._put_off.discard(name)
        if is_numbered(name):
            self._in_store.add(name)
        if kind_of(name) == Kind.STATE:
            print(f"sent: {Path(name).name.removesuffix(STATE_SUFFIX)} is complete in {self.url}", flush=True)
        return True

    def _send_copy(self, copy: Path, name: str) -> None:
        url, size = join(self.url, name), copy.stat().st_size
        self.store.send(copy, url)
        arrived = self.store.size(url)
        if arrived != size:
            raise Unavailable(f"{url} has {arrived} bytes, but {size} were sent")

    def _drop(self, found: set[str]) -> list[str]:
        """Delete checkpoints from the store that the run directory no longer has, states first; returns what failed.

        Delayed if a file that was found was deleted meanwhile, since the file that replaces it is not sent yet.
        """
        if any(name not in self._sent for name in found if is_numbered(name)):
            return []
        for name in sorted(self._in_store - found, key=lambda name: not name.endswith(STATE_SUFFIX)):
            try:
                self.store.remove(join(self.url, name))
            except StoreError as error:
                print(f"warning: {name} is not deleted yet: {error}", flush=True)
                return [name]
            self._in_store.discard(name)
        return []


class Kind(IntEnum):
    """Kinds of files, in the order in which they are sent."""

    REST = 0  # config, log, metrics
    WEIGHTS = 1
    NAMED = 2  # weights_best, weights_end
    STATE = 3  # completes a checkpoint
    REPORT = 4


def kind_of(name: str) -> Kind:
    """Kind of a file by its name in the run directory."""
    if name.startswith(REPORTS):
        return Kind.REPORT
    if not name.startswith(CHECKPOINTS):
        return Kind.REST
    if name.endswith(STATE_SUFFIX):
        return Kind.STATE
    return Kind.WEIGHTS if is_numbered(name) else Kind.NAMED


def is_numbered(name: str) -> bool:
    """Whether a file belongs to a numbered checkpoint, which the training may delete, unlike weights_best."""
    return fnmatch(name, f"{CHECKPOINTS}weights_e[0-9]*{WEIGHTS_SUFFIX}")


def _tag(name: str) -> str:
    """The directory of a report's file: ``e3`` for ``reports/e3/query/rows.jsonl``."""
    return name.split("/")[1]


def find_files(run: Path, unfinished_reports: bool) -> dict[str, Path]:
    """The files that may be sent now: name -> path.

    Args:
        unfinished_reports: True: include the files of an evaluation that has not written its report.json yet.
    """
    # states are listed first, so that the weights of every listed state are found too
    states = {f"{CHECKPOINTS}{path.name}" for path in (run / CHECKPOINTS).glob(f"*{STATE_SUFFIX}")}
    found = {}
    for path in walk(run):
        name = path.relative_to(run).as_posix()
        if name.startswith(NEIGHBORS):
            continue
        kind = kind_of(name)
        if kind == Kind.REPORT and not unfinished_reports and not (run / REPORTS / _tag(name) / "report.json").exists():
            continue
        if kind != Kind.STATE or name in states:
            found[name] = path
    return found


def walk(directory: Path) -> Iterator[Path]:
    """Yield every file below a directory, except hidden ones: locks, and files that are being written."""
    for inner, directories, names in os.walk(directory):  # skips a directory that is deleted meanwhile
        directories[:] = [name for name in directories if not name.startswith(".")]
        yield from (Path(inner) / name for name in names if not name.startswith("."))


def set_aside(path: Path, name: str, aside: Path) -> Path:
    """A hard link to a checkpoint, which the training may delete but never changes; a copy of any other file."""
    copy = aside / path.name
    if name.startswith(CHECKPOINTS):
        with suppress(OSError):  # a disk without hard links
            os.link(path, copy)
            return copy
    shutil.copyfile(path, copy)
    return copy


def _state_of(path: Path) -> tuple[int, ...]:
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
