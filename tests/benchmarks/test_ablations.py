"""Ablations: runs with different settings have different directories, and variants are compared seed by seed."""

from pathlib import Path

import ablation
import pytest
from ablation import STUDIES, train_variant, variant_directory, variant_table

from mindloc.config import load_config

SETTINGS = {"sampling.mode": "random", "train.epochs": 3}


@pytest.fixture
def commands(monkeypatch):
    """The commands that would have been run."""
    run = []
    monkeypatch.setattr(ablation, "run_command", lambda words, log, jobs: run.append(words))
    return run


def test_the_same_settings_have_the_same_directory():
    assert variant_directory(Path("out"), "+ weights", SETTINGS) == variant_directory(
        Path("out"), "+ weights", SETTINGS
    )


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({**SETTINGS, "train.epochs": 4}, ()),
        ({**SETTINGS, "train.seed": 1}, ()),
        ({"sampling.mode": "random"}, ()),
        (SETTINGS, ("train.batch_size=16",)),
    ],
)
def test_different_settings_have_different_directories(settings, changes):
    assert variant_directory(Path(), "plain", settings, changes) != variant_directory(Path(), "plain", SETTINGS)


def test_the_order_of_changes_gives_different_directories():
    first, second = ("optimizer.lr=1", "optimizer.lr=2"), ("optimizer.lr=2", "optimizer.lr=1")
    assert variant_directory(Path(), "plain", SETTINGS, first) != variant_directory(Path(), "plain", SETTINGS, second)


def test_a_run_is_started_then_continued_and_not_repeated_when_finished(tmp_path, commands):
    run, config = tmp_path / "run", Path("tiny.yaml")
    assert train_variant(run, config, {"train.epochs": 3}, ["train.batch_size=16"])
    settings = ["--set", "train.epochs=3", "--set", "train.batch_size=16"]
    assert commands.pop() == ["train.py", "--config", "tiny.yaml", "--run_dir", str(run), *settings]
    run.mkdir()
    (run / "config.yaml").touch()
    assert train_variant(run, config, {"train.epochs": 3})
    assert commands.pop() == ["train.py", "--resume", str(run)]
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "weights_end.safetensors").touch()
    assert not train_variant(run, config, {"train.epochs": 3})
    assert not commands


@pytest.mark.parametrize("name", STUDIES)
def test_every_variant_is_a_config(name):
    study = STUDIES[name]
    for settings in study.variants.values():
        written = [f"{key}={value}" for key, value in {**study.settings, **settings}.items()]
        load_config(study.config, written)


def row(variant, seed, recall):
    others = {"recall@5": 0.2, "recall@10": 0.3, "ap": 0.1, "dis@1_median_m": 300.0}
    return {"variant": variant, "seed": seed, "recall@1": recall, **others, "kept_share": 1.0, ablation.SEMIPOS: 0.2}


def test_gains_are_those_of_the_same_seed():
    rows = [row("plain InfoNCE", 1, 0.04), row("plain InfoNCE", 2, 0.06)]
    rows += [row("+ exclusive batches", 2, 0.05), row("+ exclusive batches", 1, 0.07)]
    titles, (plain, exclusive) = variant_table(STUDIES["sampling"], rows)
    assert dict(zip(titles, plain, strict=True))["mean gain"] == ""
    found = dict(zip(titles, exclusive, strict=True))
    assert found["R@1, mean (min to max)"] == "6.00 (5.00 to 7.00)"
    assert found["gain over the compared variant"] == "-1.00, +3.00"  # 5 - 6 of seed 2, 7 - 4 of seed 1
    assert found["mean gain"] == "+1.00"


def test_variants_beside_the_ladder_are_compared_with_one_variant_of_it():
    study = STUDIES["sampling"]
    assert [study.compared_with(name) for name in study.ladder] == [None, *list(study.ladder)[:-1]]
    assert {study.compared_with(name) for name in study.beside} == {"+ weights"}
