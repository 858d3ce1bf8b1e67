"""The files of a run folder as its results go out: which may be sent now, and in which order."""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from enum import IntEnum
from fnmatch import fnmatch
from pathlib import Path

from mindloc.runtime.atomic import TEMPORARY_SUFFIX
from mindloc.runtime.checkpoint import STATE_SUFFIX, WEIGHTS_SUFFIX

CHECKPOINTS, REPORTS = "checkpoints/", "reports/"
NEIGHBORS = "neighbors/"  # descriptors of a search under way; what it finds is in the checkpoints


class Kind(IntEnum):
    """Kinds of files, in the order in which they go out."""

    REST = 0  # config, log, metrics
    WEIGHTS = 1
    NAMED = 2  # weights_best, weights_end
    STATE = 3  # completes a checkpoint
    REPORT = 4


def kind_of(name: str) -> Kind:
    """Kind of a file by its name in the run folder."""
    if name.startswith(REPORTS):
        return Kind.REPORT
    if not name.startswith(CHECKPOINTS):
        return Kind.REST
    if name.endswith(STATE_SUFFIX):
        return Kind.STATE
    return Kind.WEIGHTS if is_numbered(name) else Kind.NAMED


def is_numbered(name: str) -> bool:
    """Whether a file belongs to the checkpoints that come and go; weights_best and weights_end stay."""
    return fnmatch(name, f"{CHECKPOINTS}weights_e[0-9]*{WEIGHTS_SUFFIX}")


def find_files(run: Path, unfinished_reports: bool) -> dict[str, Path]:
    """Name -> file, of all that may be sent now.

    Args:
        unfinished_reports: also the files of an evaluation that has not written its report.json yet.
    """
    # listed before the rest, so that a state which is found has its weights found too
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


def walk(folder: Path) -> Iterator[Path]:
    """Every file in a folder and below that is not being written."""
    for inner, _, names in os.walk(folder):  # takes no offense at a folder that goes away meanwhile
        for name in names:
            if not (name.startswith(".") and name.endswith(TEMPORARY_SUFFIX)):
                yield Path(inner) / name


def set_aside(path: Path, name: str, aside: Path) -> Path:
    """A second name for a checkpoint, which the training may delete but never changes; a copy of any other file."""
    copy = aside / path.name
    if name.startswith(CHECKPOINTS):
        with suppress(OSError):  # a disk without hard links
            os.link(path, copy)
            return copy
    shutil.copyfile(path, copy)
    return copy


def _tag(name: str) -> str:
    """``e3`` of ``reports/e3/query/rows.jsonl``"""
    return name.split("/")[1]
