"""A training run with hard negatives, started as by a user; killed runs are in tests/training/test_hard_kill.py."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from small_world import PROJECT, SETTINGS, finish, lines_of, set_words, start, trained

from mindloc.launch.host import free_port
from mindloc.training.reporting import read_metrics

pytestmark = pytest.mark.slow

HARD_SETTINGS = {
    **SETTINGS,
    "sampling.hard_negatives": "both",
    "sampling.neighbors": 6,
    "sampling.mined_per_pair": 2,
    "train.epochs": 3,
    "train.checkpoint_every_steps": 3,
    "train.zero_shot_eval": False,
    "train.eval_every_epochs": 0,
}


@pytest.fixture(scope="module")
def words(tiny_world) -> list[str]:
    return set_words({**HARD_SETTINGS, "data.root": tiny_world})


@pytest.fixture(scope="module")
def of_two(words, tmp_path_factory) -> Path:
    """A directory with what two ranks wrote, and their run directory ``run``."""
    out = tmp_path_factory.mktemp("of two")
    program = Path(__file__).with_name("train_and_print.py")
    command = ["msrun", "--worker_num=2", "--local_worker_num=2", "--join=True", f"--log_dir={out / 'logs'}"]
    command += [f"--master_port={free_port()}", program, out, *words, "--run_dir", out / "run"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = finish(start(command, env={"PATH": path, "PYTHONPATH": str(PROJECT / "src")}))
    logs = [(out / "logs" / f"worker_{rank}.log").read_text()[-3000:] for rank in range(2)]
    assert done.returncode == 0, "\n".join(logs)
    return out


def test_each_epoch_is_sampled_by_the_neighbors_that_were_found_before_it(of_two):
    lines = lines_of(of_two / "run")
    assert [line["epoch"] for line in lines if line["kind"] == "neighbors"] == [1, 2]  # not after the last
    mined = [line["sampling"]["mined"] for line in lines if line["kind"] == "epoch"]
    assert mined[0] == 0 and min(mined[1:]) > 0
    assert not (of_two / "run" / "neighbors").exists()  # the sets that they were found in


def test_a_search_before_the_first_epoch_is_logged_like_every_other(words, tmp_path):
    run = tmp_path / "run"
    trained(*words, "--set", "sampling.hard_from_epoch=0", "--set", "train.epochs=2", "--run_dir", run)
    lines = read_metrics(run / "metrics.jsonl")
    found = [(line["epoch"], line["step"]) for line in lines if line["kind"] == "neighbors"]
    steps = next(line["steps"] for line in lines if line["kind"] == "epoch")
    assert found == [(0, 0), (1, steps)]
    assert all(line["neighbors_s"] > 0 for line in lines if line["kind"] == "neighbors")
    assert min(line["sampling"]["mined"] for line in lines if line["kind"] == "epoch") > 0
    log = (run / "log.txt").read_text()
    assert "neighbors found for epoch 1 " in log and "s imports, neighbors and preparation, " in log


def test_two_ranks_sample_by_one_table_and_learn_the_same_weights(of_two):
    reports = [json.loads((of_two / f"rank_{rank}.json").read_text()) for rank in range(2)]
    assert reports[0] == reports[1]
    assert reports[0] == [line["sampling"] for line in lines_of(of_two / "run") if line["kind"] == "epoch"]
    assert min(report["mined"] for report in reports[0][1:]) > 0
    first, second = (dict(np.load(of_two / f"rank_{rank}.npz")) for rank in range(2))
    assert first.keys() == second.keys() and {"table", "epoch_2", "log_logit_scale"} <= first.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array, err_msg=name)
