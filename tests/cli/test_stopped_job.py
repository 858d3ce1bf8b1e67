"""A training run, started as by a user: killed, stopped, continued, started from weights; kills at every point are in
tests/training.
"""

import json
import math
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from small_world import PROJECT, RUN_SETTINGS, end_weights, finish, lines_of, set_words, start, train, trained

from mindloc.runtime.checkpoint import complete_checkpoints

pytestmark = pytest.mark.slow


def new_run(world: Path, run: Path) -> list[str]:
    return [*set_words({**RUN_SETTINGS, "data.root": world}), "--run_dir", str(run)]


def assert_same_end(run: Path, whole: Path) -> None:
    """Check that both runs have the same weights, log and scores."""
    ends = [end_weights(directory) for directory in (whole, run)]
    assert ends[0].keys() == ends[1].keys()
    for name, array in ends[0].items():
        np.testing.assert_array_equal(array, ends[1][name], err_msg=name)
    assert lines_of(run) == lines_of(whole)
    for report in (whole / "reports").glob("*/report.json"):
        found = json.loads((run / report.relative_to(whole)).read_text())
        assert found["methods"] == json.loads(report.read_text())["methods"]


def test_a_run_killed_in_an_epoch_and_in_an_evaluation_ends_like_an_undisturbed_one(tiny_world, tiny_run, tmp_path):
    killed = tmp_path / "killed"
    assert train(*new_run(tiny_world, killed), fault="epoch.mid:2").returncode == -signal.SIGKILL
    assert not (killed / "checkpoints" / "weights_end.safetensors").exists()

    queries = len((tiny_run / "reports" / "e2" / "query" / "rows.jsonl").read_text().splitlines())
    passage = math.ceil(queries / RUN_SETTINGS["eval.batch_size"]) + 1  # the evaluation at the end, its queries done
    resumed = train("--resume", killed, fault=f"extract.mid:{passage}")
    assert resumed.returncode == -signal.SIGKILL, resumed.stderr
    assert "resumed from" in resumed.stdout
    report = killed / "reports" / "e2"
    (unfinished,) = report.parent.glob(".e2.*.partial")
    assert (unfinished / "query").exists() and not (unfinished / "reference").exists()
    assert not report.exists()

    trained("--resume", killed)
    assert not list(report.parent.glob(".*"))
    assert {path.name for path in report.iterdir()} == {path.name for path in (tiny_run / "reports" / "e2").iterdir()}
    assert_same_end(killed, tiny_run)


def test_a_longer_training_prints_the_new_schedule(tiny_run, tmp_path):
    longer = shutil.copytree(tiny_run, tmp_path / "longer")
    done = trained("--resume", longer, "--epochs", "3")
    assert "schedule changed after 2 epochs" in done.stdout and "epochs 2 -> 3" in done.stdout
    assert max(line["epoch"] for line in lines_of(longer)) == 3


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_stopped_training_says_how_to_continue(tiny_world, tmp_path, name):
    words = [*new_run(tiny_world, tmp_path / "run"), "--epochs", "500"]
    words += ["--set", "train.zero_shot_eval=false", "--set", "train.log_every_steps=1"]
    process = start([sys.executable, PROJECT / "train.py", *words])
    next(line for line in process.stdout if "step 5/" in line)
    process.send_signal(getattr(signal, name))
    done = finish(process)
    assert done.returncode == 130
    last = max(line["step"] for line in lines_of(tmp_path / "run") if line["kind"] == "step")
    newest = complete_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    assert last >= 5 and newest.name.endswith(f"_s{last}.safetensors")  # the step that was running is not lost
    assert done.stderr.splitlines() == [
        "stopping after this step, with a checkpoint; once more: at once",
        f"continue from the newest checkpoint with: {sys.executable} {PROJECT}/train.py --resume {tmp_path / 'run'}",
        "stopped",
    ]


def test_starting_from_weights_with_the_default_operator_fusion(tiny_world, tiny_run, tmp_path):
    first = tiny_run / "checkpoints" / "weights_end.safetensors"
    settings = ["--checkpoint_start", first, "--lr", "0", "--epochs", "1", "--set", "run.operator_fusion=auto"]
    trained(*new_run(tiny_world, tmp_path / "again"), *settings)
    ended = end_weights(tmp_path / "again")
    for name, array in end_weights(tiny_run).items():  # unchanged, since nothing is learned at a rate of 0
        np.testing.assert_array_equal(array, ended[name], err_msg=name)
