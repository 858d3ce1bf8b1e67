"""An evaluation folder to all its numbers and pictures, from disk, without a device.

The folder holds, after ``evaluate``::

    query/  gallery/             descriptor sets
    truth.jsonl                  what is right
    baselines/                   descriptor sets query/, gallery/ of the color histogram; constant.json
    setup.json                   settings, origin and notes: what the report needs besides

and, after ``rescore``: report.json, report.md, queries.jsonl (every query's answers), contact_sheet.png,
distance_curve.png.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mindloc.errors import DataError, one_line
from mindloc.evaluation.baselines import score_chance, score_constant
from mindloc.evaluation.contact_sheet import ANSWERS, Answer, SheetRow, draw_contact_sheet
from mindloc.evaluation.report import METHOD_TITLES, VIEW_PLURALS, make_report, percent, write_report
from mindloc.evaluation.score import MethodScores, Numbers, ScoreSettings, places_of, score_sets
from mindloc.evaluation.truth import Truth, load_truth
from mindloc.retrieval.descriptor_set import DescriptorSet, load_descriptor_set
from mindloc.runtime.atomic import atomic_write_text

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
        shares = ", ".join(f"{key} {percent(self[key])}" for key in [*recalls, "ap", "sdm@3"] if self._has(key))
        off = self["dis@1_median_m"]
        return f"{self.mode}: {shares} %" + ("" if off is None else f", median Dis@1 {off:.1f} m")

    def _has(self, key: str) -> bool:
        return key in self.methods["model"][self.mode]


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
    queries, gallery = load_descriptor_set(folder / "query"), load_descriptor_set(folder / "gallery")
    truth = load_truth(folder / "truth.jsonl", queries, gallery)
    notes = list(setup["notes"])
    methods = {
        "model": score_sets(queries, gallery, truth, settings),
        **_baselines(folder / "baselines", queries, gallery, truth, settings, notes),
    }
    numbers = {name: scores.numbers for name, scores in methods.items()}
    data = {
        "query_view": queries.card["view"],
        "gallery_view": gallery.card["view"],
        "query_total": truth.query_total,
        "gallery_total": gallery.count,
    }
    report = make_report(numbers, settings, data, setup["origin"], notes)
    write_report(folder, report)
    _write_queries(folder / "queries.jsonl", methods["model"], queries, gallery)
    if pictures:
        _draw_curve(folder / "distance_curve.png", methods, settings, data)
        _draw_sheet(folder / "contact_sheet.png", setup, methods["model"], queries, gallery, truth, settings)
    return Scores(settings.mode, numbers, report)


def load_setup(path: Path) -> dict[str, Any]:
    """Raises: DataError: missing, broken, or of another version."""
    try:
        setup = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = one_line(error)
        raise DataError(
            f"{path} can't be read ({reason}); is this an evaluation folder, and was it finished?"
        ) from None
    if not isinstance(setup, dict) or setup.get("version") != SETUP_VERSION:
        raise DataError(f"{path} is not of version {SETUP_VERSION}, which this program reads; evaluate again")
    absent = [key for key in ("settings", "origin", "notes", "picture_root", "sheet_queries") if key not in setup]
    if absent:
        raise DataError(f"{path} lacks {', '.join(absent)}; evaluate again")
    return setup


def _settings(setup: dict[str, Any], path: Path) -> ScoreSettings:
    try:
        plain = {key: tuple(value) if isinstance(value, list) else value for key, value in setup["settings"].items()}
        return ScoreSettings(**plain)
    except (TypeError, AttributeError):
        raise DataError(f"{path}: settings are {setup['settings']}, expected those of ScoreSettings") from None


def _baselines(
    folder: Path,
    queries: DescriptorSet,
    gallery: DescriptorSet,
    truth: Truth,
    settings: ScoreSettings,
    notes: list[str],
) -> dict[str, MethodScores]:
    """Whatever baselines the folder has; adds to ``notes`` why one is missing."""
    methods = {}
    places = places_of(queries, gallery)
    if (folder / "query").is_dir():
        pair = load_descriptor_set(folder / "query"), load_descriptor_set(folder / "gallery")
        if pair[0].names != queries.names or pair[1].names != gallery.names:
            raise DataError(f"the color histograms in {folder} are of other pictures; evaluate again")
        methods["color_histogram"] = score_sets(*pair, truth, settings)
    if (folder / "constant.json").is_file():
        order = _load_constant(folder / "constant.json")
        constant = score_constant(order, gallery.names, truth, places, settings)
        if constant is None:
            notes.append("No constant answer: the training pairs name nothing that is in this gallery.")
        else:
            methods["constant"] = constant
    return {**methods, "chance": score_chance(truth, places, settings)}


def _load_constant(path: Path) -> dict[str, list[str]]:
    try:
        counted = json.loads(path.read_text(encoding="utf-8"))
        return {mode: [name for name, _ in pairs] for mode, pairs in counted.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        raise DataError(f"{path} can't be read as lists of [name, count]; evaluate again") from None


def _write_queries(path: Path, model: MethodScores, queries: DescriptorSet, gallery: DescriptorSet) -> None:
    """One line per scored query: first right rank in each mode, and the answers in the widest mode."""
    names, lines = gallery.names, {}
    for mode, ranking in model.ranking.items():
        for row, query in enumerate(model.query[mode]):
            line = lines.setdefault(int(query), {"query": queries.rows[query]["name"], "first_rank": {}})
            line["first_rank"][mode] = int(ranking.first_rank_Q[row])
            line["answers"] = [names[item] for item in ranking.top_QK[row]]
            line["cosine"] = [round(float(score), 6) for score in ranking.score_QK[row]]
            line["off_m"] = [round(float(off), 2) if np.isfinite(off) else None for off in model.distance[mode][row]]
    text = "".join(json.dumps(lines[query], ensure_ascii=False) + "\n" for query in sorted(lines))
    atomic_write_text(path, text, DataError)


def _draw_curve(path: Path, methods: dict[str, MethodScores], settings: ScoreSettings, data: dict[str, Any]) -> None:
    from mindloc.evaluation.distance_curve import Curve, draw_distance_curve  # here: matplotlib takes a second

    curves = [
        Curve(name, METHOD_TITLES[name], scores.distance[settings.mode][:, 0])
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


def _draw_sheet(
    path: Path,
    setup: dict[str, Any],
    model: MethodScores,
    queries: DescriptorSet,
    gallery: DescriptorSet,
    truth: Truth,
    settings: ScoreSettings,
) -> None:
    root, mode = Path(setup["picture_root"]), settings.mode
    shown = min(setup["sheet_queries"], len(model.query[mode]))
    if not shown or not (root / queries.rows[0]["name"]).is_file():
        return  # the numbers need no pictures; an older sheet stays
    best_first = np.argsort(model.ranking[mode].first_rank_Q, kind="stable")
    sample = best_first[np.linspace(0, len(best_first) - 1, shown).round().astype(int)]
    rows = [_sheet_row(root, row, mode, model, queries, gallery, truth) for row in sample]
    recall = percent(model.numbers[mode]["recall@1"])
    title = f"{shown} of {len(model.query[mode])} queries, evenly spaced from the best answered to the worst"
    subtitle = f"mode {mode}, Recall@1 {recall} %. Green: right. Red: wrong. Meters: from the true place to the center."
    draw_contact_sheet(path, rows, title, subtitle)


def _sheet_row(
    root: Path,
    row: int,
    mode: str,
    model: MethodScores,
    queries: DescriptorSet,
    gallery: DescriptorSet,
    truth: Truth,
) -> SheetRow:
    ranking, query = model.ranking[mode], int(model.query[mode][row])
    right, near = set(truth.right[mode][query].tolist()), set(truth.right["pos_semipos"][query].tolist())
    answers = []
    for item, score, off in zip(ranking.top_QK[row], ranking.score_QK[row], model.distance[mode][row], strict=True):
        distance_m = float(off) if np.isfinite(off) else None
        path = root / gallery.rows[item]["name"]
        answers.append(Answer(path, int(item) in right, distance_m, float(score), int(item) in near))
    return SheetRow(root / queries.rows[query]["name"], int(ranking.first_rank_Q[row]), answers[:ANSWERS])
