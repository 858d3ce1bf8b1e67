"""The command line of a process, its age, and its end by SIGTERM."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from importlib import metadata
from pathlib import Path

import pytest

from mindloc.runtime import process as signals
from mindloc.runtime.process import answered, command_line, last_words, leaving_at_once, this_command_line

SOURCE = str(Path(signals.__file__).parents[2])
PROJECT = Path(SOURCE).parent
PROGRAM = """
import signal, sys, time
from contextlib import ExitStack
from mindloc.runtime.process import answered, last_words, leaving_at_once
handler = signal.default_int_handler if sys.argv[1] == "command" else lambda number, frame: sys.exit(7)
try:
    with ExitStack() as stack:
        stack.enter_context(answered(handler, signal.SIGTERM))
        if sys.argv[2:]:
            stack.enter_context(last_words(sys.argv[2]))
        stack.enter_context(leaving_at_once("stopped while compiling"))
        print("ready", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    print("pages of MindSpore's own")
"""


@pytest.fixture
def shell(monkeypatch):
    """A process not started by a script, in a shell that finds ``python`` and ``mindloc`` of this environment."""
    for name in ("MINDLOC_PROGRAM", "MINDLOC_COMMAND"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "executable", "/venv/bin/python")
    monkeypatch.setattr("shutil.which", lambda name: f"/venv/bin/{name}")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.0")


@pytest.mark.parametrize(
    ("started", "evaluation", "check"),
    [
        ("/venv/bin/mindloc", "mindloc eval --checkpoint", "mindloc check-data"),
        ("/other/bin/mindloc", "/other/bin/mindloc eval --checkpoint", "/other/bin/mindloc check-data"),
        (f"{SOURCE}/mindloc/__main__.py", "python -m mindloc eval --checkpoint", "python -m mindloc check-data"),
        (f"{PROJECT}/train.py", f"python {PROJECT}/eval.py --checkpoint", "python -m mindloc check-data"),
        ("/mine/train.py", "python -m mindloc eval --checkpoint", "python -m mindloc check-data"),
    ],
)
def test_a_command_is_spelled_as_the_program_was_started(shell, monkeypatch, started, evaluation, check):
    monkeypatch.setattr(sys, "argv", [started, "train"])
    assert command_line("eval", "--checkpoint", Path("it's/东 方")) == f"{evaluation} 'it'\"'\"'s/东 方'"
    assert command_line("check-data") == check
    monkeypatch.setenv("MINDLOC_PROGRAM", "bash '/a project/scripts/run_mindloc.sh'")
    assert command_line("doctor") == "bash '/a project/scripts/run_mindloc.sh' doctor"


def test_a_clone_that_is_not_installed_is_put_on_the_python_path(shell, monkeypatch):
    def version(name):
        raise metadata.PackageNotFoundError

    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr("importlib.metadata.version", version)
    monkeypatch.setattr(sys, "argv", ["/mine/notebook.py"])
    assert command_line("doctor") == f"env PYTHONPATH={SOURCE} python -m mindloc doctor"


def test_the_command_line_is_as_the_user_typed_it(shell, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/venv/bin/mindloc", "train", "--data_root", "a b"])
    assert this_command_line() == "mindloc train --data_root 'a b'"
    monkeypatch.setattr(sys, "argv", ["notebook.py"])
    assert this_command_line() == "python notebook.py"
    monkeypatch.setenv("MINDLOC_COMMAND", "mindloc launch train 2 data out")  # the command line of a rank differs
    assert this_command_line() == "mindloc launch train 2 data out"


def test_the_age_of_a_process_matches_its_parents_clock():
    program = "import time; time.sleep(0.5); from mindloc.runtime.process import process_age_s; print(process_age_s())"
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONPATH": SOURCE}
    )
    assert 0.5 <= float(done.stdout) <= time.monotonic() - started + 0.02  # the system's clock ticks are hundredths


def terminated(*arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": {"PYTHONPATH": SOURCE}}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
    return process.returncode, out, err


def test_a_terminated_command_prints_one_line():
    assert terminated("command") == (130, "", "stopped while compiling\n")


def test_a_terminated_command_states_how_to_resume():
    result = terminated("command", "resume with: --resume RUN")
    assert result == (130, "", "stopped while compiling\nresume with: --resume RUN\n")


def test_a_terminated_command_leaves_no_unfinished_files(tmp_path):
    program = """
    import os, signal, sys
    from pathlib import Path
    from mindloc.runtime.files import atomic_directory
    from mindloc.runtime.process import answered, leaving_at_once
    with answered(signal.default_int_handler, signal.SIGTERM), atomic_directory(Path(sys.argv[1])) as partial:
        (partial / "half").touch()
        print(*sorted(os.listdir(partial.parent)))
        with leaving_at_once("stopped while compiling"):
            signal.raise_signal(signal.SIGTERM)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), tmp_path / "set"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": SOURCE})
    assert (done.returncode, done.stderr) == (130, "stopped while compiling\n")
    assert re.fullmatch(r"\.set\.\d+-\w+\.partial \.set\.lock\n", done.stdout) and not os.listdir(tmp_path)


def test_last_words_end_with_their_block():
    with last_words("outer"):
        with last_words("inner"):
            assert signals._last_words == ["outer", "inner"]
        assert signals._last_words == ["outer"]
    assert signals._last_words == []


def test_threads_other_than_the_main_thread_are_unaffected():
    done, errors = [], []

    def work() -> None:
        try:
            with leaving_at_once("not here"):
                done.append(True)
        except ValueError as error:  # Python's error: "signal only works in main thread"
            errors.append(error)

    with answered(signal.default_int_handler, signal.SIGTERM):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert done and not errors


def test_a_caller_with_its_own_handler_keeps_it():
    assert terminated("other") == (7, "", "")


def test_the_old_handler_is_restored():
    seen = []
    with answered(lambda number, frame: seen.append("outer"), signal.SIGTERM):
        with leaving_at_once("not here"):  # SIGTERM is not handled like Ctrl-C
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        with answered(lambda number, frame: seen.append("inner"), signal.SIGTERM):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
    assert seen == ["outer", "inner", "outer"]
