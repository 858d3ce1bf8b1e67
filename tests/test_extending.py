"""The examples of docs/extending.md are written to files and added to the tables; they train, evaluate and extract."""

import importlib
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from mindloc import registry
from mindloc.cli import main
from mindloc.config import load_config
from mindloc.data.check import check_data
from mindloc.data.readers import read_split
from mindloc.descriptors.sets import load_descriptor_set
from mindloc.errors import DataError

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = re.findall(r"\*\*src/mindloc/(\w+)/(\w+\.py)\*\*:\n\n```python\n(.*?)```", PAGE, re.DOTALL)
LINES = re.findall(r"In `([A-Z]+)`:\n\n```python\n(.*?)```", PAGE, re.DOTALL)
PAIRS, SIDE_PX = 12, 32


@pytest.fixture
def extended(tmp_path, monkeypatch):
    """mindloc with the five parts of the page."""
    for package, name, text in FILES:
        directory = tmp_path / "parts" / package
        directory.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
        found = importlib.import_module(f"mindloc.{package}")
        monkeypatch.setattr(found, "__path__", [*found.__path__, str(directory)])
    for table, line in LINES:
        for name, entry in eval(f"{{{line}}}", vars(registry)).items():
            monkeypatch.setitem(getattr(registry, table), name, entry)


@pytest.fixture
def scenes(tmp_path) -> Path:
    """Images of colored squares, in color and in gray."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for view in ("visible", "infrared"):
            (tmp_path / "scenes" / view / split).mkdir(parents=True)
        for number in range(PAIRS):
            scene = cv2.resize(
                random.integers(0, 256, (4, 4, 3), dtype=np.uint8), (64, 64), interpolation=cv2.INTER_AREA
            )
            cv2.imwrite(str(tmp_path / "scenes" / "visible" / split / f"{number:02}.png"), scene)
            gray = cv2.cvtColor(scene, cv2.COLOR_BGR2GRAY)
            cv2.imwrite(str(tmp_path / "scenes" / "infrared" / split / f"{number:02}.png"), gray)
    return tmp_path / "scenes"


def words_of(scenes: Path, **changes) -> list[str]:
    settings = {
        "data.reader": "image_pairs",
        "data.root": scenes,
        "data.query_size_px": f"[{SIDE_PX}, {SIDE_PX}]",
        "data.reference_size_px": f"[{SIDE_PX}, {SIDE_PX}]",
        "model.backbone": "patch_mlp",
        "head.name": "max",
        "head.channels": 24,
        "loss.name": "soft_margin",
        "sampling.mode": "random",
        "augment.enabled": False,
        "optimizer.lr": 0.003,
        "train.batch_size": 6,
        "train.epochs": 30,
        "train.eval_every_epochs": 30,
        "eval.batch_size": 6,
        "run.operator_fusion": "never",
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    return [f"{key}={value}" for key, value in settings.items()]


def test_the_page_has_an_example_for_every_table():
    assert [table for table, _ in LINES] == ["READERS", "BACKBONES", "HEADS", "LOSSES", "ENGINES"]
    assert len(FILES) == len(LINES)


def test_the_examples_train_evaluate_and_extract(extended, scenes, tmp_path):
    run = tmp_path / "run"
    words = [word for setting in words_of(scenes) for word in ("--set", setting)]
    assert main(["train", *words, "--device_target", "CPU", "--run_dir", str(run)]) == 0
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [step["loss"] for step in steps if "loss" in step and "step_s" in step]
    assert len(losses) == 30 * (PAIRS // 6) and losses[-1] < 0.5 * losses[0]

    weights = str(run / "checkpoints" / "weights_end.safetensors")
    report = tmp_path / "report"
    assert main(["eval", "--checkpoint", weights, "--engine", "mirrored", "--out", str(report)]) == 0
    found = json.loads((report / "report.json").read_text())
    numbers = found["methods"]["model"]["pos"]
    assert numbers["queries"] == PAIRS and 0 <= numbers["recall@1"] <= 1 and numbers.get("dis@1_median_m") is None
    assert found["data"]["query_view"] == "visible" and found["origin"]["engine"] == "mirrored"
    assert "No constant answer: the training pairs name none of these references." in found["notes"]

    directory = scenes / "infrared" / "test"
    command = [str(directory), "--checkpoint", weights, "--view", "infrared", "--out", str(tmp_path / "set")]
    assert main(["extract", *command]) == 0
    described = load_descriptor_set(tmp_path / "set")
    assert described.descriptor_ND.shape == (PAIRS, 24) and described.card["view"] == "infrared"


def test_a_loss_whose_target_the_reader_does_not_state_is_an_error(extended, scenes, tmp_path, capsys):
    words = [word for setting in words_of(scenes, loss__name="weighted_infonce") for word in ("--set", setting)]
    assert main(["train", *words, "--device_target", "CPU", "--run_dir", str(tmp_path / "run")]) != 0
    said = capsys.readouterr().err
    assert "weighted_infonce" in said and "image_pairs" in said and "iou" in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_data_set_of_the_example_is_checked_and_may_have_one_split(extended, scenes):
    data = load_config(None, words_of(scenes)).data
    report = check_data(data)
    assert report.ok and report.images == {"visible": 2 * PAIRS, "infrared": 2 * PAIRS} and not report.notes
    (scenes / "visible" / "train").rename(scenes / "visible" / "unused")
    assert "no train split" in check_data(data).text() and check_data(data).ok


def test_the_reader_of_the_example_states_views_and_no_places(extended, scenes):
    split = read_split(load_config(None, words_of(scenes)).data, "train")
    assert (split.query.view, split.reference.view) == ("visible", "infrared")
    assert split.query.places is None and len(split.query.files) == len(split.positive) == PAIRS


def test_an_absent_data_set_of_the_example_is_named_in_one_line(extended, tmp_path):
    with pytest.raises((DataError, OSError)):
        read_split(load_config(None, words_of(tmp_path / "nowhere")).data, "train")
