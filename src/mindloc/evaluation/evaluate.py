"""Evaluate an encoder on a split: extract the descriptors once, then compute everything from disk."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

import mindloc
from mindloc.config import Config, config_to_dict
from mindloc.data.image_header import check_header
from mindloc.data.loader import ImageBatches
from mindloc.data.split import Split
from mindloc.descriptors.sets import DescriptorWriter, load_descriptor_sets, make_rows
from mindloc.errors import DataError, TileIndexError
from mindloc.evaluation.baselines import color_histogram, commonest
from mindloc.evaluation.rescore import RESULT_FILES, rescore, write_setup
from mindloc.evaluation.score import DescriptorSets, ScoreSettings, Stages
from mindloc.evaluation.truth import Role, Task, make_task, write_truth
from mindloc.inference.build import card_facts
from mindloc.inference.engine import Engine
from mindloc.inference.extract import Extraction, extract, help_extract, rows_of_rank
from mindloc.runtime.cluster import ALONE, Cluster
from mindloc.runtime.console import progress_bar
from mindloc.runtime.device import describe_machine
from mindloc.runtime.files import atomic_write_text, scratch_directory, writing
from mindloc.runtime.lock import locked
from mindloc.runtime.process import this_command_line
from mindloc.search.extraction import Extracted
from mindloc.search.faiss_index import FaissIndex, build_faiss_index
from mindloc.search.two_stage import Answers, two_stage_search
from mindloc.vocabulary import GLOBAL, MODES, PairMode, SideName

_HISTOGRAM_BATCH = 256
_TIMED_QUERIES = 100  # measured one by one, evenly spaced
_WARMING = 3  # queries before the timed ones, as the first queries also fetch pages from the disk
_TIMED_ANSWERS = 5


def evaluate(
    engine: Engine,
    config: Config,
    split: Split,
    out_dir: str | Path,
    train_split: Split | None = None,
    baselines: bool = True,
    figures: bool = True,
    search_times: bool = True,
    cluster: Cluster = ALONE,
) -> dict[str, Any]:
    """Encode a split, write the descriptor sets and the truth, score them, and write the report.

    Args:
        split: queries and references; ``config.eval.swap_sides`` says which side the queries are.
        out_dir: the evaluation's directory; what an earlier evaluation left there is replaced.
        train_split: source of the constant answer; None leaves that baseline out.
        baselines: False leaves out the color histogram and the constant answer, as between epochs.
        figures: False leaves out the PNG files.
        search_times: False leaves out the times of the stages of a two-stage search.
        cluster: ranks that encode together; this is the first, the others call ``help_evaluate``.

    Returns:
        The content of report.json.

    Raises:
        DataError: there is nothing to evaluate, an image can't be read, or the directory contains something else.
    """
    directory = Path(os.path.realpath(out_dir))
    with locked(directory, "evaluation", DataError), writing(f"evaluation {directory}", DataError):
        _require_own(directory)
        with scratch_directory(directory) as made:  # until all of it is there, an earlier evaluation stays
            report = _evaluate(engine, config, split, made, train_split, baselines, figures, search_times, cluster)
            _publish(made, directory)
    return report


def _evaluate(
    engine: Engine,
    config: Config,
    split: Split,
    directory: Path,
    train_split: Split | None,
    baselines: bool,
    figures: bool,
    search_times: bool,
    cluster: Cluster,
) -> dict[str, Any]:
    task = _task(config, split)
    roles = (task.answerable(), task.references)
    write_truth(directory / "truth.jsonl", task.queries.images.files, task.right_names())
    speed = {}
    for role in roles:
        speed[role.name] = _extract_role(engine, config, split, role, directory / role.name, cluster)
    notes = []
    if baselines:
        notes = _write_baselines(config, split, train_split, roles, directory / "baselines")
    origin = _origin(engine, config, split, speed)
    times = _search_times(directory, config, notes) if search_times and len(engine.descriptors) > 1 else None
    _write_setup(directory / "setup.json", config, split, origin, notes, times)
    return rescore(directory, figures)


def _task(config: Config, split: Split) -> Task:
    return make_task(split, config.eval.swap_sides)


def check_before_encoding(config: Config, split: Split, out_dir: str | Path) -> None:
    """Refuse without an engine what ``evaluate`` would refuse after minutes.

    Raises:
        DataError: the directory contains something else; an image whose header can't be read.
    """
    _require_own(Path(out_dir))
    task = _task(config, split)
    for role in (task.answerable(), task.references):
        images = role.images
        for name in progress_bar(images.files, desc=f"{images.view} image headers", unit="img"):
            check_header(split.root / name)


def _require_own(directory: Path) -> None:
    """Check that the directory is missing, empty or an earlier evaluation, as its content will be deleted."""
    if directory.exists() and not directory.is_dir():
        raise DataError(f"{directory} is a file; give a new directory for the report")
    found = {path.name for path in directory.iterdir() if not path.name.startswith(".")} if directory.exists() else {}
    if found and "truth.jsonl" not in found:
        raise DataError(f"{directory} is neither empty nor an earlier evaluation; give a new directory for the report")


def _publish(made: Path, directory: Path) -> None:
    """Put the parts of an evaluation in place of those of an earlier one."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in RESULT_FILES:
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory / "baselines", ignore_errors=True)
    last = ("report.json", "setup.json")  # by which others recognize an evaluation
    for part in sorted(made.iterdir(), key=lambda part: last.index(part.name) if part.name in last else -1):
        if part.is_dir():
            shutil.rmtree(directory / part.name, ignore_errors=True)
        part.replace(directory / part.name)


def _extract_role(
    engine: Engine, config: Config, split: Split, role: Role, directory: Path, cluster: Cluster
) -> Extraction:
    images = _images_of_rank(engine, config, split, role, cluster)
    facts = card_facts(config, role.side, role.images.place_unit)
    places = role.images.places
    place_N2 = places and places.coordinate_N2
    return extract(engine, role.side, images, role.images.files, place_N2, directory, facts, cluster)


def help_evaluate(engine: Engine, config: Config, split: Split, cluster: Cluster) -> None:
    """Encode this rank's part of the queries, then of the references, while the first rank runs ``evaluate``."""
    task = _task(config, split)
    for role in (task.answerable(), task.references):
        help_extract(engine, role.side, _images_of_rank(engine, config, split, role, cluster), cluster)


def _images_of_rank(engine: Engine, config: Config, split: Split, role: Role, cluster: Cluster) -> Iterable:
    rows = rows_of_rank(len(role.images), engine.batch_size, cluster)
    paths = [split.root / role.images.files[row] for row in rows]
    return ImageBatches(config.view(role.side), paths, engine.batch_size, config.data.workers)


def _write_baselines(
    config: Config,
    split: Split,
    train_split: Split | None,
    roles: tuple[Role, Role],
    directory: Path,
) -> list[str]:
    """Write what the baselines are computed from; returns notes on what is missing."""
    notes = []
    directory.mkdir(parents=True)
    if config.eval.histogram_baseline:
        for role in roles:
            _write_histograms(split, role, directory / role.name, config.data.workers)
    else:
        notes.append("No color histogram: eval.histogram_baseline is off.")
    if train_split is None:
        notes.append("No constant answer: no training pairs were available.")
    else:
        searched = roles[1].side
        counted = {mode: commonest(_named_by_pairs(train_split, mode, searched)) for mode in MODES}
        atomic_write_text(directory / "constant.json", json.dumps(counted), DataError)
    return notes


def _named_by_pairs(split: Split, mode: PairMode, side: SideName) -> Iterator[str]:
    edges, files = split.edges(mode), split.side(side).files
    return (files[index] for index in (edges.reference if side == "reference" else edges.query()))


def _write_histograms(split: Split, role: Role, directory: Path, workers: int) -> None:
    images = role.images
    rows = make_rows(images.files, images.places and images.places.coordinate_N2)
    facts = {"view": images.view, "place_unit": images.place_unit}
    card = {**facts, "engine": "color_histogram", "checkpoint_sha256": None}
    bar = progress_bar(total=len(rows), desc=f"{images.view} color histograms", unit="img")
    with bar, ThreadPoolExecutor(workers) as pool, DescriptorWriter(directory, {GLOBAL: card}) as writer:
        for start in range(0, len(rows), _HISTOGRAM_BATCH):
            part = rows[start : start + _HISTOGRAM_BATCH]
            histograms = pool.map(color_histogram, [split.root / row["name"] for row in part])
            writer.append({GLOBAL: np.stack(list(histograms))}, part)
            bar.update(len(part))


def _origin(engine: Engine, config: Config, split: Split, speed: dict[str, Extraction]) -> dict[str, Any]:
    return {
        "command": this_command_line(),
        **engine.facts,
        "mindloc": mindloc.__version__,
        "data": str(split.root),
        "swap_sides": config.eval.swap_sides,
        **{f"{role}_extraction": str(extraction) for role, extraction in speed.items()},
        "hardware": describe_machine(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "config": config_to_dict(config),
    }


def _search_times(directory: Path, config: Config, notes: list[str]) -> dict[str, Any] | None:
    """The times of a two-stage search; if no index can be built, None, and the reason is added to ``notes``."""
    queries, references = load_descriptor_sets(directory / "query"), load_descriptor_sets(directory / "reference")
    try:
        index = build_exact_index(references)
    except TileIndexError as error:
        notes.append(f"No time per query: {error}.")
        return None
    return measure_search(index, queries, _score_settings(config).stages(references["omega"].count))


def build_exact_index(references: DescriptorSets) -> FaissIndex:
    """An index in memory that compares every reference exactly.

    Raises:
        TileIndexError: no index can be built from the descriptors.
    """
    tiles = Extracted(references["omega"], references["phi"], reduction=None)
    return build_faiss_index(tiles.index_card("flat"), tiles.tiles())


def measure_search(index: FaissIndex, queries: DescriptorSets, stages: Stages) -> dict[str, Any]:
    """Median milliseconds per query of each stage, in an index from ``build_exact_index``.

    Returns:
        recall_ms, rerank_ms, consistency_ms (None without that stage), and ``how``, the measurement in words.
    """
    count = queries["omega"].count
    row_Q = np.linspace(0, count - 1, min(_TIMED_QUERIES, count)).round().astype(int)
    for row in row_Q[:_WARMING]:
        _search_one(index, queries, stages, row)
    answers = [_search_one(index, queries, stages, row) for row in row_Q]
    recall, rerank, consistency = (
        1e3 * float(np.median([getattr(answer, f"{stage}_s") for answer in answers]))
        for stage in ("recall", "rerank", "consistency")
    )
    return {
        "recall_ms": recall,
        "rerank_ms": rerank,
        "consistency_ms": consistency if stages.consistency_m else None,
        "how": f"median of {len(row_Q)} single queries, exact search in {index.count} tiles in memory, FAISS",
    }


def _search_one(index: FaissIndex, queries: DescriptorSets, stages: Stages, row: int) -> Answers:
    pair = (queries[name].descriptor_ND[row : row + 1] for name in ("omega", "phi"))
    answers = min(_TIMED_ANSWERS, stages.recall_n)
    return two_stage_search(index, *pair, stages.recall_n, answers, stages.consistency_m)


def _score_settings(config: Config) -> ScoreSettings:
    return ScoreSettings(mode=config.data.test_mode, seed=config.train.seed, eval=config.eval, search=config.search)


def _write_setup(
    path: Path,
    config: Config,
    split: Split,
    origin: dict[str, Any],
    notes: list[str],
    search_times: dict[str, Any] | None,
) -> None:
    setup = {
        "settings": _score_settings(config).model_dump(mode="json"),
        "image_root": str(Path(split.root).resolve()),
        "notes": notes,
        "origin": origin,
        **({"search_times": search_times} if search_times else {}),
    }
    write_setup(path, setup)
