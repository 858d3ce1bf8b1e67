"""Evaluate an encoder on a split: extract once, then everything else from disk."""

import dataclasses
import json
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import mindloc
from mindloc.config import config_to_dict
from mindloc.config.schema import Config
from mindloc.data.split import Side, Split
from mindloc.descriptors.sets import DescriptorWriter, load_descriptor_sets, make_rows
from mindloc.errors import DataError, TileIndexError
from mindloc.evaluation.baselines import color_histogram, commonest
from mindloc.evaluation.rescore import SETUP_VERSION, Scores, rescore
from mindloc.evaluation.score import ScoreSettings, stages_of
from mindloc.evaluation.truth import write_truth
from mindloc.inference.build import card_facts
from mindloc.inference.engine import Engine
from mindloc.inference.extract import Extraction, extract, help_extract, rows_of_rank
from mindloc.runtime.cluster import ALONE, Cluster
from mindloc.runtime.device import describe_machine
from mindloc.runtime.files import atomic_write_text
from mindloc.vocabulary import MODES, PairMode, SideName

_HISTOGRAM_BATCH = 256


@dataclass(frozen=True)
class Asked:
    """One side of a retrieval task: what asks, or what is searched."""

    name: SideName  # of the split
    side: Side


@dataclass(frozen=True)
class Task:
    """Who is looked for among whom."""

    queries: Asked  # all of them
    gallery: Asked
    right: dict[str, list[np.ndarray]]  # mode -> gallery indices of each query

    def answerable(self) -> tuple[Asked, np.ndarray]:
        """The queries that something in the gallery answers, and their indices: only these are encoded."""
        index = np.array([i for i, items in enumerate(self.right["pos_semipos"]) if len(items)], np.int64)
        if not len(index):
            raise DataError("no query overlaps anything in the gallery; check the pair file and the image folders")
        return replace(self.queries, side=self.queries.side.take(index)), index


def evaluate(
    engine: Engine,
    config: Config,
    split: Split,
    out_dir: str | Path,
    train_split: Split | None = None,
    baselines: bool = True,
    pictures: bool = True,
    search_times: bool = True,
    command: str | None = None,
    progress: bool = True,
    cluster: Cluster = ALONE,
) -> Scores:
    """Encode a split, write the descriptor sets and the truth, score them, report.

    Args:
        split: queries and gallery; ``config.data.query_mode`` says which view asks.
        out_dir: the evaluation's folder; what an earlier evaluation left there is replaced.
        train_split: source of the constant answer; None leaves that baseline out.
        baselines: False leaves out the color histogram and the constant answer, as between epochs.
        pictures: False leaves out the PNG files.
        search_times: False leaves out how long each stage of a two-stage search takes.
        command: for the report; None takes this process's command line.
        cluster: ranks that encode together; this is the first, the others call ``help_evaluate``.

    Raises:
        DataError: nothing to evaluate, a picture that can't be read, or a folder that holds something else.
    """
    folder, task = Path(out_dir), make_task(split, config.data.query_mode == "S2D")
    queries, _ = task.answerable()
    _require_own(folder)
    (folder / "setup.json").unlink(missing_ok=True)  # an interrupted evaluation must not look finished
    shutil.rmtree(folder / "baselines", ignore_errors=True)
    names = {mode: [[task.gallery.side.files[i] for i in items] for items in task.right[mode]] for mode in MODES}
    write_truth(folder / "truth.jsonl", task.queries.side.files, names)
    speed = {}
    for side, name in ((queries, "query"), (task.gallery, "gallery")):
        speed[side.side.view] = _extract_side(engine, config, split, side, folder / name, progress, cluster)
    notes = []
    if baselines:
        notes = _write_baselines(config, split, train_split, task, queries, folder / "baselines", progress)
    origin = _origin(engine, config, split, speed, command)
    times = _search_times(folder, config, notes) if search_times and len(engine.descriptors) > 1 else None
    _write_setup(folder / "setup.json", config, split, origin, notes, times)
    return rescore(folder, pictures)


def _require_own(folder: Path) -> None:
    """Refuse a place that holds anything but an earlier evaluation, whose parts are deleted."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; give a new folder for the report")
    held = {path.name for path in folder.iterdir() if not path.name.startswith(".")} if folder.exists() else {}
    if held and "truth.jsonl" not in held:
        raise DataError(f"{folder} is neither empty nor an earlier evaluation; give a new folder for the report")


def make_task(split: Split, swap_sides: bool = False) -> Task:
    """The retrieval task of a split: queries look for references, or with ``swap_sides`` references for queries."""
    asking: tuple[SideName, SideName] = ("reference", "query") if swap_sides else ("query", "reference")
    right = {}
    for mode in MODES:
        edges = split.edges(mode)
        if swap_sides:
            edges = edges.swapped(len(split.reference))
        right[mode] = [edges.references_of(index) for index in range(edges.query_count)]
    return Task(*(Asked(name, split.side(name)) for name in asking), right)


def _extract_side(
    engine: Engine, config: Config, split: Split, side: Asked, folder: Path, progress: bool, cluster: Cluster
) -> Extraction:
    images = _images_of_rank(engine, config, split, side, cluster)
    facts = card_facts(config, side.name, side.side.place_unit)
    places = side.side.places
    place_N2 = places and places.coordinate_N2
    return extract(engine, side.name, images, side.side.files, place_N2, folder, facts, progress, cluster)


def help_evaluate(engine: Engine, config: Config, split: Split, cluster: Cluster) -> None:
    """What the other ranks do while the first one evaluates: their share of the encoding, query side first."""
    task = make_task(split, config.data.query_mode == "S2D")
    queries, _ = task.answerable()
    for side in (queries, task.gallery):
        help_extract(engine, side.name, _images_of_rank(engine, config, split, side, cluster), cluster)


def _images_of_rank(engine: Engine, config: Config, split: Split, side: Asked, cluster: Cluster) -> Iterable:
    from mindloc.data.readers import build_images  # here: scoring from disk needs no MindSpore

    rows = rows_of_rank(len(side.side), engine.batch_size, cluster)
    return build_images(config, side.name, [split.root / side.side.files[row] for row in rows], engine.batch_size)


def _write_baselines(
    config: Config,
    split: Split,
    train_split: Split | None,
    task: Task,
    queries: Asked,
    folder: Path,
    progress: bool,
) -> list[str]:
    """Write what the baselines are computed from; returns notes on what is missing."""
    notes = []
    folder.mkdir(parents=True)
    if config.eval.histogram_baseline:
        for side, name in ((queries, "query"), (task.gallery, "gallery")):
            _write_histograms(split, side.side, folder / name, config.data.workers, progress)
    else:
        notes.append("No color histogram: eval.histogram_baseline is off.")
    if train_split is None:
        notes.append("No constant answer: no training pairs were at hand.")
    else:
        counted = {mode: commonest(_named_by_pairs(train_split, mode, task.gallery.name)) for mode in MODES}
        atomic_write_text(folder / "constant.json", json.dumps(counted), DataError)
    return notes


def _named_by_pairs(split: Split, mode: PairMode, side: SideName) -> Iterator[str]:
    edges, files = split.edges(mode), split.side(side).files
    return (files[index] for index in (edges.reference if side == "reference" else edges.query()))


def _write_histograms(split: Split, side: Side, folder: Path, workers: int, progress: bool) -> None:
    rows = make_rows(side.files, side.places and side.places.coordinate_N2, side.view)
    card = {"view": side.view, "place_unit": side.place_unit, "engine": "color_histogram", "checkpoint_sha256": None}
    shown = progress and sys.stderr.isatty()
    bar = tqdm(total=len(rows), desc=f"{side.view} color histograms", unit="img", disable=not shown)
    with bar, ThreadPoolExecutor(workers) as pool, DescriptorWriter(folder, card) as writer:
        for start in range(0, len(rows), _HISTOGRAM_BATCH):
            part = rows[start : start + _HISTOGRAM_BATCH]
            histograms = pool.map(color_histogram, [split.root / row["name"] for row in part])
            writer.append(np.stack(list(histograms)), part)
            bar.update(len(part))


def _origin(
    engine: Engine, config: Config, split: Split, speed: dict[str, Extraction], command: str | None
) -> dict[str, Any]:
    return {
        "command": command or shlex.join(sys.argv),
        **engine.facts,
        "mindloc": mindloc.__version__,
        "data": str(split.root),
        "query_mode": config.data.query_mode,
        **{f"{view}_extraction": str(extraction) for view, extraction in speed.items()},
        "hardware": describe_machine(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "config": config_to_dict(config),
    }


def _search_times(folder: Path, config: Config, notes: list[str]) -> dict[str, Any] | None:
    """Adds to ``notes`` where no library can be made of what was encoded, which the scores have no part in."""
    from mindloc.evaluation.search_time import measure_search  # here: FAISS is slow to import, and seldom needed

    queries, gallery = load_descriptor_sets(folder / "query"), load_descriptor_sets(folder / "gallery")
    try:
        return measure_search(queries, gallery, stages_of(_score_settings(config), gallery["omega"].count))
    except TileIndexError as error:
        notes.append(f"No time per query: {error}.")
        return None


def _score_settings(config: Config) -> ScoreSettings:
    return ScoreSettings(
        mode=config.data.test_mode,
        recall_at=config.eval.recall_at,
        sdm_at=config.eval.sdm_at,
        bootstrap=config.eval.bootstrap,
        seed=config.train.seed,
        recall_n=config.search.recall_n,
        consistency_m=config.search.consistency_m,
    )


def _write_setup(
    path: Path,
    config: Config,
    split: Split,
    origin: dict[str, Any],
    notes: list[str],
    search_times: dict[str, Any] | None,
) -> None:
    setup = {
        "version": SETUP_VERSION,
        "settings": dataclasses.asdict(_score_settings(config)),
        "picture_root": str(Path(split.root).resolve()),
        "sheet_queries": config.eval.contact_sheet_queries,
        "notes": notes,
        "origin": origin,
        **({"search_times": search_times} if search_times else {}),
    }
    atomic_write_text(path, json.dumps(setup, indent=2, ensure_ascii=False) + "\n", DataError)
