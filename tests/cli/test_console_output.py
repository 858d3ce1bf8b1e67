"""The console as users have it: closed pipes, full disks, terminals without some characters, hostile names."""

import os
import shlex
import subprocess
import sys

import pytest
from small_world import PROJECT

from mindloc.runtime.console import escaped, one_error_line

PROGRAM = f"{shlex.quote(sys.executable)} -m mindloc"


def shell(line, here, **environment):
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src"), **environment}
    return subprocess.run(["bash", "-c", line], cwd=here, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("command", ["--help", "doctor --json", "score none"])
def test_a_closed_pipe_is_not_a_failure(tmp_path, command):
    done = shell(f"{PROGRAM} {command} | true; echo code ${{PIPESTATUS[0]}}", tmp_path)
    code = 2 if command == "score none" else 0
    assert done.stdout == f"code {code}\n"
    assert len(done.stderr.splitlines()) == (1 if code else 0), done.stderr


def test_a_full_disk_behind_standard_output_is_reported(tmp_path):
    done = shell(f"{PROGRAM} doctor --json > /dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: standard output can't be written: No space left on device\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_cause_no_traceback(tmp_path, closed):
    done = shell(f"{PROGRAM} score none {closed}", tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stdout + done.stderr
    assert done.stderr.count("\n") == (0 if "2>&-" in closed else 1)


def test_names_with_characters_that_the_terminal_lacks(tmp_path):
    done = shell(f"{PROGRAM} score 东方", tmp_path, PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr


def test_a_name_can_not_change_the_terminal(tmp_path):
    (tmp_path / "a\x1b[31m\u202e\nb").mkdir()
    done = shell(f"{PROGRAM} score *", tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "\\x1b[31m\\u202e" in done.stderr and not {"\x1b", "\u202e"} & set(done.stderr)


def test_what_is_escaped_and_what_is_cut():
    assert escaped("tab\tline\n东方 é") == "tab\tline\n东方 é"
    assert escaped("\r\x1b\x9b\u2028\udc80") == "\\r\\x1b\\x9b\\u2028\\udc80"
    assert one_error_line("a" * 2000) == f"{'a' * 500} ... {'a' * 500}"
    assert one_error_line("a\nb") == "a b"
