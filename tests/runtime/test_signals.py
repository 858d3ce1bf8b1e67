"""What a process does when it is told to end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from mindloc.runtime import signals
from mindloc.runtime.signals import answered, leaving_at_once

SOURCE = str(Path(signals.__file__).parents[2])
PROGRAM = """
import signal, sys, time
from mindloc.runtime.signals import answered, leaving_at_once
handler = signal.default_int_handler if sys.argv[1] == "command" else lambda number, frame: sys.exit(7)
try:
    with answered(handler, signal.SIGTERM), leaving_at_once("stopped while compiling"):
        print("ready", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    print("pages of MindSpore's own")
"""


def told_to_end(kind: str) -> tuple[int, str, str]:
    command = [sys.executable, "-c", PROGRAM, kind]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": {"PYTHONPATH": SOURCE}}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_a_command_ends_with_one_line():
    assert told_to_end("command") == (130, "", "stopped while compiling\n")


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
