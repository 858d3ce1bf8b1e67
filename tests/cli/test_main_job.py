"""First steps with a small trained encoder: evaluation, score, extract, export; and training runs that are refused."""

import json
import shutil

import numpy as np
import pytest
from small_world import RUN_SETTINGS, lines_of, set_words

from mindloc.cli import main
from mindloc.descriptors.sets import load_descriptor_set
from mindloc.runtime import process as signals
from mindloc.runtime.process import command_line


@pytest.fixture(scope="module")
def checkpoint(tiny_run) -> str:
    return str(tiny_run / "checkpoints" / "weights_best.safetensors")


@pytest.fixture(scope="module")
def live(checkpoint, tmp_path_factory):
    """The report directory of an evaluation of the checkpoint."""
    out = tmp_path_factory.mktemp("live") / "report"
    assert main(["eval", "--checkpoint", checkpoint, "--out", str(out)]) == 0
    return out


def report_of(directory) -> dict:
    return json.loads((directory / "report.json").read_text(encoding="utf-8"))


def test_a_training_logs_its_steps_and_evaluations(tiny_run):
    lines = lines_of(tiny_run)
    assert [line["epoch"] for line in lines if line["kind"] == "epoch"] == [1, 2]
    assert [line["epoch"] for line in lines if line["kind"] == "evaluation"] == [0, 2]  # zero-shot, then every second


def test_evaluation_needs_no_architecture_and_can_be_recomputed(live, capsys):
    first = report_of(live)
    for name in ("report.md", "contact_sheet.png", "distance_curve.png", "queries.jsonl"):
        assert (live / name).stat().st_size > 0
    assert main(["score", str(live)]) == 0
    assert report_of(live)["methods"] == first["methods"]
    assert "constant" in capsys.readouterr().out.lower()


def test_a_data_set_may_have_only_a_test_split(tiny_world, checkpoint, tmp_path, capsys):
    shutil.copytree(tiny_world, tmp_path / "alone")
    (tmp_path / "alone" / RUN_SETTINGS["data.train_pairs"]).unlink()
    arguments = ["--checkpoint", checkpoint, "--data_root", str(tmp_path / "alone"), "--out", str(tmp_path / "report")]
    assert main(["eval", *arguments]) == 0
    assert "note: No constant answer: no training pairs were available." in capsys.readouterr().out


def test_tiles_can_be_the_queries(checkpoint, tmp_path):
    arguments = ["--checkpoint", checkpoint, "--query_mode", "S2D", "--split", "train", "--out", str(tmp_path / "s2d")]
    assert main(["eval", *arguments]) == 0
    assert report_of(tmp_path / "s2d")["data"]["query_view"] == "satellite"


def test_extract_writes_the_descriptors_that_evaluation_uses(tiny_world, checkpoint, live, tmp_path):
    assert main(["extract", str(tiny_world), "--checkpoint", checkpoint, "--out", str(tmp_path / "set")]) == 0
    extracted, gallery = load_descriptor_set(tmp_path / "set"), load_descriptor_set(live / "reference")
    position = {name: index for index, name in enumerate(extracted.names)}
    index = [position[name] for name in gallery.names]
    np.testing.assert_allclose(extracted.descriptor_ND[index], gallery.descriptor_ND, atol=1e-5)


def test_export_is_reloaded_and_compared(checkpoint, tmp_path, capsys):
    assert main(["export", "--checkpoint_file", checkpoint, "--out", str(tmp_path), "--view", "satellite"]) == 0
    assert "reloaded" in capsys.readouterr().out
    card = json.loads((tmp_path / "satellite.mindir.json").read_text())
    assert card["sides"] == {"reference": "satellite"}


def test_exported_files_are_evaluated_without_the_checkpoint(tiny_world, checkpoint, live, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    form = ["--file_format", "ONNX", "--batch_size", "16", "--out", str(tmp_path / "e")]
    assert main(["export", "--checkpoint", checkpoint, *form]) == 0
    alone = ["--engine", "onnx", "--exported", str(tmp_path / "e"), "--device_target", "CPU"]
    assert main(["eval", *alone, "--out", str(tmp_path / "onnx")]) == 0
    expected, onnx = report_of(live), report_of(tmp_path / "onnx")
    for metric in ("recall@1", "recall@10"):
        assert onnx["methods"]["model"]["pos"][metric] == expected["methods"]["model"]["pos"][metric]
    assert onnx["origin"]["engine"] == "onnx" and onnx["origin"]["provider"] == "CPUExecutionProvider"
    assert onnx["origin"]["checkpoint_sha256"] == expected["origin"]["checkpoint_sha256"]
    capsys.readouterr()
    rounded = [*alone, "--precision", "int8", "--out", str(tmp_path / "int8")]
    assert main(["extract", str(tiny_world / "satellite"), *rounded]) == 0
    assert "agreement of int8 with fp32: cosine 0.99" in capsys.readouterr().out
    card = load_descriptor_set(tmp_path / "int8").card
    assert card["precision"] == "int8" and card["agreement"]["global"]["cosine_min"] > 0.99
    assert card["exported"]["reference"]["file"] == "encoder.onnx"


def test_a_training_ended_during_compilation_prints_how_to_continue(tiny_run, tmp_path, monkeypatch):
    run, heard = shutil.copytree(tiny_run, tmp_path / "run"), []
    monkeypatch.setattr("mindloc.training.trainer.train", lambda prepared, run: heard.extend(signals._last_words))
    assert main(["train", "--resume", str(run)]) == 0
    assert heard == [f"continue from the newest checkpoint with: {command_line('train', '--resume', run)}"]


def test_continuing_for_fewer_epochs_than_are_done_is_refused(tiny_run, capsys):
    before = (tiny_run / "config.yaml").read_bytes()
    assert main(["train", "--resume", str(tiny_run), "--epochs", "1"]) == 2
    assert "train.epochs is 1, but" in capsys.readouterr().err
    assert (tiny_run / "config.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "sampling.mode=exclusive", "--set", "train.batch_size=48"], "fills no batch of 48"),
        (["--checkpoint_start", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--set", "train.precision=fp16"], "fp16"),
    ],
)
def test_a_refused_training_leaves_no_run_directory(tiny_world, tmp_path, capsys, arguments, says):
    words = [*set_words({**RUN_SETTINGS, "data.root": tiny_world}), "--run_dir", str(tmp_path / "refused")]
    assert main(["train", *words, *arguments]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "refused").exists()
