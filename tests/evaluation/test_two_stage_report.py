"""A two-stage evaluation directory: its report, its answers and its contact sheet, except the scores."""

import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from score_settings import score_settings

from mindloc.descriptors.sets import make_rows, save_descriptor_set
from mindloc.errors import DataError
from mindloc.evaluation.figures import SheetRow, choose_queries, draw_contact_sheet
from mindloc.evaluation.report import summary
from mindloc.evaluation.rescore import rescore, write_setup
from mindloc.evaluation.truth import make_task, write_truth

# Tile and drone image i have Omega e_i, but drone image 0 is more similar to tile 1, and 4 to 5, 6, 7, 8 and then 4.
# Phi of a drone image equals that of its tile, but Phi of 3 is similar to tile 0.
OMEGA = np.eye(9)
DRONE_OMEGA = np.eye(9)[:5]
DRONE_OMEGA[0] = [2, 3, 0, 0, 0, 0, 0, 0, 0]
DRONE_OMEGA[4] = [0, 0, 0, 0, 1, 5, 4, 3, 2]
DRONE_PHI = np.eye(9)[[0, 1, 2, 0, 4]] + 0.1 * np.eye(9)[[0, 1, 2, 3, 4]] + 0.01 * np.eye(9)[[1, 2, 3, 4, 5]]


@pytest.fixture
def write_directory(color_split, tmp_path):
    """A function that writes the evaluation of five drone images among nine tiles; its arguments change the setup."""

    def write(two_stage=True, search=None, **setup):
        directory = tmp_path / "report"
        split = color_split
        task = make_task(split)
        drones, tiles = split.query.files[:5], split.reference.files
        names = {mode: [[tiles[i] for i in items] for items in right] for mode, right in task.right.items()}
        directory.mkdir()
        write_truth(directory / "truth.jsonl", split.query.files, names)
        matrices = {"omega": (DRONE_OMEGA, OMEGA), "phi": (DRONE_PHI, np.eye(9))}
        for name, (drone, satellite) in matrices.items() if two_stage else [("", matrices["omega"])]:
            card = {"place_unit": "plane_m", "checkpoint_sha256": "abc", "nodes": 3, "descriptor": name or "global"}
            rows = make_rows(drones, split.query.places.coordinate_N2[:5])
            save_descriptor_set(directory / "query" / name, drone, rows, {**card, "view": "drone"})
            rows = make_rows(tiles, split.reference.places.coordinate_N2)
            save_descriptor_set(directory / "reference" / name, satellite, rows, {**card, "view": "satellite"})
        plain = score_settings(bootstrap=20, recall_n=4, contact_sheet_queries=5).model_dump(mode="json")
        plain["search"] |= search or {}
        facts = {"origin": {"engine": "none"}, "notes": [], "image_root": str(split.root)}
        write_setup(directory / "setup.json", {**facts, "settings": plain, **setup})
        return directory

    return write


def test_the_table_has_the_stages_before_the_baselines(write_directory):
    directory = write_directory()
    report = rescore(directory)
    assert list(report["methods"]) == ["model", "stage_one", "phi", "chance"]
    lines = (directory / "report.md").read_text().splitlines()
    titles = [line.split(" | ")[0].removeprefix("| ") for line in lines if line.startswith("| ")]
    assert titles[:5] == [
        "answers by",
        "this model, re-ranked",
        "stage one: Omega alone",
        "Phi over all references",
    ] + ["chance"]


@pytest.mark.parametrize("two_stage", [False, True])
def test_the_summary_for_a_console_has_at_most_80_columns(write_directory, two_stage):
    report = rescore(write_directory(two_stage))
    report["data"] |= {"query_view": "near infrared drone", "query_total": 1_234_567}
    report["data"] |= {"reference_view": "panchromatic satellite", "reference_total": 12_345_678}
    perfect = dict.fromkeys(("recall@1", "recall@1_low", "recall@1_high", "recall@5", "ap", "sdm@3"), 1.0)
    for by_mode in report["methods"].values():
        for numbers in by_mode.values():
            numbers |= {**perfect, "dis@1_median_m": 12_345.6}
    lines = summary(report).splitlines()
    title = ["answers by", "R@1", "95 % interval", "R@5", "AP", *([] if two_stage else ["SDM@3"]), "Dis@1 median"]
    assert [re.split(r"\s{2,}", line) for line in lines if line.startswith("answers by")] == [title, title]
    assert sum("100.00 to 100.00" in line for line in lines) == 2 * (4 if two_stage else 2)  # methods, with chance
    assert max(map(len, lines)) <= 80


def test_the_report_states_the_effect_of_the_stages(write_directory):
    """First answer correct for 1, 2, 3 in stage one, for 0, 1, 2 re-ranked (4 is fifth in stage one, beyond N = 4)."""
    directory = write_directory()
    rescore(directory)
    text = (directory / "report.md").read_text()
    assert "the first N = 4 answers of Omega are re-ranked by Phi." in text and "Time per query" not in text
    assert "For 80.00 % of the drone images, a correct answer is among the first 4 of 9 satellite tiles" in text
    assert "Re-ranking won 1 correct first answers and lost 1." in text
    report = json.loads((directory / "report.json").read_text())
    assert report["search"] == {"recall_n": 4, "consistency_m": 0, "times": None}
    assert [report["methods"][name]["pos"]["recall@1"] for name in ("stage_one", "model")] == [0.6, 0.6]
    assert report["methods"]["stage_one"]["pos"]["recall@4"] == 0.8
    assert "pessimistic" in report["conventions"]["ties in stage two"]
    assert report["notes"] == []


def test_times_are_printed_if_they_were_measured(write_directory):
    times = {"recall_ms": 3.25, "rerank_ms": 0.5, "consistency_ms": None, "how": "median of 50 single queries"}
    directory = write_directory(search_times=times)
    rescore(directory, figures=False)
    text = (directory / "report.md").read_text()
    assert "Time per query: recall 3.25 ms, re-ranking 0.50 ms (median of 50 single queries)." in text


def test_a_third_stage_is_named_with_its_m(write_directory):
    times = {"recall_ms": 3.25, "rerank_ms": 0.5, "consistency_ms": 2.0, "how": "median of 50 single queries"}
    directory = write_directory(search={"consistency_m": 2}, search_times=times)
    rescore(directory)
    text = (directory / "report.md").read_text()
    assert "re-ranked by Phi, of these the first M = 2 by node consistency." in text
    assert "re-ranking 0.50 ms, node consistency 2.00 ms (median" in text
    assert json.loads((directory / "report.json").read_text())["search"]["consistency_m"] == 2


def test_fewer_references_than_n_are_all_re_ranked_and_the_report_notes_so(write_directory):
    directory = write_directory(search={"recall_n": 100})
    methods = rescore(directory, figures=False)["methods"]
    text = (directory / "report.md").read_text()
    assert "N = 100 answers were requested from stage one, but there are 9 references: all are re-ranked" in text
    assert "the first N = 9 answers" in text
    assert methods["model"]["pos"]["recall@1"] == methods["phi"]["pos"]["recall@1"] == 0.8


def test_answers_have_their_rank_in_stage_one(write_directory):
    directory = write_directory()
    rescore(directory, figures=False)
    first, *_, last = [json.loads(line) for line in (directory / "queries.jsonl").read_text().splitlines()]
    tile = "satellite/4_0_0_{}.png".format
    assert first["answers"][:2] == [tile(0), tile(1)] and first["recall_rank"][:2] == [2, 1]
    assert "cosine" not in first and first["score"][0] > 0.99
    assert last["first_rank"]["pos"] == 5 and last["answers"][4] == tile(4) and last["recall_rank"][4] == 5


def test_a_report_on_one_stage_does_not_mention_stages(write_directory):
    directory = write_directory(two_stage=False)
    report = rescore(directory)
    assert list(report["methods"]) == ["model", "chance"]
    text = (directory / "report.md").read_text()
    assert "| this model |" in text and "stage" not in text
    assert "search" not in json.loads((directory / "report.json").read_text())
    line = json.loads((directory / "queries.jsonl").read_text().splitlines()[0])
    assert "recall_rank" not in line and len(line["cosine"]) == 9


@pytest.mark.parametrize(
    ("setup", "message"),
    [
        ({"search": {"recall_n": 0}}, "settings.search.recall_n is 0: Input should be greater than"),
        ({"search": {"consistency_m": -1}}, "settings.search.consistency_m is -1: Input should be greater than"),
        ({"search": {"recall_n": "many"}}, "settings.search.recall_n is 'many': Input should be a valid integer"),
        ({"search": {"n": 3}}, "settings.search.n is 3: Extra inputs are not permitted"),
        ({"settings": [1]}, "settings is .1.: Input should be a valid dictionary"),
        ({"search_times": {"recall_ms": 1.0, "rerank_ms": 1.0}}, "search_times are"),
        ({"search_times": {"recall_ms": 1.0, "how": "once"}}, "search_times are"),
        ({"search_times": 3}, "search_times are 3, expected recall_ms"),
    ],
)
def test_a_broken_setup_is_named(write_directory, setup, message):
    with pytest.raises(DataError, match=message):
        rescore(write_directory(**setup))


def test_the_sheet_of_two_stages_has_one_more_line(write_directory):
    directory = write_directory()
    rescore(directory)
    with Image.open(directory / "contact_sheet.png") as one, Image.open(directory / "distance_curve.png") as curve:
        assert one.size[1] == 84 + 20 + 5 * (222 + 62) + 28 and len(one.getcolors(1 << 20)) > 20
        assert len(curve.getcolors(1 << 20)) > 20


def test_a_correct_answer_is_shown_if_the_first_is_wrong(write_directory, color_split, monkeypatch):
    """Drone images 3 and 4 have a wrong first answer; the cosine of 4 with tile 4 is 1 / sqrt(1 + 25 + 16 + 9 + 4)."""
    shown = []
    monkeypatch.setattr("mindloc.evaluation.rescore.draw_contact_sheet", lambda rows, *titles: shown.extend(rows))
    rescore(write_directory())
    right = {row.path.name: row.right for row in shown}
    drones, tiles = color_split.query.files, color_split.reference.files
    assert [right[Path(name).name] is None for name in drones[:5]] == [True, True, True, False, False]
    expected = right[Path(drones[4]).name]
    assert expected.path.name == Path(tiles[4]).name and expected.score == pytest.approx(1 / np.sqrt(55))
    assert expected.distance_m == pytest.approx(10.0)  # color_split: the drone image is 10 m north of its tile
    one = SheetRow(shown[0].path, 3, [dataclasses.replace(shown[0].answers[0], right=False)], shown[0].answers[0])
    sizes = []
    for row in (one, dataclasses.replace(one, right=None)):
        with Image.open(io.BytesIO(draw_contact_sheet([row], "title", "subtitle"))) as sheet:
            sizes.append(sheet.width)
    assert sizes[0] - sizes[1] == 222 + 2 * 16  # one more column


def test_queries_are_evenly_spaced_from_the_best_to_the_worst():
    first_rank = np.array([9, 1, 5, 3, 7])
    assert choose_queries(first_rank, None, 3).tolist() == [1, 2, 0]  # ranks 1, 5, 9
    assert choose_queries(first_rank, first_rank, 3).tolist() == [1, 2, 0]  # nothing won, nothing lost


def test_a_won_and_a_lost_query_replace_the_nearest_queries():
    """Best first 0 1 2 ... 9; evenly spaced 0, 4 or 5, 9; query 2 was won, 6 lost."""
    first_rank = np.array([1, 1, 1, 2, 3, 4, 5, 6, 7, 8])
    before = np.array([1, 1, 4, 2, 3, 4, 1, 6, 7, 8])
    assert choose_queries(first_rank, None, 3).tolist() == [0, 4, 9]
    # 2 is equally near to 0 and 4, so it replaces the first of them, 0; then 6 is nearest to 4 and replaces it
    assert choose_queries(first_rank, before, 3).tolist() == [2, 6, 9]
    assert choose_queries(first_rank, before, 10).tolist() == list(range(10))


def test_the_only_won_query_is_not_replaced_by_the_lost_one():
    first_rank, before = np.array([1, 2, 3, 4]), np.array([2, 1, 3, 4])
    assert choose_queries(first_rank, before, 2).tolist() == [0, 1]
    assert choose_queries(first_rank, before, 1).tolist() == [0]  # no room for both
    # evenly spaced are 0 and 9; 7 was won and replaces 9, the nearest; then 8, which was lost, can only replace 0
    first_rank, before = np.array([1] * 8 + [2, 3]), np.array([1] * 7 + [5, 1, 3])
    assert choose_queries(first_rank, before, 2).tolist() == [7, 8]


@pytest.mark.parametrize("seed", range(20))
def test_for_any_ranks_a_won_and_a_lost_query_are_shown_and_no_query_twice(seed):
    rng = np.random.default_rng(seed)
    first_rank, before = rng.integers(1, 4, (2, 30))
    chosen = choose_queries(first_rank, before, 4)
    assert len(set(chosen.tolist())) == 4 and (np.diff(first_rank[chosen]) >= 0).all()
    won, lost = (first_rank == 1) & (before > 1), (first_rank > 1) & (before == 1)
    assert won[chosen].any() == won.any() and lost[chosen].any() == lost.any()
