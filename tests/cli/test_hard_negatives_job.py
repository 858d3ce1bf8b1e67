"""A training with hard negatives as a user starts one; killed ones are in tests/training/test_hard_kill.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_world

from mindloc.cli import main
from mindloc.launch.host import free_port
from mindloc.runtime.run_folder import CLOCK_KEYS, read_metrics

PROJECT = Path(__file__).parents[2]
SETTINGS = {
    **small_world.SETTINGS,
    "sampling.hard_negatives": "both",
    "sampling.neighbors": 6,
    "sampling.companions": 2,
    "train.epochs": 3,
    "train.checkpoint_every_steps": 3,
    "train.zero_shot_eval": False,
    "train.eval_every_epochs": 0,
}


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> list[str]:
    """Arguments of a training, on a world of its own."""
    world = tmp_path_factory.mktemp("data") / "world"
    assert main(["world", str(world), *small_world.world_words(drones=32)]) == 0
    return small_world.set_words({**SETTINGS, "data.root": world})


def train(words: list[str], run: Path) -> Path:
    command = [sys.executable, str(PROJECT / "train.py"), *words, "--run_dir", str(run)]
    done = subprocess.run(command, env={**os.environ, "GLOG_v": "3"}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return run


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory) -> Path:
    return train(words, tmp_path_factory.mktemp("hard") / "run")


def lines_of(run: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in CLOCK_KEYS} for line in read_metrics(run / "metrics.jsonl")]


@pytest.mark.slow
def test_each_epoch_is_sampled_by_the_neighbors_that_were_found_before_it(whole):
    lines = lines_of(whole)
    assert [line["epoch"] for line in lines if line["kind"] == "neighbors"] == [1, 2]  # not after the last
    companions = [line["sampling"]["companions"] for line in lines if line["kind"] == "epoch"]
    assert companions[0] == 0 and min(companions[1:]) > 0
    assert not (whole / "neighbors").exists()  # the sets that they were found in


@pytest.mark.slow
def test_a_search_before_the_first_epoch_is_logged_as_every_other(words, tmp_path):
    begins = ["--set", "sampling.hard_from_epoch=0", "--set", "train.epochs=2"]
    run = train([*words, *begins], tmp_path / "run")
    lines = read_metrics(run / "metrics.jsonl")
    found = [(line["epoch"], line["step"]) for line in lines if line["kind"] == "neighbors"]
    steps = next(line["steps"] for line in lines if line["kind"] == "epoch")
    assert found == [(0, 0), (1, steps)]
    assert all(line["neighbors_s"] > 0 for line in lines if line["kind"] == "neighbors")
    assert min(line["sampling"]["companions"] for line in lines if line["kind"] == "epoch") > 0
    log = (run / "log.txt").read_text()
    assert "neighbors found for epoch 1 " in log and "s imports, neighbors and preparation, " in log


@pytest.mark.slow
def test_two_ranks_are_sampled_by_one_table_and_learn_the_same(words, tmp_path):
    program = str(Path(__file__).with_name("train_and_tell.py"))
    command = ["msrun", "--worker_num=2", "--local_worker_num=2", "--join=True", f"--log_dir={tmp_path / 'logs'}"]
    command += [f"--master_port={free_port()}", program, str(tmp_path), *words, "--run_dir", str(tmp_path / "run")]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "GLOG_v": "3", "PATH": path, "PYTHONPATH": str(PROJECT / "src")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    logs = [(tmp_path / "logs" / f"worker_{rank}.log").read_text()[-3000:] for rank in range(2)]
    assert done.returncode == 0, "\n".join(logs)
    reports = [json.loads((tmp_path / f"rank_{rank}.json").read_text()) for rank in range(2)]
    assert reports[0] == reports[1]
    assert reports[0] == [line["sampling"] for line in lines_of(tmp_path / "run") if line["kind"] == "epoch"]
    assert min(report["companions"] for report in reports[0][1:]) > 0
    first, second = (dict(np.load(tmp_path / f"rank_{rank}.npz")) for rank in range(2))
    assert first.keys() == second.keys() and {"table", "epoch_2", "log_logit_scale"} <= first.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array, err_msg=name)
