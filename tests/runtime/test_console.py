"""Progress bars and notes appear only on a terminal and are removed afterwards; prose fits the columns."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

from mindloc.runtime.console import COLUMNS, wrapped

PROGRAM = """
from mindloc.runtime.console import progress_bar, status_line
for _ in progress_bar(range(3), desc="tiles"):
    with status_line("compiling"):
        pass
print("done")
"""


def at_a_terminal() -> bytes:
    """What the program writes if both of its output streams are a terminal."""
    own, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("4H", 24, COLUMNS, 0, 0))
    subprocess.run([sys.executable, "-c", PROGRAM], stdout=its, stderr=its, check=True)
    os.close(its)
    written = os.read(own, 1 << 16)
    os.close(own)
    return written


def test_progress_is_shown_on_a_terminal_and_removed_afterwards():
    written = at_a_terminal()
    assert b"tiles" in written and b"compiling" in written
    *_, last = written.removesuffix(b"done\r\n").split(b"\r")
    assert not last.strip()  # the bar's line was cleared


def test_progress_is_not_written_to_a_file():
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    assert (run.stdout, run.stderr) == (b"done\n", b"")


def test_prose_is_wrapped_and_words_are_not_broken():
    text = "see " + "a-long/path" * 9 + " and " + "word " * 30
    lines = wrapped(text, start="ok  ", indent="    ").splitlines()
    assert lines[:2] == ["ok  see", "    " + "a-long/path" * 9]
    assert max(map(len, lines[2:])) <= COLUMNS and " ".join(" ".join(lines).split()) == "ok " + text.strip()
