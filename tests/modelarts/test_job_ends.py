"""The end of a job, whatever the training does: its results are sent, and its exit code is that of the training."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from mindloc.launch.plan import plan_ranks
from mindloc.modelarts import job

TRAINING = """
import pathlib, sys, time
run = pathlib.Path(sys.argv[1])
(run / "checkpoints").mkdir()
for name in ("config.yaml", "log.txt", "weights_e1.safetensors", "weights_e1.state.safetensors"):
    (run / ("checkpoints" if "weights" in name else "") / name).write_text(name)
{rest}
"""
WRITTEN = {
    "config.yaml",
    "log.txt",
    "checkpoints/weights_e1.safetensors",
    "checkpoints/weights_e1.state.safetensors",
}


@pytest.fixture
def data(bucket) -> Path:
    (bucket / "data").mkdir()
    (bucket / "data" / "image.png").write_bytes(b"pixels")
    return bucket / "data"


@pytest.fixture
def start(data, monkeypatch, tmp_path):
    """A function that runs a job whose training is a short program with the given last lines; returns the exit code."""

    def start(rest: str, *parameters: str) -> int:
        def build(args, place, data, weights, run, resumes, logs):
            assert (data / "image.png").read_bytes() == b"pixels"
            program = [sys.executable, "-c", TRAINING.format(rest=rest), str(run)]
            return plan_ranks(program, target="CPU", log_dir=logs)

        monkeypatch.setattr(job, "build_training", build)
        scratch = ["--scratch", str(tmp_path / "cache"), "--upload_every_s=0.05"]
        return job.main(["--data_url=obs://bucket/data", "--train_url=obs://bucket/out", *scratch, *parameters])

    return start


def files_out(bucket: Path) -> set[str]:
    names = {path.relative_to(bucket / "out").as_posix() for path in (bucket / "out").rglob("*") if path.is_file()}
    return {name for name in names if not name.startswith("logs/")}


def left_in_scratch(tmp_path: Path) -> list[Path]:
    return [path for run in (tmp_path / "cache").rglob("start_*/run") for path in run.rglob("*") if path.is_file()]


def test_a_successful_job(start, bucket, tmp_path, capsys):
    assert start("") == 0
    assert files_out(bucket) == WRITTEN
    assert list((bucket / "out" / "logs").glob("*/rank_0.log"))
    assert left_in_scratch(tmp_path) == []
    assert capsys.readouterr().out.endswith("results: obs://bucket/out\n")


def test_a_training_that_fails_sends_what_it_wrote(start, bucket, capsys):
    assert start("sys.exit(7)") == 7
    assert files_out(bucket) == WRITTEN
    assert "ended with exit code 7" in capsys.readouterr().err


def test_a_training_that_is_killed_sends_what_it_wrote(start, bucket):
    assert start("import os; os.kill(os.getpid(), 9)") == 137
    assert files_out(bucket) == WRITTEN


def test_results_are_sent_while_the_training_runs(start, bucket, tmp_path):
    last = "checkpoints/weights_e1.state.safetensors"
    wait = f"while not pathlib.Path({str(bucket / 'out' / last)!r}).exists(): time.sleep(0.02)"
    assert start(wait) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_job_that_is_stopped_sends_its_results_so_far(start, bucket, number, capsys):
    def stop() -> None:
        while not (bucket / "out" / "checkpoints" / "weights_e1.state.safetensors").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    stopper = threading.Thread(target=stop)
    stopper.start()
    assert start("(run / 'reports').mkdir(); (run / 'reports' / 'late').write_text(''); time.sleep(600)") == 130
    stopper.join()
    assert files_out(bucket) == {*WRITTEN, "reports/late"}
    assert "stopped; sending the results so far" in capsys.readouterr().err


def test_results_that_can_not_be_sent_are_a_failure_and_are_kept(
    start, bucket, tmp_path, monkeypatch, without_pauses, capsys
):
    monkeypatch.setenv("FAKE_OBS_FAILS", '{"copy": ' + str(list(range(1, 1000))) + "}")
    assert start("") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "files have not reached obs://bucket/out (" in error
    assert len(left_in_scratch(tmp_path)) == len(WRITTEN)


def test_a_failed_training_keeps_its_exit_code_if_results_can_not_be_sent(start, monkeypatch, without_pauses, capsys):
    monkeypatch.setenv("FAKE_OBS_FAILS", '{"copy": ' + str(list(range(1, 1000))) + "}")
    assert start("sys.exit(7)") == 7
    assert "files have not reached" in capsys.readouterr().err


def test_the_first_start_of_a_job_that_may_be_started_again(start, capsys):
    assert start("", "--checkpoint_url=obs://bucket/out/") == 0
    assert "first start" in capsys.readouterr().out


def test_a_checkpoint_url_without_weights_or_run_is_refused(start, tmp_path, capsys):
    assert start("", "--checkpoint_url=obs://bucket/typo") == 2
    assert list((tmp_path / "cache").glob("start_*")) == []
    assert (
        "neither a weights file nor a run directory, which has a config.yaml; check the url, or"
        in capsys.readouterr().err
    )


def test_a_local_run_needs_no_store(start, tmp_path, data, monkeypatch):
    monkeypatch.setenv("RANK_ID", "5")  # the machine's own, which a local run does not look at
    urls = [f"--data_url={data}", f"--train_url={tmp_path / 'results'}"]
    assert start("", "--modelarts=False", *urls) == 0
    assert (tmp_path / "results" / "checkpoints" / "weights_e1.safetensors").is_file()


def test_one_card_of_several_boot_processes(start, bucket, monkeypatch, capsys):
    monkeypatch.setenv("RANK_SIZE", "8")
    for rank, files in ((3, set()), (0, WRITTEN)):
        monkeypatch.setenv("RANK_ID", str(rank))
        assert start("", "--run_distribute=False") == 0
        assert files_out(bucket) == files
    assert "another process of this job uses it" in capsys.readouterr().out


def test_only_the_first_of_several_boot_processes_sends(start, bucket, monkeypatch):
    monkeypatch.setenv("RANK_SIZE", "8")
    monkeypatch.setenv("RANK_ID", "3")
    assert start("") == 0
    assert not (bucket / "out").exists()
