"""How old a process is, and what it does when it is told to end."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from mindloc.runtime import process as signals
from mindloc.runtime.process import answered, last_words, leaving_at_once

SOURCE = str(Path(signals.__file__).parents[2])
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


def test_a_process_is_as_old_as_its_parent_saw_it():
    program = "import time; time.sleep(0.5); from mindloc.runtime.process import process_age_s; print(process_age_s())"
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONPATH": SOURCE}
    )
    assert 0.5 <= float(done.stdout) <= time.monotonic() - started + 0.02  # the system counts in hundredths


def told_to_end(*arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": {"PYTHONPATH": SOURCE}}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
    return process.returncode, out, err


def test_a_command_ends_with_one_line():
    assert told_to_end("command") == (130, "", "stopped while compiling\n")


def test_the_line_says_how_to_go_on_where_a_command_knows():
    told = told_to_end("command", "go on with: --resume RUN")
    assert told == (130, "", "stopped while compiling\ngo on with: --resume RUN\n")


def test_last_words_are_forgotten_with_their_block():
    with last_words("outer"):
        with last_words("inner"):
            assert signals._last_words == ["outer", "inner"]
        assert signals._last_words == ["outer"]
    assert signals._last_words == []


def test_another_thread_than_the_main_one_works_on_undisturbed():
    done, errors = [], []

    def work() -> None:
        try:
            with leaving_at_once("not here"):
                done.append(True)
        except ValueError as error:  # Python's: "signal only works in main thread"
            errors.append(error)

    with answered(signal.default_int_handler, signal.SIGTERM):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert done and not errors


def test_whoever_answers_the_signal_himself_keeps_his_answer():
    assert told_to_end("other") == (7, "", "")


def test_the_answer_is_as_before_afterwards():
    seen = []
    with answered(lambda number, frame: seen.append("outer"), signal.SIGTERM):
        with leaving_at_once("not here"):  # nobody takes SIGTERM for Ctrl-C
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        with answered(lambda number, frame: seen.append("inner"), signal.SIGTERM):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
    assert seen == ["outer", "inner", "outer"]
