"""A two-stage encoder by whole commands: killed and resumed, evaluated, exported, evaluated from its file, searched."""

import json
from pathlib import Path

import numpy as np
import pytest
from small_world import RUN_SETTINGS, end_weights, set_words, train, trained

from mindloc.cli import main

pytestmark = pytest.mark.slow

SETTINGS = {
    **RUN_SETTINGS,
    "head.name": "two_stage",
    "head.channels": 16,
    "head.nodes": 3,
    "loss.phi": "weighted_infonce",
    "search.recall_n": 4,
    "search.consistency_m": 2,
    "train.zero_shot_eval": "false",
}


@pytest.fixture(scope="module")
def words(tiny_world) -> list[str]:
    return set_words({**SETTINGS, "data.root": tiny_world})


@pytest.fixture(scope="module")
def run(words, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "whole"
    trained(*words, "--run_dir", directory)
    return directory


def report_of(directory: Path) -> dict:
    return json.loads((directory / "report.json").read_text(encoding="utf-8"))


def test_a_killed_and_resumed_training_ends_like_an_undisturbed_one(words, run, tmp_path):
    killed = tmp_path / "killed"
    assert train(*words, "--run_dir", killed, fault="epoch.mid:2").returncode != 0
    trained("--resume", killed)
    ends = [end_weights(directory) for directory in (run, killed)]
    assert {"head.csmg.centers", "head.non_local.last.weight", "log_logit_scale"} <= ends[0].keys()
    assert np.abs(ends[0]["head.non_local.last.weight"]).max() > 0  # no longer the identity
    for name, array in ends[0].items():
        np.testing.assert_array_equal(array, ends[1][name], err_msg=name)


def test_the_log_has_both_losses_and_the_evaluation_both_stages(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "omega" in json.dumps(line) and "loss" in line]
    assert steps, lines[:2]
    (report,) = (run / "reports").glob("*/report.json")
    assert {"model", "stage_one", "phi"} <= report_of(report.parent)["methods"].keys()


def test_an_exported_encoder_scores_and_searches_as_the_checkpoint(tiny_world, run, tmp_path, capsys):
    checkpoint = ["--checkpoint", str(run / "checkpoints" / "weights_end.safetensors")]
    assert main(["eval", *checkpoint, "--out", str(tmp_path / "live")]) == 0
    page = " ".join(capsys.readouterr().out.split())  # in lines of any length
    assert "the first N = 4 answers of Omega are re-ranked by Phi, of these the first M = 2 by node consistency" in page
    assert "Time per query: recall" in page
    assert (tmp_path / "live" / "contact_sheet.png").stat().st_size > 10_000
    assert main(["export", *checkpoint, "--file_format", "MINDIR", "--out", str(tmp_path / "files")]) == 0
    engine = ["--engine", "mindir", "--exported", str(tmp_path / "files")]
    assert main(["eval", *engine, "--data_root", str(tiny_world), "--out", str(tmp_path / "file")]) == 0
    live, file = report_of(tmp_path / "live"), report_of(tmp_path / "file")
    assert live["methods"]["model"] == file["methods"]["model"]
    assert live["methods"]["stage_one"] == file["methods"]["stage_one"]

    tiles = [str(tiny_world / "satellite"), "--places", "--out", str(tmp_path / "tiles")]
    assert main(["extract", *tiles, *checkpoint]) == 0
    assert main(["index", "build", str(tmp_path / "tiles"), "--index", str(tmp_path / "library")]) == 0
    answers = tmp_path / "answers.jsonl"
    words = ["--index", str(tmp_path / "library"), "--out", str(answers), "--top", "4"]
    assert main(["search", "--queries", str(tmp_path / "live" / "query"), *words, "--set", "search.recall_n=4"]) == 0
    found = {line["name"]: line for line in map(json.loads, answers.read_text().splitlines())}
    scored = [json.loads(line) for line in (tmp_path / "live" / "queries.jsonl").read_text().splitlines()]
    assert len(scored) > 3 and found.keys() >= {line["query"] for line in scored}
    for line in scored:  # an index has the tiles' bare names; the same four tiles are recalled
        names = {f"satellite/{answer['tile']}" for answer in found[line["query"]]["answers"]}
        assert names == set(line["answers"][:4])
