"""Whole jobs through modelarts/start.py, against an object store that fails, is slow and is interrupted."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_world

from mindloc.cli import main as mindloc
from mindloc.runtime.checkpoint import complete_checkpoints, load_weights
from mindloc.training.reporting import CLOCK_KEYS, read_metrics

PROJECT = Path(__file__).parents[2]
PLATFORM = Path(__file__).parent / "packages" / "platform"
SETTINGS = {
    **small_world.SETTINGS,
    "train.epochs": 4,
    "train.keep_checkpoints": 2,
    "eval.bootstrap": 100,
    "eval.histogram_baseline": "false",
    "run.device_target": "CPU",
}
PARAMETERS = ["--data_url=obs://bucket/world", "--modelarts=True", "--run_distribute=False", "--num_gpus=1"]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """The directory behind obs://, with a data set in its bucket."""
    root = tmp_path_factory.mktemp("obs")
    assert mindloc(["world", str(root / "bucket" / "world"), *small_world.world_words(drones=16)]) == 0
    return root


def job(store: Path, *parameters: str, fails: dict | None = None, fault: str = "") -> subprocess.Popen:
    """A boot process as the console starts it, in an image with moxing."""
    scratch = ["--scratch", str(store.parent / "cache"), "--upload_every_s=0.2"]
    words = [*PARAMETERS, *small_world.set_words(SETTINGS), *scratch, *parameters]
    environment = {
        **os.environ,
        "PYTHONPATH": str(PLATFORM),
        "FAKE_OBS": str(store),
        "FAKE_OBS_FAILS": json.dumps(fails or {}),
        "FAKE_OBS_SLOW_S": "0.02",
        "MINDLOC_FAULT": fault,
    }
    return subprocess.Popen(
        [sys.executable, str(PROJECT / "modelarts" / "start.py"), *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(store: Path, *parameters: str, **trouble) -> tuple[int, str, str]:
    process = job(store, *parameters, **trouble)
    out, error = process.communicate()
    return process.returncode, out, error


def files_of(directory: Path) -> set[str]:
    """The files of a train_url, without the jobs' logs, whose names contain the time."""
    names = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    return {name for name in names if not name.startswith("logs/")}


@pytest.fixture(scope="module")
def whole(store) -> Path:
    """train_url of a job that is not interrupted, with a store that fails now and then."""
    fails = {"copy_parallel": [1], "copy": [2, 9, 17]}
    code, out, error = run(store, "--train_url=obs://bucket/whole", "--eval=False", fails=fails)
    assert code == 0, error + out
    assert "connection reset; trying again" in out  # data, halfway
    assert out.count("is not sent yet: mox.file.copy") == 3
    assert "ignored, mindloc has no such parameter: --num_gpus=1" in out
    return store / "bucket" / "whole"


@pytest.mark.slow
def test_an_interrupted_job_that_is_started_again_ends_like_an_uninterrupted_one(store, whole):
    url = "--train_url=obs://bucket/run"
    code, out, error = run(store, url, "--eval=False", fault="state.after_rename:3")
    assert code == 128 + signal.SIGKILL, error + out
    broken = store / "bucket" / "run"
    assert len(complete_checkpoints(broken / "checkpoints")) == 3  # killed before the oldest was dropped
    assert not (broken / "checkpoints" / "weights_end.safetensors").exists()

    again = ["--checkpoint_url=obs://bucket/run", "--begin_epoch=3", "--eval=False"]
    code, out, error = run(store, url, *again, fails={"copy_parallel": [1], "copy": [3]})
    assert code == 0, error + out
    assert "resumed from weights_e3" in out
    assert files_of(broken) == files_of(whole)
    assert len(complete_checkpoints(broken / "checkpoints")) == SETTINGS["train.keep_checkpoints"]
    ends = [load_weights(directory / "checkpoints" / "weights_end.safetensors").arrays for directory in (whole, broken)]
    for name, array in ends[0].items():
        np.testing.assert_array_equal(array, ends[1][name], err_msg=name)
    lines = [
        [{k: v for k, v in line.items() if k not in CLOCK_KEYS} for line in read_metrics(directory / "metrics.jsonl")]
        for directory in (whole, broken)
    ]
    assert lines[0] == lines[1]


@pytest.mark.slow
def test_a_run_is_not_written_over_another_one(store, whole):
    code, _, error = run(store, "--train_url=obs://bucket/whole")
    assert code == 2
    assert error == (
        "error: train_url obs://bucket/whole contains a run; give a new directory, or continue that run: "
        "--checkpoint_url obs://bucket/whole\n"
    )


@pytest.mark.slow
def test_an_evaluation_sends_its_report_and_leaves_the_run_alone(store, whole):
    before = {name: (whole / name).read_bytes() for name in files_of(whole)}
    parameters = ["--checkpoint_url=obs://bucket/whole", "--train_url=obs://bucket/whole", "--evaluate_only=True"]
    code, out, error = run(store, *parameters)
    assert code == 0, error + out
    assert "report: obs://bucket/whole/reports/test_weights_end/report.json" in out
    report = json.loads((whole / "reports" / "test_weights_end" / "report.json").read_text())
    assert report["methods"]["model"]["pos"]["recall@1"] is not None
    assert {name: (whole / name).read_bytes() for name in before} == before
