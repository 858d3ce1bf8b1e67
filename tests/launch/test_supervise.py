"""Ranks that succeed, fail, hang or are killed: the exit code, the output, and that no process is left behind."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import alive, wait_for
from rank_tables import servers_1_0, write

import mindloc
from mindloc.launch.plan import plan_ranks
from mindloc.launch.rank_table import read_rank_table
from mindloc.launch.supervise import LogFollower, run_plan
from mindloc.runtime.process import answered

SOURCE = Path(mindloc.__file__).parents[1]


def plan(tmp_path, code, ranks=2, **more):
    """Ranks under a rank table, each of which runs ``code``."""
    table = read_rank_table(write(tmp_path, servers_1_0(cards=ranks)))
    command = [sys.executable, "-c", f"import os, sys, time, signal\nrank = int(os.environ['RANK_ID'])\n{code}"]
    return plan_ranks(command, target="Ascend", log_dir=tmp_path / "logs", table=table, **more)


def first_line(log):
    return log.read_text().splitlines()[0]


def test_all_run_to_the_end_and_rank_0_is_shown(tmp_path, capsys):
    planned = plan(tmp_path, "print('hello from', rank)\nprint('aside', file=sys.stderr)")
    assert run_plan(planned) == 0
    assert capsys.readouterr().out == f"{planned.first_line}\nlogs: {planned.log_dir}\nhello from 0\naside\n"
    for rank in (0, 1):
        lines = planned.rank_log(rank).read_text().splitlines()
        assert re.fullmatch(re.escape(planned.first_line) + rf"; rank {rank} of 2, process \d+", lines[0])
        assert lines[1:] == [f"hello from {rank}", "aside"]


def test_an_unfinished_last_line_is_shown(tmp_path, capsys):
    log = tmp_path / "rank_0.log"
    log.write_text("launcher: none\nstep 1\nste")
    follower = LogFollower(log, skip_lines=1)
    follower.show_new()
    assert capsys.readouterr().out == "step 1\n"
    with open(log, "a") as file:
        file.write("p 2\nkilled in the mid")
    follower.show_new(last=True)
    assert capsys.readouterr().out == "step 2\nkilled in the mid\n"
    assert run_plan(plan(tmp_path, "sys.stdout.write('no end')")) == 0
    assert capsys.readouterr().out.endswith("\nno end\n")


def test_the_first_rank_that_fails_stops_the_others(tmp_path, capsys):
    code = "if rank == 1:\n  sys.exit('error: no such tile')\ntime.sleep(600)"
    planned = plan(tmp_path, code, ranks=3)
    assert run_plan(planned) == 1
    assert capsys.readouterr().err == (
        "error: rank 1 of 3 ended with exit code 1: no such tile; the other ranks were stopped; "
        f"its log: {planned.rank_log(1)}\n"
    )
    for rank in (0, 2):
        assert not alive(first_line(planned.rank_log(rank)).rpartition(" ")[2])


@pytest.mark.parametrize(
    ("way", "code", "how"),
    [
        ("sys.exit(7)", 7, "ended with exit code 7"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "was ended by SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGTERM)", 143, "was ended by SIGTERM"),
    ],
)
def test_the_exit_code_is_that_of_the_rank(tmp_path, capsys, way, code, how):
    planned = plan(tmp_path, f"print('last words')\nif rank == 0: {way}\ntime.sleep(600)")
    assert run_plan(planned) == code
    error = capsys.readouterr().err
    assert f"rank 0 of 2 {how}" in error and "  last words\n" in error


def test_a_rank_that_ignores_sigterm_is_killed_with_its_children(tmp_path, monkeypatch):
    monkeypatch.setattr("mindloc.launch.supervise.GRACE_S", 0.3)
    deaf = (
        "if rank == 0:\n"
        "  signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "  child = os.fork()\n"
        f"  if not child: os.setsid()\n"
        f"  open(r'{tmp_path}/' + ('parent' if child else 'child'), 'w').write(str(os.getpid()))\n"
        "  time.sleep(600)\n"
        f"while not os.path.exists(r'{tmp_path}/child') or not os.path.exists(r'{tmp_path}/parent'): time.sleep(0.01)\n"
        "time.sleep(0.2)\n"
        "sys.exit(3)"
    )
    assert run_plan(plan(tmp_path, deaf)) == 3
    for name in ("parent", "child"):
        assert not alive((tmp_path / name).read_text())


def test_a_rank_may_finish_after_sigterm(tmp_path):
    """SIGTERM reaches Python as an interrupt (cli/command.py), in which a training names its last checkpoint."""
    code = (
        "signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        f"ready = r'{tmp_path}/ready'\n"
        "if rank == 1:\n"
        "  while not os.path.exists(ready): time.sleep(0.01)\n"
        "  sys.exit(5)\n"
        "try:\n"
        "  open(ready, 'w').close(); time.sleep(600)\n"
        "except KeyboardInterrupt: print('continue with --resume')"
    )
    planned = plan(tmp_path, code)
    assert run_plan(planned) == 5
    assert "continue with --resume" in planned.rank_log(0).read_text()


def test_the_error_on_one_of_several_servers_mentions_the_others(tmp_path, capsys):
    table = read_rank_table(write(tmp_path, servers_1_0(servers=2, cards=1)))
    command = [sys.executable, "-c", "raise SystemExit('error: the others are silent')"]
    planned = plan_ranks(command, target="Ascend", log_dir=tmp_path / "logs", table=table, server_index=1)
    assert run_plan(planned) == 1
    assert capsys.readouterr().err == (
        "error: rank 1 of 2 ended with exit code 1: the others are silent; look at the other servers too, where a rank "
        f"may have failed first; its log: {planned.rank_log(1)}\n"
    )


def test_a_missing_program(tmp_path, capsys):
    planned = plan_ranks(["/no/such/program"], target="CPU", log_dir=tmp_path, environment=os.environ)
    assert run_plan(planned) == 1
    assert "No such file or directory" in capsys.readouterr().err


SUPERVISOR = """
import sys
sys.path[:0] = sys.argv[3:]
from pathlib import Path
from test_supervise import plan
from mindloc.cli.command import exit_code_of
from mindloc.launch.supervise import run_plan
sys.exit(exit_code_of(lambda: run_plan(plan(Path(sys.argv[1]), sys.argv[2]))))
"""


def supervisor_of(directory, code, ignored=None):
    """The process of a supervisor of two ranks that run ``code``.

    Args:
        ignored: a signal that the process ignores by inheritance.
    """
    paths = [str(SOURCE), str(Path(__file__).parent), str(Path(__file__).parents[1])]
    command = [sys.executable, "-c", SUPERVISOR, str(directory), code, *paths]
    with answered(signal.SIG_IGN, *([] if ignored is None else [ignored])):
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def logs_of_two_ranks(directory):
    """The logs of two ranks, once both have started."""
    logs = [directory / "logs" / f"rank_{rank}.log" for rank in (0, 1)]
    wait_for(lambda: all(log.exists() and log.read_text().endswith("\n") for log in logs))
    return logs


@pytest.fixture
def supervised(tmp_path):
    """The process of a supervisor, and the process ids of its two ranks."""
    supervisor = supervisor_of(tmp_path, "time.sleep(600)")
    yield supervisor, [first_line(log).rpartition(" ")[2] for log in logs_of_two_ranks(tmp_path)]
    supervisor.kill()
    supervisor.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopping_the_script_stops_everything(supervised, number):
    supervisor, ranks = supervised
    assert all(map(alive, ranks))
    supervisor.send_signal(number)
    assert supervisor.wait() == 130
    assert not any(map(alive, ranks))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_launch_outlives_the_signals_that_it_ignores(tmp_path, number):
    """In the background of a script SIGINT is ignored, under nohup SIGHUP."""
    go, words = tmp_path / "go", f"while not os.path.exists(r'{tmp_path}/go'): time.sleep(0.02)"
    supervisor = supervisor_of(tmp_path, words, ignored=number)
    logs_of_two_ranks(tmp_path)
    supervisor.send_signal(number)
    go.touch()
    supervisor.communicate()
    assert supervisor.returncode == 0


def test_killing_the_script_kills_everything(supervised):
    supervisor, ranks = supervised
    supervisor.kill()
    supervisor.wait()
    wait_for(lambda: not any(map(alive, ranks)))


def test_a_rank_whose_launcher_is_gone_does_not_start(tmp_path):
    entry = SOURCE / "mindloc" / "launch" / "rank_entry.py"
    ended = subprocess.run(
        [sys.executable, str(entry), "echo", "started"],
        env={**os.environ, "MINDLOC_LAUNCH_PARENT": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1 and "started" not in ended.stdout
    assert "the launcher, process 1, is gone" in ended.stderr


def test_a_rank_is_bound_to_its_cores(tmp_path):
    cores = sorted(os.sched_getaffinity(0))
    planned = plan(tmp_path, "print(sorted(os.sched_getaffinity(0)))", cores=cores)
    assert run_plan(planned) == 0
    share = len(cores) // 2
    expected = [cores[:share], cores[share : 2 * share]] if share else [cores, cores]
    for rank in (0, 1):
        assert planned.rank_log(rank).read_text().splitlines()[1] == str(expected[rank])
