"""The whole way of a newcomer in small: world, a training killed and resumed, evaluation, score, extract, export."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_world

from mindloc.cli import main
from mindloc.descriptors.sets import load_descriptor_set
from mindloc.runtime import process as signals
from mindloc.runtime.checkpoint import load_weights
from mindloc.runtime.run_folder import CLOCK_KEYS, read_metrics

PROJECT = Path(__file__).parents[2]
SETTINGS = {
    **small_world.SETTINGS,
    "train.epochs": 2,
    "train.eval_every_epochs": 2,
    "train.checkpoint_every_steps": 3,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "world"
    assert main(["world", str(root), *small_world.world_words(drones=48)]) == 0
    return root


def train(root: Path, *arguments: str, fault: str = "") -> subprocess.CompletedProcess:
    """train.py in a process of its own, as a user starts it."""
    environment = {**os.environ, "MINDLOC_FAULT": fault, "GLOG_v": "3"}
    return subprocess.run(
        [sys.executable, str(PROJECT / "train.py"), *arguments],
        cwd=root.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def new_run(root: Path, run: Path) -> list[str]:
    return [*small_world.set_words({**SETTINGS, "data.root": root}), "--run_dir", str(run)]


@pytest.fixture(scope="module")
def run(world, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    done = train(world, *new_run(world, folder))
    assert done.returncode == 0, done.stderr
    return folder


def lines_of(run: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in CLOCK_KEYS} for line in read_metrics(run / "metrics.jsonl")]


def assert_same_end(run: Path, whole: Path) -> None:
    """Same weights, log and scores."""
    ends = [load_weights(folder / "checkpoints" / "weights_end.safetensors").arrays for folder in (whole, run)]
    assert ends[0].keys() == ends[1].keys()
    for name, array in ends[0].items():
        np.testing.assert_array_equal(array, ends[1][name], err_msg=name)
    assert lines_of(run) == lines_of(whole)
    for report in (whole / "reports").glob("*/report.json"):
        found = json.loads((run / report.relative_to(whole)).read_text())
        assert found["methods"] == json.loads(report.read_text())["methods"]


def test_a_killed_and_resumed_training_ends_as_the_whole_one(world, run, tmp_path):
    killed = tmp_path / "killed"
    assert train(world, *new_run(world, killed), fault="epoch.mid:2").returncode != 0
    assert not (killed / "checkpoints" / "weights_end.safetensors").exists()
    resumed = train(world, "--resume", str(killed))
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed from" in resumed.stdout
    assert_same_end(killed, run)


def batches_of_one_evaluation(report: Path) -> tuple[int, int]:
    """(of the queries, of the gallery)"""
    counts = [len((report / side / "rows.jsonl").read_text().splitlines()) for side in ("query", "reference")]
    return tuple(math.ceil(count / SETTINGS["eval.batch_size"]) for count in counts)


def test_a_training_killed_within_an_evaluation_ends_as_the_whole_one(world, run, tmp_path):
    killed = tmp_path / "killed"
    query, gallery = batches_of_one_evaluation(run / "reports" / "zero_shot")
    passage = (query + gallery) + query + 1  # the evaluation after the second epoch, its queries done
    assert train(world, *new_run(world, killed), fault=f"extract.mid:{passage}").returncode == -signal.SIGKILL
    report = killed / "reports" / "e2"
    assert (report / "query").exists() and not (report / "reference").exists()
    assert not (report / "report.json").exists()
    resumed = train(world, "--resume", str(killed))
    assert resumed.returncode == 0, resumed.stderr
    assert {path.name for path in report.iterdir()} == {path.name for path in (run / "reports" / "e2").iterdir()}
    assert_same_end(killed, run)


def test_going_on_for_longer_restates_the_schedule(world, run, tmp_path):
    longer = tmp_path / "longer"
    subprocess.run(["cp", "-r", str(run), str(longer)], check=True)
    done = train(world, "--resume", str(longer), "--epochs", "3")
    assert done.returncode == 0, done.stderr
    assert "schedule restated" in done.stdout and "epochs 2 -> 3" in done.stdout
    assert max(line["epoch"] for line in lines_of(longer)) == 3


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_stopped_training_says_how_to_go_on(world, tmp_path, name):
    command = [sys.executable, str(PROJECT / "train.py"), *new_run(world, tmp_path / "run"), "--epochs", "500"]
    command += ["--set", "train.zero_shot_eval=false", "--set", "train.log_every_steps=1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        next(line for line in process.stdout if "step 5/" in line)
        process.send_signal(getattr(signal, name))
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.splitlines() == [
        f"go on from the newest checkpoint with: --resume {tmp_path / 'run'}",
        "stopped",
    ]


def test_a_training_that_is_ended_while_it_compiles_would_say_it_too(run, monkeypatch):
    heard = []
    monkeypatch.setattr("mindloc.training.trainer.train", lambda prepared, run: heard.extend(signals._last_words))
    assert main(["train", "--resume", str(run)]) == 0
    assert heard == [f"go on from the newest checkpoint with: --resume {run}"]


def test_going_on_for_fewer_epochs_than_are_done_is_refused(run, capsys):
    before = (run / "config.yaml").read_bytes()
    assert main(["train", "--resume", str(run), "--epochs", "1"]) == 2
    assert "train.epochs is 1, but" in capsys.readouterr().err
    assert (run / "config.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "sampling.mode=exclusive", "--set", "train.batch_size=48"], "fills no batch of 48"),
        (["--checkpoint_start", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--set", "train.precision=fp16"], "fp16"),
    ],
)
def test_a_refused_training_leaves_no_run_folder(world, tmp_path, capsys, arguments, says):
    assert main(["train", *new_run(world, tmp_path / "refused"), *arguments]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "refused").exists()


def test_beginning_from_weights_alone(world, run, tmp_path):
    start = run / "checkpoints" / "weights_end.safetensors"
    settings = ["--checkpoint_start", str(start), "--lr", "0", "--epochs", "1"]
    done = train(world, *new_run(world, tmp_path / "again"), *settings)
    assert done.returncode == 0, done.stderr
    begun, ended = (
        load_weights(start).arrays,
        load_weights(tmp_path / "again/checkpoints/weights_end.safetensors").arrays,
    )
    for name, array in begun.items():  # nothing is learned at a rate of 0, so they are what they were
        np.testing.assert_array_equal(array, ended[name], err_msg=name)


def test_evaluation_asks_for_no_architecture_and_can_be_recomputed(world, run, tmp_path, capsys):
    checkpoint = str(run / "checkpoints" / "weights_best.safetensors")
    assert main(["eval", "--checkpoint", checkpoint, "--out", str(tmp_path / "report")]) == 0
    first = json.loads((tmp_path / "report/report.json").read_text())
    for name in ("report.md", "contact_sheet.png", "distance_curve.png", "queries.jsonl"):
        assert (tmp_path / "report" / name).stat().st_size > 0
    assert main(["score", str(tmp_path / "report")]) == 0
    assert json.loads((tmp_path / "report/report.json").read_text())["methods"] == first["methods"]
    assert "constant" in capsys.readouterr().out.lower()


def test_a_test_set_may_come_alone(world, run, tmp_path, capsys):
    shutil.copytree(world, tmp_path / "alone")
    (tmp_path / "alone" / SETTINGS["data.train_pairs"]).unlink()
    checkpoint = str(run / "checkpoints" / "weights_best.safetensors")
    arguments = ["--checkpoint", checkpoint, "--data_root", str(tmp_path / "alone"), "--out", str(tmp_path / "report")]
    assert main(["eval", *arguments]) == 0
    assert "note: No constant answer: no training pairs were at hand." in capsys.readouterr().out


def test_tiles_can_ask_for_drone_pictures(run, tmp_path):
    checkpoint = str(run / "checkpoints" / "weights_best.safetensors")
    arguments = ["--checkpoint", checkpoint, "--query_mode", "S2D", "--split", "train", "--out", str(tmp_path / "s2d")]
    assert main(["eval", *arguments]) == 0
    report = json.loads((tmp_path / "s2d/report.json").read_text())
    assert report["data"]["query_view"] == "satellite"


def test_extract_writes_the_descriptors_that_evaluation_uses(world, run, tmp_path):
    checkpoint = str(run / "checkpoints" / "weights_best.safetensors")
    assert main(["eval", "--checkpoint", checkpoint, "--out", str(tmp_path / "report")]) == 0
    assert main(["extract", str(world), "--checkpoint", checkpoint, "--out", str(tmp_path / "set")]) == 0
    extracted, gallery = load_descriptor_set(tmp_path / "set"), load_descriptor_set(tmp_path / "report/gallery")
    position = {name: index for index, name in enumerate(extracted.names)}
    index = [position[name] for name in gallery.names]
    np.testing.assert_allclose(extracted.descriptor_ND[index], gallery.descriptor_ND, atol=1e-5)


def test_export_is_reloaded_and_compared(run, tmp_path, capsys):
    checkpoint = str(run / "checkpoints" / "weights_best.safetensors")
    assert main(["export", "--checkpoint_file", checkpoint, "--out", str(tmp_path), "--view", "satellite"]) == 0
    assert "reloaded" in capsys.readouterr().out
    card = json.loads((tmp_path / "satellite.mindir.json").read_text())
    assert card["views"] == ["satellite"]


def test_exported_files_are_evaluated_without_the_checkpoint(run, world, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    checkpoint = ["--checkpoint", str(run / "checkpoints" / "weights_best.safetensors")]
    assert main(["eval", *checkpoint, "--out", str(tmp_path / "live")]) == 0
    form = ["--file_format", "ONNX", "--batch_size", "16", "--out", str(tmp_path / "e")]
    assert main(["export", *checkpoint, *form]) == 0
    alone = ["--engine", "onnx", "--exported", str(tmp_path / "e"), "--device_target", "CPU"]
    assert main(["eval", *alone, "--out", str(tmp_path / "onnx")]) == 0
    live, onnx = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("live", "onnx"))
    for metric in ("recall@1", "recall@10"):
        assert onnx["methods"]["model"]["pos"][metric] == live["methods"]["model"]["pos"][metric]
    assert onnx["origin"]["engine"] == "onnx" and onnx["origin"]["provider"] == "CPUExecutionProvider"
    assert onnx["origin"]["checkpoint_sha256"] == live["origin"]["checkpoint_sha256"]
    capsys.readouterr()
    rounded = [*alone, "--precision", "int8", "--out", str(tmp_path / "int8")]
    assert main(["extract", str(world / "satellite"), *rounded]) == 0
    assert "agreement of int8 with fp32: cosine 0.99" in capsys.readouterr().out
    card = load_descriptor_set(tmp_path / "int8").card
    assert card["precision"] == "int8" and card["agreement"]["global"]["cosine_min"] > 0.99
    assert card["exported"]["satellite"]["file"] == "encoder.onnx"
