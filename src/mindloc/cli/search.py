"""Look drone pictures up in a library of tiles: recall by one descriptor, re-rank by another where there is one.

Queries are pictures, or with --queries an extraction that exists already, for which no device is needed. Every query's
answers go to the file of --out, one line of JSON each: name, answers (tile, place, bounds, score, score_of: "cosine"
or "consistency", recall_rank).
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from mindloc.cli.arguments import add_config_arguments, add_engine_arguments, refuse_overrides_outside
from mindloc.cli.asked import Asked, ask_extraction, ask_pictures
from mindloc.cli.command import command
from mindloc.cli.index import WHILE_SEARCHING, given_parameters, require_parameters_of
from mindloc.config.schema import SearchConfig
from mindloc.errors import ConfigError, TileIndexError
from mindloc.runtime.files import atomic_write
from mindloc.search.index import Box, IndexCard, TileFacts, TileIndex
from mindloc.search.open_index import open_index
from mindloc.search.tile_checks import check_box, require_fit
from mindloc.search.two_stage import Batch, Circle, near_search, two_stage_search

_PLACES = {"plane_m": "x, y in meters", "lat_lon_deg": "latitude, longitude in degrees"}
_ORDER = "latitude before longitude, or x before y; below zero write it as --near=-34,151 or --box=-34,151,-33,152"
MOST_EFFORT = 100_000  # of nprobe, refine and ef_search: beyond it FAISS only runs out of memory
FEW = 20  # queries whose answers are printed one by one


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mindloc search",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, nargs="?", help="pictures (.png, .jpg, .jpeg), subfolders included")
    parser.add_argument(
        "--queries", type=Path, metavar="FOLDER", help="what extract wrote of them, in place of pictures"
    )
    parser.add_argument("--index", required=True, metavar="PATH", help="the library: a folder or milvus:...")
    add_engine_arguments(parser)
    parser.add_argument("--view", choices=("drone", "satellite"), default="drone", help="what the pictures are")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="answers per query; default: 5")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--near", type=numbers(2), metavar="A,B", help=f"last known position, with --within_m; {_ORDER}")
    where.add_argument("--box", type=numbers(4), metavar="A0,B0,A1,B1", help=f"lowest corner, then highest; {_ORDER}")
    parser.add_argument("--within_m", type=float, metavar="METERS", help="how far from --near a tile's place may be")
    for name in WHILE_SEARCHING:
        parser.add_argument(f"--{name}", type=int, metavar="N", help="as of index build; default: the library's own")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="answers, one line of JSON per query")
    add_config_arguments(parser, ("--device_target", "--device_id"), with_file=False)
    return parser


def numbers(count: int) -> Any:
    """A type of argument: so many numbers with commas between."""

    def parse(text: str) -> tuple[float, ...]:
        try:
            values = tuple(float(part) for part in text.split(","))
        except ValueError:
            values = ()
        if len(values) != count or not np.isfinite(values).all():
            raise argparse.ArgumentTypeError(f"{text!r} is not {count} numbers with commas between")
        return values

    return parse


@dataclass(frozen=True)
class Plan:
    """How every query is searched."""

    top: int  # answers that are given
    n: int  # recalled for the second stage
    m: int  # compared by nodes
    two_stage: bool
    box: Box | None
    circle: Circle | None


@dataclass
class Tally:
    """What is said of all queries together."""

    first: list[tuple[str, dict[str, Any] | None]] = field(default_factory=list)  # query, its first answer
    short: int = 0  # queries with fewer answers than asked for
    seconds: dict[str, float] = field(default_factory=dict)

    def add_seconds(self, **stages: float) -> None:
        for stage, seconds in stages.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


@command
def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    _check(args)
    with closing(open_index(args.index)) as index:
        _set_effort(index, args)
        asked = ask_extraction(args) if args.queries else ask_pictures(args)
        require_fit(
            index.card, asked.checkpoint_sha256, asked.reduction_sha256, asked.dimension or index.card.dimension
        )
        _require_rerank(index.card, asked, args)
        plan = make_plan(args, asked.config.search, index)
        with atomic_write(args.out, "answers", TileIndexError) as file:
            tally = _search_all(index, asked, plan, file)
    _report(tally, plan)
    print(f"answers: {args.out}")


def _check(args: argparse.Namespace) -> None:
    if (args.folder is None) == (args.queries is None):
        raise ConfigError("give either a folder of pictures or --queries FOLDER")
    if args.queries:
        _refuse_encoding(args)
    refuse_overrides_outside(args.overrides, ("data", "eval", "search", "run"), "the rest is fixed by the checkpoint")
    if (args.near is None) != (args.within_m is None):
        raise ConfigError("--near A,B and --within_m METERS go together; give both or none")
    if args.within_m is not None and not 0 < args.within_m < np.inf:
        raise ConfigError(f"--within_m is {args.within_m}; give a distance in meters above 0")


def _refuse_encoding(args: argparse.Namespace) -> None:
    """Refuse what says how pictures are encoded, where nothing is left to encode."""
    engine = argparse.ArgumentParser()
    add_engine_arguments(engine)
    defaults = {**vars(engine.parse_args([])), "view": "drone"}
    given = [f"--{name}" for name, value in defaults.items() if name != "pca" and getattr(args, name) != value]
    if given:
        raise ConfigError(f"--queries are encoded already; leave {', '.join(given)} out")
    refuse_overrides_outside(args.overrides, ("search",), "--queries are encoded already")


def _set_effort(index: TileIndex, args: argparse.Namespace) -> None:
    """Let a library in a folder search with other numbers than those it was built with."""
    given = given_parameters(args, WHILE_SEARCHING)
    if not given:
        return
    require_parameters_of(index.card.kind, given)
    if "refine" in given and not index.parameters.refine:
        raise ConfigError(f"{args.index} keeps no whole vectors to refine by; build it with --refine, or leave it out")
    for name, value in given.items():
        if not 1 <= value <= MOST_EFFORT:
            raise ConfigError(f"--{name} is {value}; give 1 to {MOST_EFFORT}")
    index.parameters = replace(index.parameters, **given)


def _require_rerank(card: IndexCard, asked: Asked, args: argparse.Namespace) -> None:
    """Refuse queries for stage one alone where the library has two: nobody would see that half of it is left out."""
    if card.rerank_dimension is not None and not asked.has_rerank:
        way_out = "name the folder that extract wrote, with omega and phi"
        if not args.queries:
            way_out = "encode them by the checkpoint, or by files exported with both descriptors"
        raise TileIndexError(f"{args.index} is searched in two stages and the queries come without phi; {way_out}")


def make_plan(args: argparse.Namespace, settings: SearchConfig, index: TileIndex) -> Plan:
    """How the arguments want this library searched.

    Raises:
        ConfigError: more answers than the first stage hands on.
        TileIndexError: more answers than tiles; a position or box in a library without places.
    """
    count, two_stage = index.count, index.card.rerank_dimension is not None
    if not 1 <= args.top <= count:
        raise TileIndexError(
            f"--top {args.top} for a library of {count} tiles; ask for 1 to {count}"
            if count
            else f"{args.index} holds no tiles; put some in: python -m mindloc index add"
        )
    if two_stage and args.top > settings.recall_n:
        raise ConfigError(f"--top {args.top} exceeds search.recall_n; add --set search.recall_n={args.top}")
    if settings.consistency_m and not two_stage:
        raise ConfigError(f"search.consistency_m needs re-rank vectors, which {args.index} has none of; leave it at 0")
    n = min(max(args.top, settings.recall_n), count)
    box, circle = _where(args, index.card)
    return Plan(args.top, n, min(settings.consistency_m, n), two_stage, box, circle)


def _where(args: argparse.Namespace, card: IndexCard) -> tuple[Box | None, Circle | None]:
    if args.near is None and args.box is None:
        return None, None
    if card.place_unit is None:
        raise TileIndexError(f"{args.index} knows no places of its tiles; build it from: extract --places")
    if args.box is not None:
        box = Box(args.box[:2], args.box[2:])
        check_box(card, box)
        return box, None
    circle = Circle(args.near, args.within_m)
    circle.box(card)  # which a pole may forbid: known before the work
    return None, circle


def _search_all(index: TileIndex, asked: Asked, plan: Plan, file: BinaryIO) -> Tally:
    tally = Tally()
    with tqdm(total=asked.count, desc="queries", unit="query", disable=not sys.stderr.isatty()) as bar:
        for batch in asked.batches(tally.add_seconds):
            _search_batch(index, batch, plan, tally, file)
            bar.update(len(batch.names))
    if (plan.box or plan.circle) and not any(answer for _, answer in tally.first):
        raise TileIndexError(
            f"no tile lies there; places are given as {_PLACES[index.card.place_unit]}, and extract --places says what "
            "ground the tiles cover"
        )
    return tally


def _search_batch(index: TileIndex, batch: Batch, plan: Plan, tally: Tally, file: BinaryIO) -> None:
    queries = (batch.recall_BD, batch.rerank_BE if plan.two_stage else None)
    if plan.circle:
        found = near_search(index, *queries, plan.n, plan.top, plan.circle, plan.m)
    else:
        found = two_stage_search(index, *queries, plan.n, plan.top, plan.m, plan.box)
    tally.add_seconds(recall=found.recall_s)
    if plan.two_stage:
        tally.add_seconds(rerank=found.rerank_s)
    if plan.m:
        tally.add_seconds(consistency=found.consistency_s)
    facts = iter(index.facts([name for names in found.names for name in names]))
    for name, scores, ranks, compared in zip(batch.names, found.scores, found.recall_rank, found.compared, strict=True):
        answers = list(_answers(facts, scores, ranks, compared))
        line = {"name": name, "answers": answers}
        file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
        tally.first.append((name, answers[0] if answers else None))
        tally.short += len(answers) < plan.top


def _answers(
    facts: Iterator[TileFacts], scores: np.ndarray, ranks: np.ndarray, compared: int
) -> Iterator[dict[str, Any]]:
    """One query's answers, best first, the ``compared`` first ones by consistency; takes a tile of ``facts`` each."""
    for place, (score, rank) in enumerate(zip(scores.tolist(), ranks.tolist(), strict=True)):
        tile = next(facts)
        answer = {"tile": tile.name, "place": tile.place, "bounds": tile.bounds, "score": round(score, 6)}
        yield {**answer, "score_of": "consistency" if place < compared else "cosine", "recall_rank": rank}


def _report(tally: Tally, plan: Plan) -> None:
    answered = [answer for _, answer in tally.first if answer]
    if len(tally.first) <= FEW:
        _print_table(tally.first)
    else:
        _print_summary(answered, len(tally.first))
    if plan.two_stage and answered:
        moved = sum(answer["recall_rank"] != 1 for answer in answered)
        print(f"stage two put another tile first than stage one for {moved} of {len(answered)} queries")
    if tally.short:
        print(f"note: {tally.short} of {len(tally.first)} queries got fewer than {plan.top} answers from where to look")
    times = (f"{stage} {1000 * s / len(tally.first):.3g} ms" for stage, s in tally.seconds.items())
    compiling = " (the first batch includes compiling)" if "encode" in tally.seconds else ""
    print(f"per query: {', '.join(times)}{compiling}")


def _print_summary(answered: list[dict[str, Any]], queries: int) -> None:
    print(f"{queries} queries, {len(answered)} of them answered")
    for kind in ("consistency", "cosine"):
        score = [answer["score"] for answer in answered if answer["score_of"] == kind]
        if score:
            low, median, high = np.quantile(score, (0, 0.5, 1))
            print(f"{kind} of {len(score)} first answers {low:.3f} to {high:.3f}, median {median:.3f}")


def _print_table(first: list[tuple[str, dict[str, Any] | None]]) -> None:
    rows = [("query", "first tile", "place", "score", "in stage one")]
    for query, answer in first:
        if answer is None:
            rows.append((query, "-", "-", "-", "-"))
            continue
        place = ", ".join(f"{x:.8g}" for x in answer["place"]) if answer["place"] else "-"
        rows.append(
            (query, answer["tile"], place, f"{answer['score']:.4f} {answer['score_of']}", str(answer["recall_rank"]))
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
