"""Compute all numbers and figures of an evaluation directory from its files, without a device.

The directory contains, after ``evaluate``::

    query/  reference/           descriptor sets, or directories of them: omega/, phi/, perhaps centroids/
    truth.jsonl                  the correct references of each query
    baselines/                   descriptor sets query/, reference/ of the color histogram; constant.json
    setup.json                   settings, origin, notes and perhaps search_times for the report; checksums of itself,
                                 truth.jsonl and constant.json (the sets have their own)

and, after ``rescore``, also report.json, report.md, queries.jsonl (every query's answers), contact_sheet.png and
distance_curve.png.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from mindloc.descriptors.ranking import best_first, cosine_of
from mindloc.descriptors.sets import DescriptorSet, load_descriptor_set, load_descriptor_sets
from mindloc.errors import DataError
from mindloc.evaluation.baselines import score_chance, score_constant
from mindloc.evaluation.figures import (
    ANSWERS,
    Curve,
    SheetAnswer,
    SheetRow,
    choose_queries,
    draw_contact_sheet,
    draw_distance_curve,
)
from mindloc.evaluation.report import make_report, method_title, percent, plural, write_report
from mindloc.evaluation.score import (
    DescriptorSets,
    MethodScores,
    ScoreSettings,
    distances_of,
    score_sets,
    score_two_stage,
)
from mindloc.evaluation.truth import Truth, load_truth
from mindloc.reading import file_checksum, json_checksum, read_json
from mindloc.runtime.files import atomic_write, atomic_write_text, output_file, remove_temporaries
from mindloc.runtime.lock import locked
from mindloc.vocabulary import MODES

SETUP_VERSION = 2
# of an evaluation that is finished; the directories and truth.jsonl are what they are computed from
_SHEET, _CURVE = "contact_sheet.png", "distance_curve.png"
_RESULTS = ("report.json", "report.md", "queries.jsonl", _SHEET, _CURVE)
RESULT_FILES = ("setup.json", *_RESULTS)
_SUMMED = ("truth.jsonl", "baselines/constant.json")  # in setup.json; every other input has its own checksum
_NO_PLACES = "No distances: the images of this data set have no places, so there is no SDM and no Dis."


@dataclass(frozen=True)
class _Case:
    """The descriptor sets of queries and references, the correct references, and the settings."""

    queries: DescriptorSets
    references: DescriptorSets
    truth: Truth
    settings: ScoreSettings

    @property
    def first(self) -> tuple[DescriptorSet, DescriptorSet]:
        """One set of the queries and one of the references, for their rows, which are equal in all sets of a side."""
        return next(iter(self.queries.values())), next(iter(self.references.values()))

    @cached_property
    def query_names(self) -> list[str]:
        return self.first[0].names

    @cached_property
    def reference_names(self) -> list[str]:
        return self.first[1].names


def rescore(out_dir: str | Path, figures: bool = True) -> dict[str, Any]:
    """Recompute every number of an evaluation directory and write its report and figures again.

    Args:
        figures: False leaves the PNG files unchanged. The contact sheet also needs the images of the data set; if they
            are missing, an older sheet is kept, and the report notes it.

    Returns:
        The content of report.json.

    Raises:
        DataError: the directory is not an evaluation, or one of its files is broken.
    """
    with locked(Path(out_dir), "evaluation", DataError):
        remove_temporaries(out_dir)
        return _rescore(Path(out_dir), figures)


def _rescore(directory: Path, figures: bool) -> dict[str, Any]:
    for name in _RESULTS:
        output_file(directory / name, DataError)
    setup = load_setup(directory / "setup.json")
    settings = _settings(setup, directory / "setup.json")
    queries, references = load_descriptor_sets(directory / "query"), load_descriptor_sets(directory / "reference")
    first = next(iter(queries.values())), next(iter(references.values()))
    case = _Case(queries, references, load_truth(directory / "truth.jsonl", *first), settings)
    notes = list(setup["notes"])
    if distances_of(*first) is None:
        notes.append(_NO_PLACES)
    methods = {**_answers(case), **_baselines(directory / "baselines", case, notes)}
    numbers = {name: scores.numbers for name, scores in methods.items()}
    search = _search(case, setup, directory / "setup.json", notes) if "stage_one" in methods else None
    data = {
        "query_view": first[0].card["view"],
        "reference_view": first[1].card["view"],
        "query_total": case.truth.query_total,
        "reference_total": first[1].count,
    }
    if figures:
        notes += _figure_notes(directory, Path(setup["image_root"]), methods, case)
    report = make_report(numbers, settings, data, setup["origin"], notes, search)
    drawn = _figures(setup, methods, case, data) if figures else {}  # before anything is written: it reads images
    write_report(directory, report)
    _write_queries(directory / "queries.jsonl", methods["model"], case)
    for name, content in drawn.items():
        _write_figure(directory / name, content)
    return report


def load_setup(path: Path) -> dict[str, Any]:
    """The content of setup.json, without its checksum.

    Raises:
        DataError: the file is missing or broken, its version differs, or one of the checksums differs.
    """
    setup = read_json(path, DataError, "", "is this an evaluation directory, and was it finished?")
    if setup.get("version") != SETUP_VERSION:
        raise DataError(f"{path} is not of version {SETUP_VERSION}, which this program reads; evaluate again")
    stated = setup.pop("checksum", None)
    absent = [key for key in ("settings", "origin", "notes", "image_root", "files") if key not in setup]
    if absent:
        raise DataError(f"{path} lacks {', '.join(absent)}; evaluate again")
    if not _is_sound(setup):
        raise DataError(f"{path} has values of a wrong type; evaluate again")
    if stated != json_checksum(setup):
        raise DataError(f"{path} was changed since it was written (its checksum differs); evaluate again")
    for name, checksum in setup["files"].items():
        if file_checksum(path.parent / name, DataError) != checksum:
            raise DataError(
                f"{path.parent / name} was changed since it was written (its checksum differs); evaluate again"
            )
    return setup


def _is_sound(setup: dict[str, Any]) -> bool:
    """Whether the values have the types that the report relies on, and contain no NaN."""
    try:
        json.dumps(setup, allow_nan=False)
    except ValueError:
        return False
    files, texts = setup["files"], [setup["image_root"], *(setup["notes"] if isinstance(setup["notes"], list) else [0])]
    known = isinstance(setup["origin"], dict) and isinstance(files, dict) and "\0" not in str(setup["image_root"])
    return known and files.keys() <= set(_SUMMED) and all(isinstance(text, str) for text in texts)


def write_setup(path: Path, facts: dict[str, Any]) -> None:
    """Write setup.json with checksums of the inputs of the scores; from now on the directory is an evaluation."""
    names = [name for name in _SUMMED if (path.parent / name).is_file()]
    setup = {"version": SETUP_VERSION, **facts}
    setup["files"] = {name: file_checksum(path.parent / name, DataError) for name in names}
    setup["checksum"] = json_checksum(setup)
    atomic_write_text(path, json.dumps(setup, indent=2, ensure_ascii=False) + "\n", DataError)


def _settings(setup: dict[str, Any], path: Path) -> ScoreSettings:
    try:
        return ScoreSettings.model_validate(setup["settings"])
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(["settings", *map(str, problem["loc"])])
        raise DataError(f"{path}: {key} is {problem['input']!r}: {problem['msg']}; evaluate again") from None


def _answers(case: _Case) -> dict[str, MethodScores]:
    """The scores of the encoder's descriptors, searched in stages if there are Omega and Phi."""
    if "phi" in case.queries or "phi" in case.references:
        return score_two_stage(case.queries, case.references, case.truth, case.settings)
    return {"model": score_sets(*case.first, case.truth, case.settings)}


def _search(case: _Case, setup: dict[str, Any], path: Path, notes: list[str]) -> dict[str, Any]:
    """The report's section on the stages; adds a note if there are fewer references than the N of stage one."""
    count = len(case.reference_names)
    stages, requested = case.settings.stages(count), case.settings.search.recall_n
    if stages.recall_n < requested:
        notes.append(
            f"N = {requested} answers were requested from stage one, but there are {count} references: all are "
            "re-ranked, so stage one has no effect."
        )
    times = setup.get("search_times")
    if times is not None and not _are_times(times):
        raise DataError(
            f"{path}: search_times are {times}, expected recall_ms, rerank_ms, consistency_ms and how; evaluate again"
        )
    return {"recall_n": stages.recall_n, "consistency_m": stages.consistency_m, "times": times}


def _are_times(times: Any) -> bool:
    if not isinstance(times, dict) or not isinstance(times.get("how"), str):
        return False
    stages = [times.get(key) for key in ("recall_ms", "rerank_ms", "consistency_ms")]
    return None not in stages[:2] and all(value is None or isinstance(value, (int, float)) for value in stages)


def _baselines(directory: Path, case: _Case, notes: list[str]) -> dict[str, MethodScores]:
    """The scores of the baselines in the directory and of chance; adds a note if the constant answer is impossible."""
    methods = {}
    distances, truth, settings = distances_of(*case.first), case.truth, case.settings
    if (directory / "query").is_dir():
        pair = load_descriptor_set(directory / "query"), load_descriptor_set(directory / "reference")
        if pair[0].names != case.query_names or pair[1].names != case.reference_names:
            raise DataError(f"the color histograms in {directory} are of other images; evaluate again")
        methods["color_histogram"] = score_sets(*pair, truth, settings)
    if (directory / "constant.json").is_file():
        order = _load_constant(directory / "constant.json")
        constant = score_constant(order, case.reference_names, truth, distances, settings)
        if constant is None:
            notes.append("No constant answer: the training pairs name none of these references.")
        else:
            methods["constant"] = constant
    return {**methods, "chance": score_chance(truth, len(case.reference_names), distances, settings)}


def _load_constant(path: Path) -> dict[str, list[str]]:
    counted = read_json(path, DataError, "", "evaluate again")
    try:
        named = {mode: [name for name, _ in pairs] for mode, pairs in counted.items()}
    except (ValueError, TypeError):
        named = {"": []}
    if not (named.keys() <= set(MODES) and all(isinstance(name, str) for names in named.values() for name in names)):
        raise DataError(f"{path} can't be read as lists of [name, count] for each mode; evaluate again")
    return named


def _write_queries(path: Path, model: MethodScores, case: _Case) -> None:
    """One line per scored query: rank of the first correct answer in each mode, and the answers of the last mode."""
    query_names, names = case.query_names, case.reference_names
    lines: dict[int, dict[str, Any]] = {}
    for mode, ranking in model.ranking.items():
        for row, query in enumerate(model.query[mode]):
            line = lines.setdefault(int(query), {"query": query_names[query], "first_rank": {}})
            line["first_rank"][mode] = int(ranking.first_rank_Q[row])
            line["answers"] = [names[item] for item in ranking.top_QK[row]]
            scores = [round(float(score), 6) for score in ranking.score_QK[row]]
            line |= {"score": scores} if model.recall_rank else {"cosine": scores}
            if model.distance:
                off_K = model.distance[mode][row]
                line["off_m"] = [round(float(off), 2) if np.isfinite(off) else None for off in off_K]
            if model.recall_rank:
                line["recall_rank"] = model.recall_rank[mode][row].tolist()
    text = "".join(json.dumps(lines[query], ensure_ascii=False) + "\n" for query in sorted(lines))
    atomic_write_text(path, text, DataError)


def _figure_notes(directory: Path, image_root: Path, methods: dict[str, MethodScores], case: _Case) -> list[str]:
    """Notes for the report on what the figures do not show."""
    notes, mode, is_two_stage = [], case.settings.mode, "stage_one" in methods
    missing = [
        method_title(name, is_two_stage)
        for name, scores in methods.items()
        if mode in scores.distance and not _has_curve(scores, mode)
    ]
    if missing:
        notes.append(
            f"No distance curve of {', '.join(missing)}: queries or first answers without a place have no distance."
        )
    sheet = directory / _SHEET
    if sheet.exists() and _sheet_rows(methods, case) and not _has_images(image_root, case):
        notes.append(f"{sheet.name} was not drawn again, and may differ from the numbers: no images in {image_root}.")
    return notes


def _has_curve(scores: MethodScores, mode: str) -> bool:
    return bool(np.isfinite(scores.distance[mode][:, 0]).all())


def _has_images(image_root: Path, case: _Case) -> bool:
    return (image_root / case.query_names[0]).is_file()


def _sheet_rows(methods: dict[str, MethodScores], case: _Case) -> int:
    return min(case.settings.eval.contact_sheet_queries, len(methods["model"].query[case.settings.mode]))


def _figures(
    setup: dict[str, Any], methods: dict[str, MethodScores], case: _Case, data: dict[str, Any]
) -> dict[str, bytes | None]:
    """File name -> content; None where there is nothing to show, not named where an older figure stays."""
    drawn = {_CURVE: _curve(methods, case.settings, data)}
    root, mode, model = Path(setup["image_root"]), case.settings.mode, methods["model"]
    shown = _sheet_rows(methods, case)
    if not shown:
        return {**drawn, _SHEET: None}
    if not _has_images(root, case):
        return drawn  # the numbers need no images
    sample = choose_queries(model.ranking[mode].first_rank_Q, model.recall_first_rank.get(mode), shown)
    rows = [_sheet_row(root, row, model, case) for row in sample]
    return {**drawn, _SHEET: draw_contact_sheet(rows, *_sheet_titles(shown, methods, mode))}


def _curve(methods: dict[str, MethodScores], settings: ScoreSettings, data: dict[str, Any]) -> bytes | None:
    curves = [
        Curve(name, method_title(name, "stage_one" in methods), scores.distance[settings.mode][:, 0])
        for name, scores in methods.items()
        if settings.mode in scores.distance and _has_curve(scores, settings.mode)
    ]
    if not curves or curves[0].method != "model":
        return None  # no places, no distances
    subtitle = (
        f"{len(curves[0].distance_Q)} {plural(data['query_view'])} among {data['reference_total']} "
        f"{plural(data['reference_view'])}, mode {settings.mode}"
    )
    return draw_distance_curve(curves, "How far off is the first answer?", subtitle)


def _write_figure(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
        return
    with atomic_write(path, error=DataError) as file:
        file.write(content)


def _sheet_titles(shown: int, methods: dict[str, MethodScores], mode: str) -> tuple[str, str]:
    numbers = methods["model"].numbers[mode]
    title = f"{shown} of {numbers['queries']} queries, evenly spaced from the best answered to the worst"
    legend = "Green: correct. Red: wrong. Last column: a correct answer, if the first is wrong."
    if methods["model"].distance:
        legend += " Meters: from the true place to the center."
    if "stage_one" not in methods:
        return title, f"mode {mode}, Recall@1 {percent(numbers['recall@1'])} %. {legend}"
    won, lost = numbers["won_queries"], numbers["lost_queries"]
    before = percent(methods["stage_one"].numbers[mode]["recall@1"])
    first = (
        f"mode {mode}, Recall@1 {before} % by stage one, {percent(numbers['recall@1'])} % re-ranked: "
        f"{won} queries won, {lost} lost" + ("." if shown < 2 else "; one of each is shown, if there is one.")
    )
    return title, f"{first}\n{legend} Was: the rank in stage one."


def _sheet_row(root: Path, row: int, model: MethodScores, case: _Case) -> SheetRow:
    mode, right = case.settings.mode, case.truth.right
    ranking, query = model.ranking[mode], int(model.query[mode][row])
    exact, near = set(right[mode][query].tolist()), set(right["pos_semipos"][query].tolist())
    recalled = model.recall_rank[mode][row].tolist() if model.recall_rank else [None] * ranking.top_QK.shape[1]
    score_name = "score" if model.recall_rank and case.settings.search.consistency_m else "cosine"
    answers = [
        SheetAnswer(
            root / case.reference_names[item],
            item in exact,
            float(model.distance[mode][row, place]) if model.distance else None,
            float(ranking.score_QK[row, place]),
            item in near,
            recalled[place],
            score_name,
        )
        for place, item in enumerate(ranking.top_QK[row, :ANSWERS].tolist())
    ]
    first_recalled = int(model.recall_first_rank[mode][row]) if model.recall_rank else None
    right_one = None if answers[0].right else _right_answer(root, query, case)
    return SheetRow(root / case.query_names[query], int(ranking.first_rank_Q[row]), answers, right_one, first_recalled)


def _right_answer(root: Path, query: int, case: _Case) -> SheetAnswer:
    """The correct reference most similar to the query by the descriptors of stage one; of a tie the first one."""
    queries, references = case.first
    item_R = np.sort(case.truth.right[case.settings.mode][query])
    score_of, rounding = cosine_of(queries.descriptor_ND, references.descriptor_ND)
    cosine_R = score_of(query, item_R)
    best = int(best_first(cosine_R, rounding)[0])
    distances = distances_of(queries, references)
    distance_m = float(distances.to_answers(np.array([query]), item_R[[best]][None])[0, 0]) if distances else None
    return SheetAnswer(root / case.reference_names[item_R[best]], True, distance_m, float(cosine_R[best]))
