"""This process: its command line, cores, age, signals, output of native libraries, and fault points for tests."""

import collections
import os
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

_IMPORTED = time.monotonic()
_SOURCE = Path(__file__).resolve().parents[2]
_SCRIPTS = ("train", "eval", "export")  # commands that also exist as scripts beside the source: train.py
# set by a script or a launcher for the processes that it starts: the user's program and command line
PROGRAM_VARIABLE, COMMAND_VARIABLE = "MINDLOC_PROGRAM", "MINDLOC_COMMAND"


def command_line(*words: object) -> str:
    """A command of mindloc for the user's shell, spelled as this process was started.

    Args:
        words: its name and arguments, such as ``"eval", "--checkpoint", path``.
    """
    program, command = _program(), str(next(iter(words), ""))
    script = Path(program[-1])
    if script.suffix == ".py" and command in _SCRIPTS:
        return shlex.join([*program[:-1], str(script.with_name(f"{command}.py")), *map(str, words[1:])])
    if script.suffix == ".py":
        program = [*_python_path_prefix(), *program[:-1], "-m", "mindloc"]
    return shlex.join([*program, *map(str, words)])


def this_command_line() -> str:
    """The command line that the user typed to start this process, for a shell."""
    if given := os.environ.get(COMMAND_VARIABLE):
        return given
    is_program = Path(sys.argv[0]).name in ("mindloc", "__main__.py")
    return shlex.join([*(_program() if is_program else [_python(), sys.argv[0]]), *sys.argv[1:]])


def variables_for_children() -> dict[str, str]:
    """Environment variables that make child processes report the program and command line of this process."""
    return {PROGRAM_VARIABLE: shlex.join(_program()), COMMAND_VARIABLE: this_command_line()}


def _program() -> list[str]:
    """Words that started this program: ``mindloc``, ``python -m mindloc`` or ``python train.py``."""
    if given := os.environ.get(PROGRAM_VARIABLE):
        return shlex.split(given)
    started = Path(sys.argv[0])
    if started.name == "mindloc":
        return ["mindloc" if shutil.which("mindloc") == str(started) else str(started)]
    if started.suffix == ".py" and started.stem in _SCRIPTS and started.resolve().parent == _SOURCE.parent:
        return [_python(), str(started)]
    return [*_python_path_prefix(), _python(), "-m", "mindloc"]


def _python() -> str:
    """This Python, by name if the shell's PATH finds it, else by path."""
    name = Path(sys.executable).name
    return name if shutil.which(name) == sys.executable else sys.executable


def _python_path_prefix() -> list[str]:
    """Prefix that ``python -m mindloc`` needs in a clone that is not installed."""
    if Path(sys.argv[0]).name == "__main__.py" or str(_SOURCE) in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        return []
    try:
        metadata.version("mindloc")
    except metadata.PackageNotFoundError:
        return ["env", f"PYTHONPATH={_SOURCE}"]
    return []


def usable_cores() -> list[int]:
    """The sorted numbers of the cores that this process may use, which may be fewer than the machine has."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def process_age_s() -> float:
    """Seconds since this process was started, to a hundredth; without /proc, since this module was imported.

    psutil reads the same clock but adds the boot time, which Linux reports in whole seconds.
    """
    try:
        with open("/proc/self/stat", encoding="ascii") as file:
            started = int(file.read().rpartition(")")[2].split()[19])  # clock ticks after boot, field 22 of proc(5)
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return time.monotonic() - _IMPORTED


@contextmanager
def answered(handler: Any, *signals: int) -> Iterator[None]:
    """Context in which ``handler`` handles these signals; the old handlers are restored on leaving.

    Main thread only, a limit of Python, unless there are no signals. ``signal.signal`` describes a handler.
    """
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


_last_words: list[str] = []
_unfinished: list[Path] = []


@contextmanager
def leaving_at_once(words: str) -> Iterator[None]:
    """Context in which SIGTERM ends a command at once and prints ``words``; for work whose loss does not matter.

    MindSpore reacts to a ``KeyboardInterrupt`` in its compiler with pages of messages. Only mindloc's commands handle
    SIGTERM like Ctrl-C; any other handler is kept. While MindSpore reads data, Ctrl-C arrives as SIGTERM. Only the main
    thread receives signals.
    """
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM) if is_main else None
    loses_nothing = isinstance(handler, StopRequest) and not handler.has_unsaved()
    if handler is not signal.default_int_handler and not loses_nothing:
        yield
        return

    def leave(number: int, frame: Any) -> None:
        with suppress(RuntimeError):  # the signal arrived during a print
            sys.stdout.flush()
        for path in reversed(_unfinished):
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        over_bars = "\r\x1b[J" if os.isatty(2) else ""  # clears the terminal from this line on
        text = over_bars + "".join(f"{line}\n" for line in [words, *_last_words])
        os.write(2, text.encode(errors="backslashreplace"))
        os._exit(130)

    with answered(leave, signal.SIGTERM):
        yield


class StopRequest:
    """Signal handler: the first signal requests a stop at a point to continue from, the second stops at once.

    Args:
        words: printed at the first signal.
        has_unsaved: whether something would be lost if the work stopped now.
    """

    def __init__(self, words: str, has_unsaved: Callable[[], bool]):
        self.words, self.has_unsaved, self.is_made = words, has_unsaved, False

    def __call__(self, number: int, frame: Any) -> None:
        if self.is_made or not self.has_unsaved():
            raise KeyboardInterrupt
        self.is_made = True
        os.write(2, f"{self.words}\n".encode())  # print() may be running when the signal arrives


@contextmanager
def stopped_by(request: StopRequest) -> Iterator[None]:
    """Context in which ``request`` handles Ctrl-C and SIGTERM, which else interrupt Python. Main thread only."""
    is_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if is_main else ()
    with answered(request, *(each for each in numbers if signal.getsignal(each) is signal.default_int_handler)):
        yield


@contextmanager
def last_words(line: str) -> Iterator[None]:
    """Context in which ``leaving_at_once`` also prints this line, which says, for example, how to resume."""
    _last_words.append(line)
    try:
        yield
    finally:
        _last_words.remove(line)


@contextmanager
def unfinished(path: Path) -> Iterator[None]:
    """Context in which ``leaving_at_once`` also removes this file or directory, as its own context does on leaving."""
    _unfinished.append(path)
    try:
        yield
    finally:
        _unfinished.remove(path)


_passages: collections.Counter[str] = collections.Counter()


def fault_point(name: str) -> None:
    """Kill this process like ``kill -9`` if MINDLOC_FAULT is this name; with ``name:3`` at the third call.

    Only tests set the variable; without it a call costs one dictionary lookup.
    """
    wanted, _, count = os.environ.get("MINDLOC_FAULT", "").partition(":")
    if name != wanted:
        return
    _passages[name] += 1
    if _passages[name] == int(count or 1):
        os.kill(os.getpid(), signal.SIGKILL)


class Messages:
    """Captured output; ``text`` is set when ``native_messages`` is left."""

    text = ""


@contextmanager
def native_messages() -> Iterator[Messages]:
    """Context that captures standard error and what Python prints.

    It is for libraries whose C++ code writes pages of messages; the caller reports what matters in one line.
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
