"""An evaluation folder to all its numbers and pictures, from disk, without a device.

The folder holds, after ``evaluate``::

    query/  gallery/             descriptor sets, or folders of them: omega/, phi/, perhaps centroids/
    truth.jsonl                  what is right
    baselines/                   descriptor sets query/, gallery/ of the color histogram; constant.json
    setup.json                   settings, origin, notes, perhaps search_times: what the report needs besides

and, after ``rescore``: report.json, report.md, queries.jsonl (every query's answers), contact_sheet.png,
distance_curve.png.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mindloc.descriptors.sets import DescriptorSet, load_descriptor_set, load_descriptor_sets
from mindloc.errors import DataError
from mindloc.evaluation.baselines import score_chance, score_constant
from mindloc.evaluation.figures import ANSWERS, Answer, SheetRow, choose_queries, draw_contact_sheet
from mindloc.evaluation.report import VIEW_PLURALS, make_report, method_title, percent, write_report
from mindloc.evaluation.score import (
    DescriptorSets,
    MethodScores,
    Numbers,
    ScoreSettings,
    places_of,
    score_sets,
    score_two_stage,
    stages_of,
)
from mindloc.evaluation.truth import Truth, load_truth
from mindloc.runtime.files import atomic_write_text, read_json

SETUP_VERSION = 1


@dataclass(frozen=True)
class Scores:
    """All numbers of one evaluation."""

    mode: str  # the one that leads
    methods: dict[str, dict[str, Numbers]]  # method -> mode -> metric -> value
    report: dict[str, Any]  # as report.json has it

    def __getitem__(self, metric: str) -> float | int | None:
        """A number of the model in the leading mode: ``scores["recall@1"]``."""
        return self.methods["model"][self.mode][metric]

    def summary(self) -> str:
        """One line for a log."""
        recalls = [key for key in self.methods["model"][self.mode] if key.split("@")[-1].isdigit() and "recall" in key]
        shares = ", ".join(f"{key} {self._share(key)}" for key in [*recalls, "ap", "sdm@3"] if self._has(key))
        off = self["dis@1_median_m"]
        return f"{self.mode}: {shares} %" + ("" if off is None else f", median Dis@1 {off:.1f} m")

    def _share(self, key: str) -> str:
        if key == "recall@1" and "stage_one" in self.methods:
            before = self.methods["stage_one"][self.mode][key]
            return f"{percent(before)} -> {percent(self[key])} (stage one -> re-ranked)"
        return percent(self[key])

    def _has(self, key: str) -> bool:
        return key in self.methods["model"][self.mode]


@dataclass(frozen=True)
class _Case:
    """What was asked: who is looked for among whom, and what is right."""

    queries: DescriptorSet  # one of the sets of the view: all have these rows
    gallery: DescriptorSet
    truth: Truth
    settings: ScoreSettings


def rescore(out_dir: str | Path, pictures: bool = True) -> Scores:
    """Recompute every number of an evaluation folder and write its report and pictures anew.

    Args:
        pictures: False leaves the PNG files alone; the contact sheet also needs the data set's pictures, and is left
            out with a note where they are gone.

    Raises:
        DataError: the folder is no evaluation, or one of its files is broken.
    """
    folder = Path(out_dir)
    setup = load_setup(folder / "setup.json")
    settings = _settings(setup, folder / "setup.json")
    queries, gallery = load_descriptor_sets(folder / "query"), load_descriptor_sets(folder / "gallery")
    first = next(iter(queries.values())), next(iter(gallery.values()))
    case = _Case(*first, load_truth(folder / "truth.jsonl", *first), settings)
    notes = list(setup["notes"])
    methods = {**_answers(queries, gallery, case), **_baselines(folder / "baselines", case, notes)}
    numbers = {name: scores.numbers for name, scores in methods.items()}
    search = None
    if "stage_one" in methods:
        search = _search(case, setup, folder / "setup.json", notes)
    data = {
        "query_view": case.queries.card["view"],
        "gallery_view": case.gallery.card["view"],
        "query_total": case.truth.query_total,
        "gallery_total": case.gallery.count,
    }
    report = make_report(numbers, settings, data, setup["origin"], notes, search)
    write_report(folder, report)
    _write_queries(folder / "queries.jsonl", methods["model"], case)
    if pictures:
        _draw_curve(folder / "distance_curve.png", methods, settings, data)
        _draw_sheet(folder / "contact_sheet.png", setup, methods, case)
    return Scores(settings.mode, numbers, report)


def load_setup(path: Path) -> dict[str, Any]:
    """Raises: DataError: missing, broken, or of another version."""
    setup = read_json(path, DataError, "", "is this an evaluation folder, and was it finished?")
    if setup.get("version") != SETUP_VERSION:
        raise DataError(f"{path} is not of version {SETUP_VERSION}, which this program reads; evaluate again")
    absent = [key for key in ("settings", "origin", "notes", "picture_root", "sheet_queries") if key not in setup]
    if absent:
        raise DataError(f"{path} lacks {', '.join(absent)}; evaluate again")
    return setup


def _settings(setup: dict[str, Any], path: Path) -> ScoreSettings:
    try:
        plain = {key: tuple(value) if isinstance(value, list) else value for key, value in setup["settings"].items()}
        settings = ScoreSettings(**plain)
        sensible = settings.recall_n >= 1 and settings.consistency_m >= 0
    except (TypeError, AttributeError):
        raise DataError(f"{path}: settings are {setup['settings']}, expected those of ScoreSettings") from None
    if not sensible:
        raise DataError(
            f"{path}: recall_n is {settings.recall_n} and consistency_m {settings.consistency_m}; "
            "at least 1 and 0 are expected"
        )
    return settings


def _answers(queries: DescriptorSets, gallery: DescriptorSets, case: _Case) -> dict[str, MethodScores]:
    """What the encoder's descriptors answer: in stages where there are two of them."""
    if "phi" in queries or "phi" in gallery:
        return score_two_stage(queries, gallery, case.truth, case.settings)
    return {"model": score_sets(case.queries, case.gallery, case.truth, case.settings)}


def _search(case: _Case, setup: dict[str, Any], path: Path, notes: list[str]) -> dict[str, Any]:
    """What the report says of the stages; adds to ``notes`` where the gallery is smaller than stage one's N."""
    stages = stages_of(case.settings, case.gallery.count)
    if stages.recall_n < case.settings.recall_n:
        notes.append(
            f"N = {case.settings.recall_n} answers were asked of stage one and the gallery has {case.gallery.count}: "
            "all of it is re-ranked, and stage one decides nothing."
        )
    times = setup.get("search_times")
    if times is not None and not _are_times(times):
        raise DataError(f"{path}: search_times are {times}, expected recall_ms, rerank_ms, consistency_ms and how")
    return {"recall_n": stages.recall_n, "consistency_m": stages.consistency_m, "times": times}


def _are_times(times: Any) -> bool:
    if not isinstance(times, dict) or not isinstance(times.get("how"), str):
        return False
    stages = [times.get(key) for key in ("recall_ms", "rerank_ms", "consistency_ms")]
    return None not in stages[:2] and all(value is None or isinstance(value, (int, float)) for value in stages)


def _baselines(folder: Path, case: _Case, notes: list[str]) -> dict[str, MethodScores]:
    """Whatever baselines the folder has; adds to ``notes`` why one is missing."""
    methods = {}
    places, truth, settings = places_of(case.queries, case.gallery), case.truth, case.settings
    if (folder / "query").is_dir():
        pair = load_descriptor_set(folder / "query"), load_descriptor_set(folder / "gallery")
        if pair[0].names != case.queries.names or pair[1].names != case.gallery.names:
            raise DataError(f"the color histograms in {folder} are of other pictures; evaluate again")
        methods["color_histogram"] = score_sets(*pair, truth, settings)
    if (folder / "constant.json").is_file():
        order = _load_constant(folder / "constant.json")
        constant = score_constant(order, case.gallery.names, truth, places, settings)
        if constant is None:
            notes.append("No constant answer: the training pairs name nothing that is in this gallery.")
        else:
            methods["constant"] = constant
    return {**methods, "chance": score_chance(truth, places, settings)}


def _load_constant(path: Path) -> dict[str, list[str]]:
    counted = read_json(path, DataError, "", "evaluate again")
    try:
        return {mode: [name for name, _ in pairs] for mode, pairs in counted.items()}
    except (ValueError, TypeError):
        raise DataError(f"{path} can't be read as lists of [name, count]; evaluate again") from None


def _write_queries(path: Path, model: MethodScores, case: _Case) -> None:
    """One line per scored query: first right rank in each mode, and the answers in the widest mode."""
    names, lines = case.gallery.names, {}
    for mode, ranking in model.ranking.items():
        for row, query in enumerate(model.query[mode]):
            line = lines.setdefault(int(query), {"query": case.queries.rows[query]["name"], "first_rank": {}})
            line["first_rank"][mode] = int(ranking.first_rank_Q[row])
            line["answers"] = [names[item] for item in ranking.top_QK[row]]
            scores = [round(float(score), 6) for score in ranking.score_QK[row]]
            line |= {"score": scores} if model.recall_rank else {"cosine": scores}
            line["off_m"] = [round(float(off), 2) if np.isfinite(off) else None for off in model.distance[mode][row]]
            if model.recall_rank:
                line["recall_rank"] = model.recall_rank[mode][row].tolist()
    text = "".join(json.dumps(lines[query], ensure_ascii=False) + "\n" for query in sorted(lines))
    atomic_write_text(path, text, DataError)


def _draw_curve(path: Path, methods: dict[str, MethodScores], settings: ScoreSettings, data: dict[str, Any]) -> None:
    from mindloc.evaluation.figures import Curve, draw_distance_curve  # here: matplotlib takes a second

    curves = [
        Curve(name, method_title(name, "stage_one" in methods), scores.distance[settings.mode][:, 0])
        for name, scores in methods.items()
        if settings.mode in scores.distance and np.isfinite(scores.distance[settings.mode]).all()
    ]
    if curves and curves[0].method == "model":
        count = len(curves[0].distance_Q)
        subtitle = (
            f"{count} {VIEW_PLURALS[data['query_view']]} among {data['gallery_total']} "
            f"{VIEW_PLURALS[data['gallery_view']]}, mode {settings.mode}"
        )
        draw_distance_curve(path, curves, "How far off is the first answer?", subtitle)
    else:
        path.unlink(missing_ok=True)  # no places, no distances


def _draw_sheet(path: Path, setup: dict[str, Any], methods: dict[str, MethodScores], case: _Case) -> None:
    root, mode, model = Path(setup["picture_root"]), case.settings.mode, methods["model"]
    shown = min(setup["sheet_queries"], len(model.query[mode]))
    if not shown or not (root / case.queries.rows[0]["name"]).is_file():
        return  # the numbers need no pictures; an older sheet stays
    sample = choose_queries(model.ranking[mode].first_rank_Q, model.recall_first_rank.get(mode), shown)
    rows = [_sheet_row(root, row, model, case) for row in sample]
    draw_contact_sheet(path, rows, *_sheet_titles(shown, methods, mode))


def _sheet_titles(shown: int, methods: dict[str, MethodScores], mode: str) -> tuple[str, str]:
    numbers = methods["model"].numbers[mode]
    title = f"{shown} of {numbers['queries']} queries, evenly spaced from the best answered to the worst"
    legend = "Green: right. Red: wrong. Meters: from the true place to the center."
    if "stage_one" not in methods:
        return title, f"mode {mode}, Recall@1 {percent(numbers['recall@1'])} %. {legend}"
    won, lost = numbers["won_queries"], numbers["lost_queries"]
    before = percent(methods["stage_one"].numbers[mode]["recall@1"])
    first = (
        f"mode {mode}, Recall@1 {before} % by stage one, {percent(numbers['recall@1'])} % re-ranked: "
        f"{won} queries won, {lost} lost" + ("." if shown < 2 else "; where there are such, one of each is shown.")
    )
    return title, f"{first}\n{legend} Was: the place in stage one."


def _sheet_row(root: Path, row: int, model: MethodScores, case: _Case) -> SheetRow:
    mode, right = case.settings.mode, case.truth.right
    ranking, query = model.ranking[mode], int(model.query[mode][row])
    first_rank, path = int(ranking.first_rank_Q[row]), root / case.queries.rows[query]["name"]
    exact, near = set(right[mode][query].tolist()), set(right["pos_semipos"][query].tolist())
    recalled = model.recall_rank[mode][row].tolist() if model.recall_rank else [None] * ranking.top_QK.shape[1]
    score_name = "score" if model.recall_rank and case.settings.consistency_m else "cosine"
    answers = []
    for place, item in enumerate(ranking.top_QK[row, :ANSWERS].tolist()):
        off, score = float(model.distance[mode][row, place]), float(ranking.score_QK[row, place])
        answers.append(
            Answer(
                root / case.gallery.rows[item]["name"],
                item in exact,
                off if np.isfinite(off) else None,
                score,
                item in near,
                recalled[place],
                score_name,
            )
        )
    first_recalled = int(model.recall_first_rank[mode][row]) if model.recall_rank else None
    return SheetRow(path, first_rank, answers, first_recalled)
