"""The reader of docs/data.md, with other views and without places: one file and one entry work with every command."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from small_world import PROJECT, set_words

from mindloc.cli import main
from mindloc.config import load_config
from mindloc.data.check import check_data
from mindloc.data.readers import read_split
from mindloc.registry import READERS, ReaderEntry
from mindloc.training.reporting import read_metrics

SCENES = {"train": 24, "test": 9}
SETTINGS = {
    "data.reader": "toy",
    "data.query_size_px": [32, 32],
    "data.reference_size_px": [32, 32],
    "model.backbone": "tiny",
    "model.reference_grid": 2,
    "loss.name": "infonce",
    "train.batch_size": 8,
    "train.epochs": 2,
    "eval.batch_size": 8,
    "run.operator_fusion": "never",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Images of coarse noise: visible in color, infrared as a gray negative."""
    root, random = tmp_path_factory.mktemp("toy"), np.random.default_rng(0)
    for split, scenes in SCENES.items():
        for view in ("visible", "infrared"):
            (root / view / split).mkdir(parents=True)
        for scene in range(scenes):
            visible = cv2.resize(random.integers(0, 256, (4, 4, 3), dtype=np.uint8), (40, 40))
            cv2.imwrite(str(root / "visible" / split / f"{scene:06}.png"), visible)
            cv2.imwrite(
                str(root / "infrared" / split / f"{scene:06}.png"), 255 - cv2.cvtColor(visible, cv2.COLOR_BGR2GRAY)
            )
    return root


@pytest.fixture(scope="module", autouse=True)
def toy(tmp_path_factory):
    """The file on the page as a module, and its entry in the registry."""
    code, entry = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "data.md").read_text(), re.DOTALL)
    directory = tmp_path_factory.mktemp("code")
    (directory / "toy_reader.py").write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(directory)
        entries = eval(f"{{{entry.replace('mindloc.data.toy:', 'toy_reader:')}}}", {"ReaderEntry": ReaderEntry})
        patch.setitem(READERS, "toy", entries["toy"])
        yield


def test_the_chinese_page_has_the_same_code():
    pages = [(PROJECT / "docs" / name).read_text() for name in ("data.md", "data.zh.md")]
    assert len({"".join(re.findall(r"```python\n.*?```", page, re.DOTALL)) for page in pages}) == 1


def words(root: Path, **changes) -> list[str]:
    return set_words({**SETTINGS, "data.root": root, **changes})


def config_of(root: Path, **changes):
    return load_config(None, words(root, **changes)[1::2])


@pytest.fixture(scope="module")
def run(root, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("run") / "run"
    assert main(["train", *words(root), "--run_dir", str(run)]) == 0
    return run


def test_it_is_read_with_its_own_view_names(root):
    config = config_of(root)
    assert (config.view("query").name, config.view("reference").name) == ("visible", "infrared")
    split = read_split(config.data, "test")
    assert len(split.query) == len(split.reference) == SCENES["test"]
    assert split.query.places is None and split.query.place_unit is None


def test_it_is_checked(root):
    report = check_data(config_of(root).data)
    assert report.ok, report.text()
    assert report.images == {"visible": 33, "infrared": 33}
    assert report.kept["pos"][:2] == [1.0, 1.0]  # 24 pairs without overlaps: batches of 4 and of 8


@pytest.mark.slow
def test_it_is_trained_and_evaluated_without_distances(run):
    lines = list(read_metrics(run / "metrics.jsonl"))
    assert [line["sampling"]["kept"] for line in lines if line["kind"] == "epoch"] == [24, 24]
    scores = [line["metrics"] for line in lines if line["kind"] == "evaluation"]
    assert len(scores) == 3  # before the first epoch and after each
    for score in scores:
        assert 0 <= score["recall@1"] <= score["recall@5"] <= 1 and 0 < score["ap"] <= 1
        assert not [name for name in score if name.startswith(("dis@", "sdm@"))]


@pytest.mark.slow
def test_it_is_evaluated_by_the_command_with_baselines(run, tmp_path, capsys):
    checkpoint = run / "checkpoints" / "weights_end.safetensors"
    assert not main(["eval", "--checkpoint", str(checkpoint), "--out", str(tmp_path / "report")])
    said = capsys.readouterr().out
    assert "visible" in said and "infrared" in said
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    model = report["methods"]["model"]["pos"]
    assert model["queries"] == SCENES["test"] and model["recall@1"] is not None
    assert not [name for name, value in model.items() if name.startswith(("dis@", "sdm@")) and value is not None]


@pytest.mark.slow
def test_its_images_are_extracted_and_their_names_state_no_places(root, run, tmp_path, capsys):
    words = [
        "extract",
        str(root / "infrared" / "test"),
        "--checkpoint",
        str(run / "checkpoints" / "weights_end.safetensors"),
    ]
    words += ["--view", "infrared", "--out", str(tmp_path / "set")]
    assert main([*words, "--places"]) == 2
    assert "image names state no places with data.reader=toy; leave --places out" in capsys.readouterr().err
    assert not main(words)
    card = json.loads((tmp_path / "set" / "card.json").read_text())
    assert (card["view"], card["place_unit"]) == ("infrared", None)
    assert len((tmp_path / "set" / "rows.jsonl").read_text().splitlines()) == SCENES["test"]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"loss.name": "weighted_infonce"},
            "(loss.name=weighted_infonce) reads iou of each pair, which data.reader=toy does not provide",
        ),
        ({"sampling.hard_negatives": "map"}, "sampling.hard_negatives=map needs places, but this data set has none"),
    ],
)
def test_a_missing_part_is_an_error_before_anything_is_written(root, tmp_path, capsys, changes, line):
    assert main(["train", *words(root, **changes), "--run_dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()
