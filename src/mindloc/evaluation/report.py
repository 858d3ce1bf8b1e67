"""Scores as report.json, which contains every number and its origin, and as report.md, which a person reads."""

import json
from pathlib import Path
from typing import Any

from mindloc.errors import DataError
from mindloc.evaluation.metrics import CONVENTIONS, DISTANCE_CONVENTIONS, TWO_STAGE_CONVENTIONS
from mindloc.evaluation.score import Numbers, ScoreSettings
from mindloc.runtime.console import wrapped
from mindloc.runtime.files import atomic_write_text

VERSION = 1
_METHOD_TITLES = {
    "model": "this model",
    "stage_one": "stage one: Omega alone",
    "phi": "Phi over all references",
    "color_histogram": "color histogram",
    "constant": "constant answer",
    "chance": "chance",
}
MODE_TITLES = {
    "pos": "pos: semi-positive answers count as wrong",
    "pos_semipos": "pos_semipos: semi-positive answers count as correct",
}
VIEW_PLURALS = {"satellite": "satellite tiles"}  # others are images: drone images, infrared images


def make_report(
    methods: dict[str, dict[str, Numbers]],
    settings: ScoreSettings,
    data: dict[str, Any],
    origin: dict[str, Any],
    notes: list[str],
    search: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of report.json.

    Args:
        methods: method -> mode -> metric -> value; fractions 0..1, meters; None if it can't be computed.
        data: query_view, reference_view, query_total, reference_total.
        origin: checkpoint_sha256, engine, precision, config, command, hardware, ...
        notes: sentences that a reader must know to interpret the numbers.
        search: for a search in stages, recall_n, consistency_m and times (recall_ms, rerank_ms, consistency_ms and how,
            or None); None for a search in one stage.
    """
    conventions = dict(CONVENTIONS)
    if "dis@1_median_m" in methods["model"][settings.mode]:
        conventions |= DISTANCE_CONVENTIONS
    if search:
        conventions |= TWO_STAGE_CONVENTIONS
    return {
        "version": VERSION,
        "mode": settings.mode,
        "seed": settings.seed,
        "bootstrap": settings.eval.bootstrap,
        "data": data,
        **({"search": search} if search else {}),
        "methods": methods,
        "notes": notes,
        "conventions": conventions,
        "origin": origin,
    }


def write_report(directory: Path, report: dict[str, Any]) -> None:
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    atomic_write_text(directory / "report.json", text + "\n", DataError)
    atomic_write_text(directory / "report.md", markdown(report), DataError)


def tables(report: dict[str, Any]) -> str:
    """A title with the numbers of queries and references, and one table per mode, the leading mode first."""
    data = report["data"]
    queries, references = plural(data["query_view"]), plural(data["reference_view"])
    blocks = [f"# Evaluation: {data['query_total']} {queries} among {data['reference_total']} {references}"]
    if "search" in report:
        blocks.append(_search_sentence(report["search"]))
    for mode in _modes(report):
        sentences = f"{_scored(report, mode, queries)}. {_units(report['methods']['model'][mode])}"
        blocks += [f"## {MODE_TITLES[mode]}", sentences, _table(report, mode)]
        if "search" in report:
            blocks.append(_stage_sentence(report, mode, queries, references))
    return "\n\n".join(blocks)


def summary(report: dict[str, Any]) -> str:
    """The main scores of every mode for a console, in at most 80 columns; the report has the rest."""
    data, two_stage = report["data"], "search" in report
    queries, references = plural(data["query_view"]), plural(data["reference_view"])
    searched = wrapped(f"{data['query_total']} {queries} among {data['reference_total']} {references}")
    blocks = [f"{searched}\n{_units(report['methods']['model'][report['mode']])}"]
    if two_stage:
        blocks.append(wrapped(_search_sentence(report["search"])))
    for mode in _modes(report):
        scored = wrapped(_scored(report, mode, queries))
        blocks += [f"{MODE_TITLES[mode]}\n{scored}", _short_table(report, mode)]
        if two_stage:
            blocks.append(wrapped(_stage_sentence(report, mode, queries, references)))
    return "\n\n".join(blocks)


def _modes(report: dict[str, Any]) -> list[str]:
    """The modes of the report, the leading mode first."""
    return sorted(report["methods"]["model"], key=lambda mode: mode != report["mode"])


def _short_table(report: dict[str, Any], mode: str) -> str:
    """Some columns of ``_table`` as plain text, the two smallest K of Recall@K among them."""
    two_stage, numbers = "search" in report, report["methods"]["model"][mode]
    left_out = _at("recall", numbers)[2:]
    left_out += _at("sdm", numbers) if two_stage else []  # titles of methods are longer there
    shown = [key for key in main_metrics(numbers) if key not in left_out]
    columns = [column for column in _columns(numbers) if column[1] in shown]
    rows = [["answers by", *(title for title, _, _ in columns)]]
    for method, by_mode in report["methods"].items():
        if mode in by_mode:
            cells = [_cell(by_mode[mode], key, form) for _, key, form in columns]
            rows.append([method_title(method, two_stage), *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)


def markdown(report: dict[str, Any]) -> str:
    """The report as one page."""
    origin = report["origin"]
    blocks = [tables(report)]
    blocks.append(f"`report.json` has more: {_more(report)}.")
    blocks.append("## Read this beside the numbers")
    blocks.append("\n".join(f"- {note}" for note in [*report["notes"], *_score_notes(report)]))
    blocks += ["## Conventions", "\n".join(f"- `{name}`: {text}." for name, text in report["conventions"].items())]
    blocks += ["## Origin", _origin_table(origin, report)]
    return "\n\n".join(blocks) + "\n"


def _more(report: dict[str, Any]) -> str:
    if "dis@1_median_m" in report["methods"]["model"][report["mode"]]:
        return "SDM, Dis and AP by other conventions, shares within fixed distances"
    return "Recall@1% and AP by other conventions"


def main_metrics(numbers: Numbers) -> list[str]:
    """The names of every Recall@K of the settings, with Recall@1, AP, the middle SDM@K, and the median distance."""
    sdm = _at("sdm", numbers)
    names = [*_at("recall", numbers), "ap", *sdm[len(sdm) // 2 :][:1], "dis@1_median_m"]
    return [name for name in names if name in numbers]


def _at(metric: str, numbers: Numbers) -> list[str]:
    """The names of a metric at each K, such as recall@1, the smallest K first."""
    names = [name.split("@") for name in numbers if name.startswith(f"{metric}@")]
    return [f"{metric}@{k}" for k in sorted(int(k) for _, k in names if k.isdigit())]


def plural(view: str) -> str:
    """The plural noun for the images of a view."""
    return VIEW_PLURALS.get(view, f"{view} images")


def method_title(method: str, two_stage: bool) -> str:
    """The name of a method in tables and figures."""
    return _METHOD_TITLES[method] + (", re-ranked" if two_stage and method == "model" else "")


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _scored(report: dict[str, Any], mode: str, queries: str) -> str:
    numbers = report["methods"]["model"][mode]
    left_out = numbers["queries_left_out"]
    rest = f"; {left_out} without a correct answer here are left out" if left_out else ""
    return f"{numbers['queries']} {queries} scored{rest}"


def _units(numbers: Numbers) -> str:
    if "dis@1_median_m" in numbers:
        return "Recall, AP and SDM in percent, Dis in meters."
    return "Recall and AP in percent."


def _search_sentence(search: dict[str, Any]) -> str:
    m, times = search["consistency_m"], search["times"]
    third = f", of these the first M = {m} by node consistency" if m else ""
    sentence = f"Searched in stages: the first N = {search['recall_n']} answers of Omega are re-ranked by Phi{third}."
    if not times:
        return sentence
    stages = (("recall", "recall_ms"), ("re-ranking", "rerank_ms"), ("node consistency", "consistency_ms"))
    shown = ", ".join(f"{title} {times[key]:.2f} ms" for title, key in stages if times.get(key) is not None)
    return f"{sentence} Time per query: {shown} ({times['how']})."


def _stage_sentence(report: dict[str, Any], mode: str, queries: str, references: str) -> str:
    n, total = report["search"]["recall_n"], report["data"]["reference_total"]
    model, ceiling = report["methods"]["model"][mode], report["methods"]["stage_one"][mode][f"recall@{n}"]
    return (
        f"For {percent(ceiling)} % of the {queries}, a correct answer is among the first {n} of {total} {references} "
        f"in stage one, which is the upper limit of Recall@1 after re-ranking. Re-ranking won {model['won_queries']} "
        f"correct first answers and lost {model['lost_queries']}."
    )


def _table(report: dict[str, Any], mode: str) -> str:
    columns = _columns(report["methods"]["model"][mode])
    lines = [
        "| answers by | " + " | ".join(title for title, _, _ in columns) + " |",
        "|---|" + "--:|" * len(columns),
    ]
    for method, by_mode in report["methods"].items():
        if mode in by_mode:
            cells = [_cell(by_mode[mode], key, form) for _, key, form in columns]
            title = method_title(method, "search" in report)
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _columns(numbers: Numbers) -> list[tuple[str, str, str]]:
    """(title, metric, form) of the table's columns, from the metrics that are there."""
    recalls, sdm = _at("recall", numbers), _at("sdm", numbers)
    dis = [("Dis@1 median", "dis@1_median_m", "meters"), ("Dis@1 mean", "dis@1_m", "meters")]
    return [
        *[(f"R@{key.split('@')[1]}", key, "percent") for key in recalls[:1]],
        ("95 % interval", "recall@1", "interval"),
        *[(f"R@{key.split('@')[1]}", key, "percent") for key in recalls[1:]],
        ("R@1%", "recall@1%", "percent"),
        ("AP", "ap", "percent"),
        *[(f"SDM@{key.split('@')[1]}", key, "percent") for key in sdm],
        *(column for column in dis if column[1] in numbers),
        ("distinct first answers", "distinct_top1", "count"),
    ]


def _cell(numbers: Numbers, key: str, form: str) -> str:
    if form == "interval":
        return (
            f"{percent(numbers['recall@1_low'])} to {percent(numbers['recall@1_high'])}"
            if "recall@1_low" in numbers
            else "-"
        )
    value = numbers.get(key)
    if value is None:
        return "-"
    return {"percent": percent(value), "meters": f"{value:.1f}", "count": f"{value}"}[form]


def _score_notes(report: dict[str, Any]) -> list[str]:
    notes = ["A tie is never won: a wrong answer with an equal score ranks before the correct one."]
    tied = report["methods"]["model"][report["mode"]]["tied_queries"]
    if tied:
        notes.append(
            f"{tied} queries have a wrong answer with exactly the score of their best correct one: "
            "the images contain copies, or the encoder has collapsed."
        )
    return notes


def _origin_table(origin: dict[str, Any], report: dict[str, Any]) -> str:
    rows = {key: value for key, value in origin.items() if not isinstance(value, dict)}
    rows |= {"seed": report["seed"], "bootstrap resamples": report["bootstrap"]}
    lines = [f"| {key.replace('_', ' ')} | {value if value is not None else '-'} |" for key, value in rows.items()]
    return "\n".join(["| what | value |", "|---|---|", *lines])
