"""A training with hard negatives as a user starts one; killed ones are in tests/training/test_hard_kill.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import small_world

from mindloc.cli import main
from mindloc.runtime.metrics_log import CLOCK_KEYS, read_metrics

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
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hard")
    assert main(["world", str(folder / "world"), *small_world.world_words(drones=32)]) == 0
    words = small_world.set_words({**SETTINGS, "data.root": folder / "world"})
    command = [sys.executable, str(PROJECT / "train.py"), *words, "--run_dir", str(folder / "run")]
    environment = {**os.environ, "GLOG_v": "3"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def lines_of(run: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in CLOCK_KEYS} for line in read_metrics(run / "metrics.jsonl")]


@pytest.mark.slow
def test_each_epoch_is_sampled_by_the_neighbors_that_were_found_before_it(whole):
    lines = lines_of(whole)
    assert [line["epoch"] for line in lines if line["kind"] == "neighbors"] == [1, 2]  # not after the last
    companions = [line["sampling"]["companions"] for line in lines if line["kind"] == "epoch"]
    assert companions[0] == 0 and min(companions[1:]) > 0
    assert not (whole / "neighbors").exists()  # the sets that they were found in
