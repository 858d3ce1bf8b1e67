"""This process: how it was started, its cores and age, signals, what libraries may print, where a test kills it."""

import collections
import os
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

_IMPORTED = time.monotonic()
_SOURCE = Path(__file__).resolve().parents[2]
_SCRIPTS = ("train", "eval", "export")  # commands that are programs beside the source too: train.py
# what a script or a launcher says to the processes that it starts in its user's stead
PROGRAM_VARIABLE, COMMAND_VARIABLE = "MINDLOC_PROGRAM", "MINDLOC_COMMAND"


def command_line(*words: object) -> str:
    """A command of this program for its user's shell, in the spelling that the program was started by.

    Args:
        words: its name and arguments, as ``"eval", "--checkpoint", path``.
    """
    program, command = _program(), str(next(iter(words), ""))
    script = Path(program[-1])
    if script.suffix == ".py" and command in _SCRIPTS:
        return shlex.join([*program[:-1], str(script.with_name(f"{command}.py")), *map(str, words[1:])])
    if script.suffix == ".py":
        program = [*_where_it_is_found(), *program[:-1], "-m", "mindloc"]
    return shlex.join([*program, *map(str, words)])


def this_command_line() -> str:
    """What the user typed that led to this process, for a shell."""
    if said := os.environ.get(COMMAND_VARIABLE):
        return said
    is_program = Path(sys.argv[0]).name in ("mindloc", "__main__.py")
    return shlex.join([*(_program() if is_program else [_python(), sys.argv[0]]), *sys.argv[1:]])


def told_to_children() -> dict[str, str]:
    """Variables by which processes that this one starts name its program and its command line instead of theirs."""
    return {PROGRAM_VARIABLE: shlex.join(_program()), COMMAND_VARIABLE: this_command_line()}


def _program() -> list[str]:
    """The words that this program was started by: ``mindloc``, ``python -m mindloc``, ``python train.py``."""
    if said := os.environ.get(PROGRAM_VARIABLE):
        return shlex.split(said)
    started = Path(sys.argv[0])
    if started.name == "mindloc":
        return ["mindloc" if shutil.which("mindloc") == str(started) else str(started)]
    if started.suffix == ".py" and started.stem in _SCRIPTS and started.resolve().parent == _SOURCE.parent:
        return [_python(), str(started)]
    return [*_where_it_is_found(), _python(), "-m", "mindloc"]


def _python() -> str:
    """This Python, by its name where a shell finds it."""
    name = Path(sys.executable).name
    return name if shutil.which(name) == sys.executable else sys.executable


def _where_it_is_found() -> list[str]:
    """What ``python -m mindloc`` needs in front in a clone that was not installed."""
    if Path(sys.argv[0]).name == "__main__.py" or str(_SOURCE) in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        return []
    try:
        metadata.version("mindloc")
    except metadata.PackageNotFoundError:
        return ["env", f"PYTHONPATH={_SOURCE}"]
    return []


def usable_cores() -> list[int]:
    """Numbers of the cores that this process may use, in order; they may be fewer than the machine has."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def process_age_s() -> float:
    """Seconds since this process was started, to a hundredth; where the system does not tell, since this import.

    psutil reads the same clock, but adds the moment of the boot, which Linux tells in whole seconds.
    """
    try:
        with open("/proc/self/stat", encoding="ascii") as file:
            started = int(file.read().rpartition(")")[2].split()[19])  # clock ticks after boot, field 22 of proc(5)
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return time.monotonic() - _IMPORTED


@contextmanager
def answered(handler: Any, *signals: int) -> Iterator[None]:
    """Answer these signals by ``handler`` (as ``signal.signal`` takes it), and as before afterwards.

    Only in the main thread, as Python allows it nowhere else.
    """
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


_last_words: list[str] = []


@contextmanager
def leaving_at_once(words: str) -> Iterator[None]:
    """Let a SIGTERM end a command on the spot, with one line; for work in which nothing is lost.

    MindSpore answers a ``KeyboardInterrupt`` inside its compiler with pages of its own. Only our commands take SIGTERM
    for Ctrl-C, so whoever else calls this keeps what he has; and while MindSpore reads data, Ctrl-C comes as a SIGTERM.
    Other threads than the main one get no signals.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.default_int_handler:
        yield
        return

    def leave(number: int, frame: Any) -> None:
        with suppress(RuntimeError):  # the signal came in the middle of a print
            sys.stdout.flush()
        os.write(2, "".join(f"{line}\n" for line in [words, *_last_words]).encode())
        os._exit(130)

    with answered(leave, signal.SIGTERM):
        yield


@contextmanager
def last_words(line: str) -> Iterator[None]:
    """Inside, ``leaving_at_once`` says this line too: what a command would say if it were only interrupted."""
    _last_words.append(line)
    try:
        yield
    finally:
        _last_words.remove(line)


_passages: collections.Counter[str] = collections.Counter()


def fault_point(name: str) -> None:
    """Kill this process as ``kill -9`` would, where MINDLOC_FAULT is this name; ``name:3`` kills at the third passage.

    Without the variable, which only tests set, it costs one dictionary lookup.
    """
    wanted, _, count = os.environ.get("MINDLOC_FAULT", "").partition(":")
    if name != wanted:
        return
    _passages[name] += 1
    if _passages[name] == int(count or 1):
        os.kill(os.getpid(), signal.SIGKILL)


class Messages:
    """The text, once the block is left."""

    text = ""


@contextmanager
def native_messages() -> Iterator[Messages]:
    """Keep standard error, and what Python prints, from the console while the block runs.

    For calls into libraries that write pages from C++, past Python, before they raise or continue; what matters of it
    the caller says in one line.
    """
    messages = Messages()
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file, os.fdopen(os.dup(file.fileno()), "w", errors="replace") as printed:
        try:
            os.dup2(file.fileno(), 2)
            with redirect_stdout(printed):
                yield messages
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            printed.flush()
            file.seek(0)
            messages.text = file.read().decode("utf-8", "replace")
