"""The input data of a job: copies on the server's own disk, created once for all its processes.

The first process that gets the lock copies; the kernel frees the lock when that process ends, for whatever reason. A
copy is written under a temporary name and renamed when it is complete; a note beside it records its url and size.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from mindloc.errors import StoreError
from mindloc.modelarts.outgoing import CHECKPOINTS
from mindloc.modelarts.stores import DirectoryStore, Store, build_store, join, with_retries
from mindloc.reading import read_json
from mindloc.runtime.checkpoint import BEST_WEIGHTS, END_WEIGHTS, WEIGHTS_SUFFIX
from mindloc.runtime.files import atomic_directory, atomic_write_text, writing
from mindloc.runtime.lock import locked

SCRATCH_DISK = Path("/cache")


def bring_checkpoint(url: str | None, train_url: str, scratch: Path) -> tuple[Path | None, Path | None]:
    """Copy what ``checkpoint_url`` names: (weights to start from, run to resume), each None if there is none.

    Raises:
        StoreError: the url names neither.
    """
    if url is None:
        return None, None
    store = build_store(url)
    if with_retries(lambda: store.size(join(url, "config.yaml"))) is not None:
        return None, bring_directory(store, url, scratch, start_id())
    if with_retries(lambda: store.size(url)) is not None:
        return bring_file(store, url, scratch, start_id()), None
    if _same(url, train_url) and not with_retries(lambda: store.names(url)):
        print(f"{url} is empty: this is the first start of a job that may be started again", flush=True)
        return None, None
    raise StoreError(
        f"checkpoint_url {url} is neither a weights file nor a run directory, which has a config.yaml; check the url, "
        "or leave it out to train from scratch"
    )


def weights_url(url: str) -> str:
    """The url of a weights file: ``url`` itself, or in a run directory its best weights, else its end weights.

    Raises:
        StoreError: there is no such file.
    """
    store = build_store(url)
    of_a_run = (f"{CHECKPOINTS}{name}{WEIGHTS_SUFFIX}" for name in (BEST_WEIGHTS, END_WEIGHTS))
    for candidate in (url, *(join(url, name) for name in of_a_run)):
        if with_retries(lambda candidate=candidate: store.size(candidate)) is not None:
            return candidate
    raise StoreError(
        f"checkpoint_url {url} is neither a weights file nor a directory with best or end weights in checkpoints/; "
        "give a weights file, or the train_url of a training job"
    )


def require_own_place(url: str, checkpoint_url: str | None) -> None:
    """Check that no other run would be overwritten."""
    store = build_store(url)
    if _same(url, checkpoint_url) or with_retries(lambda: store.size(join(url, "config.yaml"))) is None:
        return
    raise StoreError(
        f"train_url {url} contains a run; give a new directory, or continue that run: --checkpoint_url {url}"
    )


def _same(url: str, other: str | None) -> bool:
    return other is not None and url.rstrip("/") == other.rstrip("/")


def find_scratch(requested: str | None, environment: Mapping[str, str]) -> Path:
    """Create mindloc's own directory for a job's copies and results, on the disk that a job may fill.

    Args:
        requested: parent directory; None: /cache if it exists, else MA_JOB_DIR, else the directory of temporary files.

    Raises:
        StoreError: the directory can't be created.
    """
    choices = [Path(requested)] if requested else [SCRATCH_DISK, Path(environment.get("MA_JOB_DIR") or SCRATCH_DISK)]
    usable = (path for path in choices if requested or (path.is_dir() and os.access(path, os.W_OK)))
    directory = next(usable, Path(tempfile.gettempdir())).absolute() / f"mindloc_{os.getuid()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"can't create the working directory {directory}: {error.strerror}; set --scratch") from None
    return directory


def start_id() -> str:
    """A name for this start of the job, which all processes that the platform started with this one share.

    It consists of their parent's process id and start time, since ids start at 1 again in a restarted container.
    """
    parent, started = os.getppid(), 0.0
    with suppress(psutil.NoSuchProcess):  # 0, a parent outside this container
        started = psutil.Process(parent).create_time()
    return f"{parent}-{started:.2f}"


def bring_directory(store: Store, url: str, scratch: Path, start: str) -> Path:
    """The directory on this server with a copy of everything under ``url``; a local path is returned as it is.

    Args:
        start: name of this start of the job; the copy of an earlier start is used again if its size is unchanged.

    Raises:
        StoreError: the store fails, the disk is too small, or the process that was copying has failed.
    """
    if isinstance(store, DirectoryStore):
        if not Path(url).is_dir():
            raise StoreError(f"{url} is not a directory; give the directory with the data that the job reads")
        return Path(url).absolute()
    return _bring(
        url, scratch, start, lambda: store.total_bytes(url), lambda partial: store.fetch_directory(url, partial)
    )


def bring_file(store: Store, url: str, scratch: Path, start: str) -> Path:
    """The file on this server with a copy of one object; a local path is returned as it is. See ``bring_directory``."""
    if isinstance(store, DirectoryStore):
        return Path(url).absolute()
    name = url.rpartition("/")[2]
    directory = _bring(
        url, scratch, start, lambda: store.size(url) or 0, lambda partial: store.fetch(url, partial / name)
    )
    return directory / name


def _bring(url: str, scratch: Path, start: str, size: Callable[[], int], copy: Callable[[Path], None]) -> Path:
    directory = scratch / f"{url.rstrip('/').rpartition('/')[2]}_{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    note_path = directory.with_name(f"{directory.name}.json")
    with locked(directory, f"copy of {url} in", StoreError) as had_to_wait:
        note = _read_note(note_path) if directory.is_dir() else {}
        if note.get("start") == start:
            return directory
        if had_to_wait and not note:
            raise StoreError(f"the process that copied {url} ended before it was done; see its log for the reason")
        total = with_retries(size)
        if note.get("bytes") != total:
            _copy_whole(url, directory, total, copy)
        else:
            print(f"{url}: the copy of an earlier start is used again, {directory}", flush=True)
        atomic_write_text(note_path, json.dumps({"url": url, "bytes": total, "start": start}), StoreError)
    return directory


def _copy_whole(url: str, directory: Path, total: int, copy: Callable[[Path], None]) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    free = shutil.disk_usage(directory.parent).free
    if free < total:
        raise StoreError(
            f"{url} has {_gigabytes(total)}, but {directory.parent} has only {_gigabytes(free)} free; "
            "set --scratch to a larger disk"
        )
    started = time.monotonic()
    with writing(directory, StoreError), atomic_directory(directory, f"copy of {url} in", StoreError) as partial:
        with_retries(lambda: copy(partial))
    print(f"{url}: {_gigabytes(total)} copied to {directory} in {time.monotonic() - started:.0f} s", flush=True)


def _read_note(path: Path) -> dict:
    try:
        return read_json(path, StoreError, "note", "copy again")
    except StoreError:  # no note, no copy
        return {}


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3g} GB"
