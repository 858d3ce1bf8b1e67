"""A whole evaluation with an engine that returns colors, and the same scores again from disk alone."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mindloc.config import load_config
from mindloc.descriptors.sets import load_descriptor_set, save_descriptor_set
from mindloc.errors import DataError
from mindloc.evaluation.evaluate import evaluate
from mindloc.evaluation.rescore import load_setup, rescore, write_setup
from mindloc.evaluation.truth import make_task


class ColorEngine:
    """Descriptor = mean color."""

    descriptors = ("global",)
    batch_size, facts = 4, {"engine": "color", "precision": "fp32", "checkpoint_sha256": "abc"}

    def encode(self, batch):
        return {f"{view}.global": images.mean((2, 3)) for view, images in batch.items()}


class TwoStageColorEngine(ColorEngine):
    """Omega is the same for all images, Phi is the mean color."""

    descriptors = ("omega", "phi")

    def encode(self, batch):
        colors = {f"{view}.phi": images.mean((2, 3)) for view, images in batch.items()}
        return colors | {f"{view}.omega": np.ones((len(images), 4), np.float32) for view, images in batch.items()}


@pytest.fixture
def config():
    sizes = ["data.query_size_px=[16, 16]", "data.reference_size_px=[16, 16]", "eval.bootstrap=50"]
    return load_config(overrides=[*sizes, "data.workers=1"])


@pytest.fixture
def finished(config, color_split, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["eval.py", "--engine", "color"])
    directory = tmp_path / "report"
    return directory, evaluate(ColorEngine(), config, color_split, directory, color_split)


def test_the_numbers_are_those_of_the_colors(finished):
    methods = finished[1]["methods"]
    scores = methods["model"]["pos"]
    assert scores["recall@1"] == 1.0 and scores["queries"] == 5 and scores["queries_left_out"] == 1
    assert scores["dis@1_m"] == 10.0 and scores["distinct_top1"] == 5
    assert methods["color_histogram"]["pos"]["recall@1"] == 1.0
    assert methods["constant"]["pos"]["recall@1"] == 0.2  # tile 0 is correct for one of five
    assert methods["chance"]["pos"]["recall@1"] == pytest.approx(1 / 9)
    assert methods["chance"]["pos_semipos"]["recall@1"] == pytest.approx(2 / 9)


def test_a_directory_that_contains_anything_else_is_not_changed(config, color_split, tmp_path):
    kept = tmp_path / "mine" / "reference" / "a.png"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"mine")
    for directory, message in ((tmp_path / "mine", "neither empty nor an earlier"), (kept, "is a file")):
        with pytest.raises(DataError, match=message):
            evaluate(ColorEngine(), config, color_split, directory)
    assert kept.read_bytes() == b"mine" and [path.name for path in (tmp_path / "mine").iterdir()] == ["reference"]


def test_the_directory_contains_everything(finished):
    directory, _ = finished
    names = {path.name for path in directory.iterdir()}
    assert names == {
        *("query", "reference", "baselines", "truth.jsonl", "setup.json", "queries.jsonl"),
        *("report.json", "report.md", "contact_sheet.png", "distance_curve.png"),
    }
    for figure in ("contact_sheet.png", "distance_curve.png"):
        with Image.open(directory / figure) as image:
            assert image.size[0] > 1000 and len(image.getcolors(1 << 20)) > 20
    report = json.loads((directory / "report.json").read_text())
    assert report["origin"]["command"].endswith("eval.py --engine color")
    assert report["origin"]["checkpoint_sha256"] == "abc"
    assert report["seed"] == 1 and "pessimistic" in report["conventions"]["ties"]
    lines = [json.loads(line) for line in (directory / "queries.jsonl").read_text().splitlines()]
    assert lines[0]["answers"][0] == "satellite/4_0_0_0.png" and lines[0]["first_rank"] == {"pos": 1, "pos_semipos": 1}


@pytest.mark.parametrize("end", [KeyboardInterrupt, DataError])
def test_an_evaluation_that_fails_in_the_directory_of_another_leaves_it_whole(
    config, color_split, tmp_path, monkeypatch, end
):
    directory = tmp_path / "report"
    evaluate(ColorEngine(), config, color_split, directory)
    before = contents(tmp_path)

    def fail(*args, **kwargs):
        raise end

    monkeypatch.setattr("mindloc.evaluation.evaluate.extract", fail)
    with pytest.raises(end):
        evaluate(ColorEngine(), config, color_split, directory)
    assert contents(tmp_path) == before
    rescore(directory)


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_files_of_others_in_the_directory_stay(config, color_split, tmp_path):
    directory = tmp_path / "report"
    evaluate(ColorEngine(), config, color_split, directory)
    (directory / "notes.txt").write_text("mine")
    evaluate(ColorEngine(), config, color_split, directory, baselines=False)
    assert (directory / "notes.txt").read_text() == "mine" and not (directory / "baselines").exists()


def test_nothing_is_written_where_an_image_for_a_figure_is_damaged(finished, color_split):
    directory, _ = finished
    (directory / "report.md").write_text("older")
    before = contents(directory)
    (color_split.root / color_split.reference.files[0]).write_bytes(b"no image")
    with pytest.raises(DataError):
        rescore(directory)
    assert contents(directory) == before


@pytest.mark.parametrize("name", ["report.json", "queries.jsonl", "distance_curve.png"])
def test_nothing_is_written_where_a_result_can_not_be_replaced(finished, name):
    directory, _ = finished
    (directory / "report.md").write_text("older")
    (directory / name).unlink()
    (directory / name).mkdir()
    before = contents(directory)
    with pytest.raises(DataError, match=f"{name} is a directory; give the path of a file"):
        rescore(directory)
    assert contents(directory) == before


@pytest.mark.parametrize(
    "facts",
    [{"origin": [1]}, {"origin": {"x": float("nan")}}, {"notes": "x"}, {"notes": [1]}, {"image_root": 3}],
)
def test_a_setup_with_a_value_of_a_wrong_type_is_refused(finished, facts):
    directory, _ = finished
    setup = load_setup(directory / "setup.json")
    write_setup(directory / "setup.json", {**setup, **facts})  # with the right checksum
    with pytest.raises(DataError, match="setup.json has values of a wrong type; evaluate again"):
        rescore(directory)


@pytest.mark.parametrize("counted", [{"unknown": []}, {"pos": [[[], 1]]}, {"pos": 3}, {"pos": [1]}])
def test_a_constant_answer_that_is_no_list_of_names_is_refused(finished, counted):
    directory, _ = finished
    setup = load_setup(directory / "setup.json")
    (directory / "baselines/constant.json").write_text(json.dumps(counted))
    write_setup(directory / "setup.json", setup)
    with pytest.raises(DataError, match="constant.json can't be read as lists of"):
        rescore(directory)


def test_the_report_shows_every_method_in_both_modes(finished):
    text = (finished[0] / "report.md").read_text()
    for title in ("this model", "color histogram", "constant answer", "chance"):
        assert text.count(f"| {title} |") == 2
    assert "1 without a correct answer here are left out" in text


def test_rescoring_gives_the_same_files(finished):
    directory, report = finished
    outputs = ("report.json", "report.md", "queries.jsonl", "contact_sheet.png", "distance_curve.png")
    before = {name: (directory / name).read_bytes() for name in outputs}
    for name in outputs:
        (directory / name).unlink()
    assert rescore(directory) == report
    assert {name: (directory / name).read_bytes() for name in outputs} == before


def test_a_figure_that_is_not_drawn_again_is_noted(finished, color_split):
    directory, _ = finished
    sheet, setup = directory / "contact_sheet.png", directory / "setup.json"
    assert "drawn again" not in (directory / "report.md").read_text()
    gone = color_split.root.rename(color_split.root.with_name("gone"))
    note = f"contact_sheet.png was not drawn again, and may differ from the numbers: no images in {color_split.root}."
    assert note in rescore(directory)["notes"] and sheet.exists()
    assert note not in rescore(directory, figures=False)["notes"]
    gone.rename(color_split.root)
    assert note not in rescore(directory)["notes"]
    facts = load_setup(setup)
    facts["settings"]["eval"]["contact_sheet_queries"] = 0
    write_setup(setup, facts)
    assert note not in rescore(directory)["notes"] and not sheet.exists()


def test_a_curve_is_drawn_if_all_first_answers_have_a_distance(finished):
    directory, _ = finished

    def without_place(tile):
        tiles = load_descriptor_set(directory / "reference", memory_map=False)
        rows = [{**row, "place": None} if number == tile else row for number, row in enumerate(tiles.rows)]
        save_descriptor_set(directory / "reference", tiles.descriptor_ND, rows, tiles.card)
        notes = [note for note in rescore(directory)["notes"] if note.startswith("No distance curve")]
        return (directory / "distance_curve.png").exists(), notes

    # tile 8 is never the first answer, though among the first ten of all; tile 4 is the first answer of drone image 4
    is_drawn, notes = without_place(8)
    assert is_drawn and not any("this model" in note for note in notes)
    is_drawn, notes = without_place(4)
    assert not is_drawn and notes[0].startswith("No distance curve of this model, chance: queries or")


def test_rescoring_needs_neither_mindspore_nor_images(finished, color_split):
    directory, _ = finished
    color_split.root.rename(color_split.root.with_name("gone"))
    code = "import sys; from mindloc.evaluation.rescore import rescore; rescore(sys.argv[1]); "
    code += "assert 'mindspore' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, directory], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_tiles_can_be_the_queries(config, color_split, tmp_path):
    config = config.with_values({"eval.swap_sides": True})
    methods = evaluate(ColorEngine(), config, color_split, tmp_path / "report", None, figures=False)["methods"]
    scores = methods["model"]["pos"]
    assert scores["recall@1"] == 1.0 and scores["queries"] == 5  # tile 5 has a semi-positive alone
    assert methods["model"]["pos_semipos"]["queries"] == 6
    assert scores["queries_left_out"] == 4
    assert "constant" not in methods
    assert not (tmp_path / "report" / "contact_sheet.png").exists()


@pytest.mark.parametrize("swapped", [False, True])
def test_without_places_the_report_has_no_distances_and_notes_so_once(config, color_split, tmp_path, swapped):
    config = config.with_values({"eval.swap_sides": swapped})
    nowhere = [dataclasses.replace(side, places=None) for side in (color_split.query, color_split.reference)]
    split = dataclasses.replace(color_split, query=nowhere[0], reference=nowhere[1])
    directory = tmp_path / "r"
    methods = evaluate(ColorEngine(), config, split, directory, split)["methods"]
    assert list(methods) == ["model", "color_histogram", "constant", "chance"]
    assert methods["model"]["pos"]["recall@1"] == 1.0
    scores = {key for by_mode in methods.values() for numbers in by_mode.values() for key in numbers}
    assert not any(key.startswith(("dis@", "sdm@", "within_")) for key in scores)
    text = (directory / "report.md").read_text()
    assert text.count("SDM") == text.count("Dis") == 1 and text.count("have no places") == 1
    assert "off_m" not in (directory / "queries.jsonl").read_text()
    assert (directory / "contact_sheet.png").exists() and not (directory / "distance_curve.png").exists()


def test_both_directions_state_the_same_pairs(color_split):
    down, up = make_task(color_split), make_task(color_split, swap_sides=True)
    for mode in ("pos", "pos_semipos"):
        pairs = {(d, int(s)) for d, items in enumerate(down.right[mode]) for s in items}
        assert pairs == {(int(d), s) for s, items in enumerate(up.right[mode]) for d in items}


def test_between_epochs_baselines_and_figures_are_left_out(config, color_split, tmp_path):
    report = evaluate(ColorEngine(), config, color_split, tmp_path / "r", color_split, baselines=False, figures=False)
    assert list(report["methods"]) == ["model", "chance"]


def test_an_encoder_with_two_stages_is_scored_in_both_in_one_run(config, color_split, tmp_path):
    config = config.with_values({"search.recall_n": 9, "head.nodes": 1})
    report = evaluate(TwoStageColorEngine(), config, color_split, tmp_path / "r", color_split, figures=False)
    methods = report["methods"]
    assert methods["stage_one"]["pos"]["recall@1"] == 0.0  # a tie is never won
    assert methods["model"]["pos"]["recall@1"] == methods["phi"]["pos"]["recall@1"] == 1.0
    assert sorted(path.name for path in (tmp_path / "r" / "query").iterdir()) == ["omega", "phi"]
    times = report["search"]["times"]
    assert times["recall_ms"] > 0 and times["rerank_ms"] > 0 and times["consistency_ms"] is None
    assert "5 single queries, exact search in 9 tiles" in times["how"]
    without = {"baselines": False, "figures": False, "search_times": False}
    between = evaluate(TwoStageColorEngine(), config, color_split, tmp_path / "e", **without)
    assert between["search"]["times"] is None and between["methods"]["model"]["pos"]["recall@1"] == 1.0


def test_omegas_from_which_no_index_can_be_built_are_scored_without_a_time(config, color_split, tmp_path):
    class NoOmega(TwoStageColorEngine):
        def encode(self, batch):
            return {name: rows * name.endswith("phi") for name, rows in super().encode(batch).items()}

    config = config.with_values({"search.recall_n": 9})
    report = evaluate(NoOmega(), config, color_split, tmp_path / "r", color_split, baselines=False, figures=False)
    assert report["methods"]["model"]["pos"]["recall@1"] == 1.0 and report["search"]["times"] is None
    assert any("No time per query" in note and "all zeros" in note for note in report["notes"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda directory: (directory / "setup.json").unlink(), "is this an evaluation directory, and was it finished"),
        (lambda directory: (directory / "setup.json").write_text("{}"), "not of version 2"),
        (
            lambda directory: (directory / "baselines" / "constant.json").write_text("[1]"),
            "constant.json was changed since it was written",
        ),
        (
            lambda directory: (directory / "truth.jsonl").write_text(
                (directory / "truth.jsonl").read_text().replace("0", "1", 1)
            ),
            "truth.jsonl was changed since it was written",
        ),
        (
            lambda directory: (directory / "setup.json").write_text(
                (directory / "setup.json").read_text().replace('"bootstrap": ', '"bootstrap": 1', 1)
            ),
            "setup.json was changed since it was written",
        ),
        (lambda directory: (directory / "query" / "rows.jsonl").write_text(""), "contradicts itself"),
    ],
)
def test_a_broken_directory_is_named(finished, damage, message):
    damage(finished[0])
    with pytest.raises(DataError, match=message):
        rescore(finished[0])


def test_a_split_without_overlaps_is_named(config, color_split, tmp_path):
    alone = color_split.semipositive.__class__(np.zeros(7, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    lonely = color_split.__class__(**{**vars(color_split), "positive": alone, "semipositive": alone})
    with pytest.raises(DataError, match="no query overlaps any reference"):
        evaluate(ColorEngine(), config, lonely, tmp_path / "report")
