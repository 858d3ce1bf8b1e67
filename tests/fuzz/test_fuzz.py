"""Every command on damaged and hostile inputs: it succeeds, or ends with one line and changes nothing.

Cases are drawn from a seed. A case copies the inputs, mutates files that a command reads, their names, or a word of its
command line, and runs the command in this process. Only what comes after all reading is replaced: the loop of a
training, the start of other processes.

``MINDLOC_FUZZ_SEED`` and ``MINDLOC_FUZZ_CASES`` choose others; ``MINDLOC_FUZZ_FIRST`` starts at a case, to repeat it.
"""

import contextlib
import io
import os
import random
import re
import shutil
import signal
import stat
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from shallow import shallow_tiny

from mindloc.cli import COMMANDS, main
from mindloc.config import config_to_dict, load_config

pytest.importorskip("mindspore")
pytest.importorskip("onnxruntime")

from fuzz_inputs import COMMAND_LINES, CommandLine, make_inputs
from mutations import NAMES, SIDE_EFFECT, VALUES, WORDS, copy_inputs, mutate_file

SEED = int(os.environ.get("MINDLOC_FUZZ_SEED", "1"))
CASES = int(os.environ.get("MINDLOC_FUZZ_CASES", "500"))
FIRST = int(os.environ.get("MINDLOC_FUZZ_FIRST", "0"))
TAKE_SETTINGS = ("train", "check-data", "eval", "extract", "search")
KEYS = [f"{section}.{key}" for section, keys in config_to_dict(load_config()).items() for key in keys]
LIMIT_S = 20  # of processor time, or of waiting without any
MOST_BYTES = 1 << 30  # that memory may grow by
TEMPORARY = re.compile(r"\.tmp$|\.partial$|\.old$|\.unfinished-|\.lock$")
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e\ud800-\udfff]")


class Hang(BaseException):
    """A case took longer than the limit."""


@contextlib.contextmanager
def limited(pipes: Path) -> Iterator[None]:
    """Raise ``Hang`` in the main thread where the block computes or waits too long; a pipe that it waits for opens."""
    ended, main_thread = threading.Event(), threading.main_thread().ident

    def answer(number: int, frame: object) -> None:
        raise Hang

    def watch() -> None:
        started, busy_at, used = time.process_time(), time.monotonic(), time.process_time()
        while not ended.wait(0.25):
            if time.process_time() - used > 0.1:
                busy_at, used = time.monotonic(), time.process_time()
            if time.process_time() - started > 2 * LIMIT_S or time.monotonic() - busy_at > LIMIT_S:
                signal.pthread_kill(main_thread, signal.SIGUSR1)
                for pipe in pipes.rglob("*"):
                    if stat.S_ISFIFO(pipe.lstat().st_mode):
                        os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))
                busy_at = time.monotonic()

    before = signal.signal(signal.SIGUSR1, answer)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        signal.signal(signal.SIGUSR1, before)


def memory(key: str) -> int:
    """VmRSS, or VmHWM: its maximum since ``reset_maximum``; bytes."""
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"{key}:\s+(\d+) kB", text)[1]) << 10


def reset_maximum() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def state_of(directory: Path) -> dict[str, tuple]:
    """Path -> kind, size, time of change, identity: equal where nothing was written."""
    found = {}
    for path in directory.rglob("*"):
        facts = path.lstat()
        regular = stat.S_ISREG(facts.st_mode)
        own = (facts.st_size, facts.st_mtime_ns, facts.st_ino) if regular else ()
        found[os.fsdecode(path.relative_to(directory))] = (stat.S_IFMT(facts.st_mode), *own)
    return found


class Case:
    """A command line and its inputs in the new directory ``here``, mutated."""

    def __init__(self, inputs: Path, here: Path, number: int):
        self.chance = chance = random.Random(f"{SEED} {number}")
        self.here, self.done = here, []
        self.line: CommandLine = chance.choices(COMMAND_LINES, [line.weight for line in COMMAND_LINES])[0]
        self.words, self.writes = list(self.line.words), list(self.line.writes)
        copy_inputs(inputs, here)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(here)
            for _ in range(chance.choice([1, 1, 1, 2, 3])):
                chance.choices([self._file, self._name, self._word, self._setting], [8, 1, 2, 1])[0]()

    def _file(self) -> None:
        places = [Path(name) for name in self.line.reads]
        files = [path for place in places for path in ([place] if place.is_file() else sorted(place.rglob("*")))]
        files = [path for path in files if path.is_file() and not path.is_symlink()]
        if files:
            everything = [path for path in sorted(Path().rglob("*")) if path.is_file() and not path.is_symlink()]
            self.done.append(mutate_file(self.chance.choice(files), everything, self.chance))

    def _name(self) -> None:
        """Another name for something that the command line names."""
        named = sorted({*self.line.reads, *self.line.writes} & set(self.words))
        if named:
            old, new = self.chance.choice(named), self.chance.choice(NAMES)
            if Path(old).exists() and not Path(new).exists():
                Path(old).rename(new)
            self.words = [new if word == old else word for word in self.words]
            self.writes = [new if name == old else name for name in self.writes]
            self.done.append(f"{old} is named {new!a:.40}")

    def _word(self) -> None:
        place = self.chance.randrange(1, len(self.words))
        key, equals, _ = self.words[place].partition("=")
        value = self.chance.choice(WORDS + NAMES)
        self.words[place] = f"{key}={value}" if equals and self.chance.random() < 0.9 else value
        self.writes += [self.words[place], self.words[place].lstrip("-")]  # perhaps the name of an output
        self.done.append(f"word {place} is {self.words[place]!a:.60}")

    def _setting(self) -> None:
        """One more setting, for commands that take any."""
        if self.words[0] in TAKE_SETTINGS:
            value = self.chance.choice([*WORDS, *NAMES, *map(str, VALUES)])
            self.words += ["--set", f"{self.chance.choice(KEYS)}={value}"]
            self.done.append("one more setting")

    def __str__(self) -> str:
        plain = [
            word if word.isascii() and word.isprintable() and len(word) < 60 else f"{word!a:.60}" for word in self.words
        ]
        return f"{' '.join(plain)}; mutated: {'; '.join(self.done)}"

    def run(self) -> list[str]:
        """What is wrong with how it ends."""
        before = state_of(self.here)
        out, error = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        reset_maximum()
        at_first, code, faults = memory("VmRSS"), None, []
        try:
            with pytest.MonkeyPatch.context() as patch, limited(self.here):
                patch.chdir(self.here)
                for name, value in self.line.environment.items():
                    patch.setenv(name, value)
                with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
                    code = main(self.words)
        except Hang:
            faults.append(f"no end: {innermost()}")
        except BaseException as defect:
            faults.append(f"traceback: {type(defect).__name__}: {str(defect)[:200]!a} {innermost()}")
        if (grown := memory("VmHWM") - at_first) > MOST_BYTES:
            faults.append(f"memory grew by {grown >> 20} MiB")
        said, complained = (stream.buffer.getvalue().decode("utf-8", "replace") for stream in (out, error))
        faults += [] if code is None else wrong_words(code, said, complained)
        return faults + self._wrong_files(before, state_of(self.here), code)

    def _wrong_files(self, before: dict, after: dict, code: int | None) -> list[str]:
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        kept = self.writes if code == 0 or (code == 1 and self.words[0] == "search") else []
        # what a killed process left of an output is removed with it
        gone = [name.partition(".partial")[0].rpartition(".")[0] if name not in after else "" for name in changed]
        wrong = [
            name
            for name, left_of in zip(changed, gone, strict=True)
            if not any(not own or f"{name}/".startswith(f"{own}/") or left_of == f".{own}" for own in kept)
        ]
        left = [name for name in after.keys() - before.keys() if TEMPORARY.search(name)]
        faults = [f"changed with exit code {code}: {wrong[:4]!a}"] if wrong else []
        faults += [f"left behind: {left[:3]!a}"] if left else []
        return faults + (["executed"] if SIDE_EFFECT in after else [])


def wrong_words(code: int, said: str, complained: str) -> list[str]:
    """What is wrong with the texts of a command that ended with an exit code."""
    faults = []
    lines = [line for line in complained.splitlines() if line.startswith("error: ")]
    if code == 0 and lines:
        faults.append(f"an error and exit code 0: {lines[0][:200]}")
    if code == 2 and len(lines) != 1:
        faults.append(f"{len(lines)} error lines with exit code 2: {complained[-300:]!a}")
    if code not in (0, 1, 2):
        faults.append(f"exit code {code}")
    if any(len(line) > 1100 for line in lines) or "Traceback" in complained:
        faults.append(f"no single short line: {complained[:300]!a}")
    if "Warning: " in complained:
        faults.append(f"a warning of Python: {complained[:300]!a}")
    if CONTROLS.search(said) or CONTROLS.search(complained):
        faults.append(f"control characters are printed: {CONTROLS.search(said + complained)[0]!a}")
    return faults


def innermost() -> str:
    """Where the exception in flight comes from: our own innermost line, then the innermost."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    own = [frame for frame in frames if "/mindloc/" in frame.filename]
    return " <- ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in [frames[-1], *own[-2:][::-1]])


@contextlib.contextmanager
def nothing_started() -> Iterator[None]:
    """No training runs and no other process is started; what is read before stays as it is."""
    from mindloc.cli import launch, train
    from mindloc.training import trainer

    with pytest.MonkeyPatch.context() as patch, shallow_tiny():
        patch.setattr(trainer, "Model", lambda step: SimpleNamespace(train=lambda *_, **__: None))
        for module in (launch, train):
            patch.setattr(module, "run_plan", lambda plan: 0)
        patch.setattr(os, "execve", lambda *words: None)
        yield


def faults_of(inputs: Path, scratch: Path, numbers: range) -> list[str]:
    """A line for each fault of these cases."""
    found = []
    with nothing_started():
        for number in numbers:
            here = scratch / "case"
            case = Case(inputs, here, number)
            (scratch / "last.txt").write_text(f"{number}: {case}", errors="backslashreplace")  # for a crash
            found += [f"seed {SEED}, case {number}: {case}\n  {fault}" for fault in case.run()]
            shutil.rmtree(here)
    return found


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("fuzz") / "inputs"
    make_inputs(directory)
    return directory


def test_every_command_is_drawn():
    assert {line.words[0] for line in COMMAND_LINES} == set(COMMANDS)


@pytest.mark.slow
def test_every_end_is_a_success_or_one_line(inputs, tmp_path):
    found = faults_of(inputs, tmp_path, range(FIRST, FIRST + CASES))
    assert not found, f"{len(found)} faults\n" + "\n".join(found)
