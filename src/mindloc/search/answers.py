"""Search for all queries: plan once, search batch by batch, write the answers as lines of JSON, print a summary.

A line has the name of a query and its answers, best first. An answer has tile, place, bounds, score, score_of ("cosine"
or "consistency") and recall_rank.
"""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from mindloc.errors import ConfigError, TileIndexError
from mindloc.runtime.console import COLUMNS, progress_bar
from mindloc.runtime.process import command_line
from mindloc.search.extraction import Batch, Queries
from mindloc.search.index import Box, Circle, IndexCard, TileFacts, TileIndex
from mindloc.search.two_stage import two_stage_search

FEW = 20  # queries whose answers are printed one by one
_PLACES = {"plane_m": "x, y in meters", "lat_lon_deg": "latitude, longitude in degrees"}


@dataclass(frozen=True)
class SearchPlan:
    """How every query is searched."""

    top: int  # answers per query
    n: int  # tiles recalled for the second stage
    m: int  # tiles compared by nodes
    two_stage: bool
    where: Box | Circle | None  # None: everywhere


def require_fit(card: IndexCard, queries: Queries, way_out: str) -> None:
    """Check that the index can answer the queries in all its stages; otherwise one would be left out silently.

    Args:
        way_out: how to get queries with both vectors, for the message.

    Raises:
        TileIndexError: checkpoint, reduction or width differ from those of the index, or it has re-rank vectors and the
            queries have none.
    """
    card.require_fit(queries.checkpoint_sha256, queries.reduction_sha256, queries.dimension or card.dimension)
    if card.rerank_dimension is not None and not queries.has_rerank:
        raise TileIndexError(f"the index is searched in two stages, but the queries have no phi; {way_out}")


def plan_search(
    index: TileIndex, top: int, recall_n: int, consistency_m: int, where: Box | Circle | None = None
) -> SearchPlan:
    """The plan of a search in this index, after a check of the numbers.

    Args:
        top: answers per query.
        recall_n, consistency_m: as in ``SearchConfig``; the second must be 0 for an index of one stage.

    Raises:
        ConfigError: ``top`` exceeds recall_n; consistency is requested, but the index has no re-rank vectors.
        TileIndexError: the index has fewer tiles than ``top``; ``where`` is invalid, or the index has no places.
    """
    count, two_stage = index.count, index.card.rerank_dimension is not None
    if not count:
        raise TileIndexError(
            f"the index contains no tiles; add some: {command_line('index', 'add', 'DIRECTORY', '--index', 'PATH')}"
        )
    if not 1 <= top <= count:
        raise TileIndexError(f"--top is {top}, but the index has {count} tiles; give 1 to {count}")
    if two_stage and top > recall_n:
        raise ConfigError(f"--top {top} exceeds search.recall_n; add --set search.recall_n={top}")
    if consistency_m and not two_stage:
        raise ConfigError(f"search.consistency_m is {consistency_m}, but the index has no re-rank vectors; set it to 0")
    if where is not None:
        where.box(index.card)  # an invalid area is reported before the work
    n = min(max(top, recall_n), count)
    return SearchPlan(top, n, min(consistency_m, n), two_stage, where)


@dataclass
class Summary:
    """What is printed about all queries together."""

    plan: SearchPlan
    first: list[tuple[str, dict[str, Any] | None]] = field(default_factory=list)  # query, its first answer
    short: int = 0  # queries with fewer answers than requested
    seconds: dict[str, float] = field(default_factory=dict)  # of each stage

    def add_seconds(self, **stages: float) -> None:
        for stage, seconds in stages.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def lines(self) -> Iterator[str]:
        """Lines for the console: the first answers or their scores, what stage two changed, the time of each stage."""
        answered = [answer for _, answer in self.first if answer]
        yield from (
            _table(self.first, self.plan.two_stage) if len(self.first) <= FEW else _scores(answered, len(self.first))
        )
        if self.plan.two_stage and answered:
            moved = sum(answer["recall_rank"] != 1 for answer in answered)
            yield f"stage two changed the first tile of {moved} of {len(answered)} queries"
        if self.short:
            total, top = len(self.first), self.plan.top
            yield f"note: {self.short} of {total} queries got fewer than {top} answers in the given area"
        times = (f"{stage} {1000 * s / len(self.first):.3g} ms" for stage, s in self.seconds.items())
        compiling = " (the first batch includes compiling)" if "encode" in self.seconds else ""
        yield f"per query: {', '.join(times)}{compiling}"


def search_all(
    index: TileIndex, batches: Iterable[Batch], summary: Summary, encoding: bool = False
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Search batch by batch; yields (query, its answers, best first) in the order of the queries.

    Args:
        summary: contains the plan of the search; receives counts and times.
        encoding: the batches are encoded as they are taken, which is timed as a separate stage.

    Raises (while iterating):
        TileIndexError: the area of the search contains no tile; the reasons given in ``two_stage_search``.
    """
    plan, batches, started = summary.plan, iter(batches), time.perf_counter()
    while batch := next(batches, None):
        if encoding:
            summary.add_seconds(encode=time.perf_counter() - started)
        yield from _search_batch(index, batch, summary)
        started = time.perf_counter()
    if plan.where and not any(answer for _, answer in summary.first):
        raise TileIndexError(
            f"no tile is in the given area; give places as {_PLACES[index.card.place_unit]}, and see the output of "
            "extract --places for the ground that the tiles cover"
        )


def write_answers(file: BinaryIO, answered: Iterable[tuple[str, list[dict[str, Any]]]], count: int) -> None:
    """Write a line of JSON per query, with a progress bar on a terminal; ``count`` queries are expected."""
    with progress_bar(total=count, desc="queries", unit="query") as bar:
        for name, answers in answered:
            file.write((json.dumps({"name": name, "answers": answers}, ensure_ascii=False) + "\n").encode())
            bar.update()


def _search_batch(index: TileIndex, batch: Batch, summary: Summary) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    plan = summary.plan
    queries = (batch.recall_BD, batch.rerank_BE if plan.two_stage else None)
    found = two_stage_search(index, *queries, plan.n, plan.top, plan.m, plan.where)
    summary.add_seconds(recall=found.recall_s)
    if plan.two_stage:
        summary.add_seconds(rerank=found.rerank_s)
    if plan.m:
        summary.add_seconds(consistency=found.consistency_s)
    facts = iter(index.facts([name for names in found.names for name in names]))
    for name, scores, ranks, compared in zip(batch.names, found.scores, found.recall_rank, found.compared, strict=True):
        answers = list(_answers(facts, scores, ranks, compared))
        summary.first.append((name, answers[0] if answers else None))
        summary.short += len(answers) < plan.top
        yield name, answers


def _answers(
    facts: Iterator[TileFacts], scores: np.ndarray, ranks: np.ndarray, compared: int
) -> Iterator[dict[str, Any]]:
    """Yield one query's answers, best first, the first ``compared`` by consistency; ``facts`` are their tiles."""
    for place, (score, rank) in enumerate(zip(scores.tolist(), ranks.tolist(), strict=True)):
        tile = next(facts)
        answer = {"tile": tile.name, "place": tile.place, "bounds": tile.bounds, "score": round(score, 6)}
        yield {**answer, "score_of": "consistency" if place < compared else "cosine", "recall_rank": rank}


def _scores(answered: list[dict[str, Any]], queries: int) -> Iterator[str]:
    yield f"{queries} queries, {len(answered)} of them answered"
    for kind in ("consistency", "cosine"):
        score = [answer["score"] for answer in answered if answer["score_of"] == kind]
        if score:
            low, median, high = np.quantile(score, (0, 0.5, 1))
            yield f"{kind} of {len(score)} first answers {low:.3f} to {high:.3f}, median {median:.3f}"


def _table(first: list[tuple[str, dict[str, Any] | None]], two_stage: bool) -> Iterator[str]:
    """Lines of a table, at most ``COLUMNS`` wide: long names lose their first characters."""
    columns = 5 if two_stage else 4
    rows = [("query", "first tile", "place", "score", "stage one")[:columns]]
    for query, answer in first:
        if answer is None:
            rows.append((query, "-", "-", "-", "-")[:columns])
            continue
        place = ", ".join(f"{x:.8g}" for x in answer["place"]) if answer["place"] else "-"
        score = f"{answer['score']:.4f} {answer['score_of']}"
        rows.append((query, answer["tile"], place, score, str(answer["recall_rank"]))[:columns])
    query_width, tile_width, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    room = COLUMNS - sum(others) - 2 * (columns - 1)  # for both names
    query_width = min(query_width, max(room // 2, room - tile_width))
    widths = [query_width, min(tile_width, room - query_width), *others]
    for row in rows:
        yield "  ".join(_end_of(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _end_of(text: str, width: int) -> str:
    return text if len(text) <= width else f"...{text[3 - width :]}"
