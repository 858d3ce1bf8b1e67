"""The directory of a run."""

import errno
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import mindloc
from mindloc.errors import MindlocError
from mindloc.runtime import run_directory
from mindloc.runtime.run_directory import RunDirectory, code_record, point_latest


def test_a_new_run_contains_its_config_and_code_record(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["my train.py", "--epochs", "1"])
    run = RunDirectory.create(tmp_path, "tiny", "train:\n  epochs: 1\n")
    assert run.path.parent == tmp_path / "tiny" and re.fullmatch(r"\d{10}", run.path.name)
    assert run.config_path.read_text() == "train:\n  epochs: 1\n"
    code = json.loads(run.code_path.read_text())
    assert code["mindloc"] == mindloc.__version__ and shlex.split(code["command"])[1:] == sys.argv
    assert code["packages"]["numpy"] and "revision" in code
    assert run.checkpoints.is_dir() and run.reports.is_dir()


def git(directory, *arguments):
    identity = ["-c", "user.name=any", "-c", "user.email=any@example.org"]
    subprocess.run(["git", "-C", str(directory), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A package under version control that replaces mindloc."""
    package = tmp_path / "clone" / "src" / "mindloc"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("one = 1\n")
    git(tmp_path / "clone", "init")
    git(tmp_path / "clone", "add", ".")
    git(tmp_path / "clone", "commit", "-m", "first")
    monkeypatch.setattr(mindloc, "__file__", str(package / "__init__.py"))
    return package


def test_uncommitted_changes_are_in_the_run_directory(clone, tmp_path):
    clean = RunDirectory.create(tmp_path, "clean", "")
    assert not clean.diff_path.exists()
    assert json.loads(clean.code_path.read_text())["uncommitted_changes"] is False
    (clone / "__init__.py").write_text("one = 2\n")
    run = RunDirectory.create(tmp_path, "changed", "")
    assert run.diff_path.read_text().endswith("@@ -1 +1 @@\n-one = 1\n+one = 2\n")
    assert json.loads(run.code_path.read_text())["uncommitted_changes"] is True
    git(clone, "checkout", "__init__.py")
    git(clone, "apply", str(run.diff_path))
    assert (clone / "__init__.py").read_text() == "one = 2\n"


def test_large_changes_are_cut_with_a_line(clone, tmp_path, monkeypatch):
    monkeypatch.setattr(run_directory, "MOST_DIFF_BYTES", 1000)
    (clone / "__init__.py").write_text("x = 1\n" * 1000)
    text = RunDirectory.create(tmp_path, "changed", "").diff_path.read_text()
    assert len(text) < 1100 and text.splitlines()[-1].startswith("(the first 1000 of ")


def test_an_environment_inside_another_clone_is_not_that_clone(clone):
    (clone / "__init__.py").rename(clone / "moved.py")  # then __init__.py is not under version control
    git(clone, "add", "-A", ".")
    assert code_record()["revision"] is None and code_record()["uncommitted_changes"] is False


def test_runs_of_the_same_second_have_different_directories(tmp_path):
    paths = {RunDirectory.create(tmp_path, "tiny", "").path for _ in range(3)}
    assert len(paths) == 3


def test_a_given_directory_must_be_empty(tmp_path):
    run = RunDirectory.create("unused", "unused", "", path=tmp_path / "mine")
    assert run.path == tmp_path / "mine" and run.config_path.is_file()
    with pytest.raises(MindlocError, match="mine is not empty; .* --resume"):
        RunDirectory.create("unused", "unused", "", path=tmp_path / "mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.jpg").touch()
    with pytest.raises(MindlocError) as refused:  # what is not a run can't be resumed
        RunDirectory.create("unused", "unused", "", path=tmp_path / "other")
    assert "other" in str(refused.value) and "--resume" not in str(refused.value)


def test_latest_points_to_the_run_that_was_started_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        run = RunDirectory.create("work_dir", name, "")
        assert point_latest(Path("work_dir"), run.path) is None
        assert RunDirectory.open("work_dir/latest").path == run.path  # not the link, which may change later
    assert os.readlink("work_dir/latest") == str(run.path.relative_to("work_dir"))
    elsewhere = RunDirectory.create("unused", "unused", "", path=tmp_path / "mine")
    assert point_latest(Path("work_dir"), elsewhere.path) is None
    assert RunDirectory.open("work_dir/latest").path == tmp_path / "mine"
    assert point_latest(Path("no_work_dir"), elsewhere.path) is None and not Path("no_work_dir").exists()
    assert sorted(os.listdir("work_dir")) == ["first", "latest", "second"]


def test_a_link_that_can_not_be_made_is_reported(tmp_path, monkeypatch):
    run = RunDirectory.create(tmp_path, "latest", "")
    assert point_latest(tmp_path, run.path) == f"no link {tmp_path}/latest to this run: something else has that name"
    (tmp_path / "other").mkdir()

    def refuse(self, target):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)  # as on a FAT disk
    assert point_latest(tmp_path / "other", run.path).endswith("to this run: Operation not permitted")
    assert not any((tmp_path / "other").iterdir())


def test_files_of_a_killed_process_are_removed_before_a_training_writes(tmp_path):
    run = RunDirectory.create(tmp_path, "tiny", "")
    leftover = run.checkpoints / ".weights.safetensors.1.tmp"
    leftover.write_text("half")
    opened = RunDirectory.open(run.path)
    assert leftover.exists()  # opening a run removes nothing, as another process may be writing
    opened.remove_leftovers()
    assert not leftover.exists()


def test_a_directory_that_is_not_a_run_is_named(tmp_path):
    with pytest.raises(MindlocError, match="is not a run directory .* give work_dir/NAME/MMDDhhmmss"):
        RunDirectory.open(tmp_path)


def test_a_directory_without_write_access_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MindlocError, match="can't make a run directory"):
        RunDirectory.create(tmp_path / "file", "tiny", "")


def test_log_lines_start_with_the_time(tmp_path):
    run = RunDirectory.create(tmp_path, "tiny", "")
    run.log("one\ntwo")
    run.log("three")
    lines = run.log_path.read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["one", "two", "three"]


def test_code_outside_a_clone_has_no_revision(monkeypatch):
    monkeypatch.setenv("PATH", "")  # no git either
    assert code_record()["revision"] is None


TRAINS = """
import sys, time
from mindloc.runtime.run_directory import RunDirectory
with RunDirectory(sys.argv[1]).being_trained():
    print("it trains", flush=True)
    time.sleep(60)
"""


def test_a_run_that_is_being_trained_can_not_be_trained_by_another_process(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", TRAINS, tmp_path / "run"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "it trains\n"
    says = f"run {tmp_path / 'run'} is being trained by process {process.pid} on host .*; wait until"
    with pytest.raises(MindlocError, match=says):
        RunDirectory(tmp_path / "run").require_idle()
    with pytest.raises(MindlocError, match=says):
        RunDirectory.create(tmp_path, "run", "", path=tmp_path / "run")
    process.kill()
    process.wait()
    run = RunDirectory.create(tmp_path, "run", "a: 1", path=tmp_path / "run")
    assert run.config_path.read_text() == "a: 1" and not (run.path / ".lock").exists()


def test_a_log_that_is_a_pipe_is_refused(tmp_path):
    run = RunDirectory.create(tmp_path, "run", "{}")
    os.mkfifo(run.log_path)  # would wait for a reader for ever
    with pytest.raises(MindlocError, match="log.txt is a device or a pipe; give the path of a file"):
        run.log("line")


def test_a_name_that_is_not_unicode_is_escaped_in_the_log(tmp_path):
    run = RunDirectory.create(tmp_path, "run", "{}")
    run.log("data.root is \udc80")
    assert run.log_path.read_text().endswith("data.root is \\udc80\n")
