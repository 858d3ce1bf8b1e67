"""Look drone pictures up in a library of tiles: recall by one descriptor, re-rank by another where there is one.

Queries are pictures, or with --queries an extraction that exists already, for which no device is needed. Every query's
answers go to the file of --out, one line of JSON each: name, answers (tile, place, bounds, score, recall_rank).
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from tqdm import tqdm

from mindloc.cli.asked import Asked, ask_extraction, ask_pictures
from mindloc.cli.boundary import command
from mindloc.cli.engine_arguments import add_engine_arguments
from mindloc.cli.flags import add_config_arguments, refuse_overrides_outside
from mindloc.config.schema import SearchConfig
from mindloc.errors import ConfigError, TileIndexError
from mindloc.geo.points import box_around, paired_distance_m
from mindloc.retrieval.extracted import Batch
from mindloc.retrieval.open_index import open_index
from mindloc.retrieval.tile_checks import require_fit
from mindloc.retrieval.tile_index import Box, IndexCard, TileFacts, TileIndex
from mindloc.retrieval.two_stage import two_stage_search
from mindloc.runtime.atomic import atomic_write

_ORDER = "latitude before longitude, or x before y; a first number below zero is written --near=-33.9,151.2"
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


class Circle(NamedTuple):
    """Around a last known position, in the unit of the library's places."""

    place: tuple[float, float]
    radius_m: float


@dataclass(frozen=True)
class Plan:
    """How every query is searched."""

    top: int  # answers that are given
    n: int  # recalled for the second stage
    m: int  # compared by nodes
    two_stage: bool
    box: Box | None
    circle: Circle | None

    @property
    def asked(self) -> int:
        """Answers to ask for: those of the box's corners, outside the circle, are dropped afterwards."""
        return self.n if self.circle else self.top


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
    refuse_overrides_outside(args.overrides, ("data", "eval", "search", "run"), "the rest is fixed by the checkpoint")
    _check(args)
    with closing(open_index(args.index)) as index:
        asked = ask_extraction(args) if args.queries else ask_pictures(args)
        require_fit(
            index.card, asked.checkpoint_sha256, asked.reduction_sha256, asked.dimension or index.card.dimension
        )
        plan = make_plan(args, asked.config.search, index)
        with atomic_write(args.out, "answers", TileIndexError) as file:
            tally = _search_all(index, asked, plan, file)
    _report(tally, plan)
    print(f"answers: {args.out}")


def _check(args: argparse.Namespace) -> None:
    if (args.folder is None) == (args.queries is None):
        raise ConfigError("give either a folder of pictures or --queries FOLDER")
    if args.queries and (args.checkpoint or args.exported):
        raise ConfigError("--queries are encoded already; leave --checkpoint and --exported out")
    if (args.near is None) != (args.within_m is None):
        raise ConfigError("--near A,B and --within_m METERS go together; give both or none")
    if args.within_m is not None and not 0 < args.within_m < np.inf:
        raise ConfigError(f"--within_m is {args.within_m}; give a distance in meters above 0")


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
        raise ConfigError(f"--top {args.top} exceeds search.recall_n = {settings.recall_n}; raise that one as well")
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
        return Box(args.box[:2], args.box[2:]), None
    _check_degrees(args.near, card)
    return Box(*box_around(args.near, args.within_m, card.place_unit)), Circle(args.near, args.within_m)


def _check_degrees(place: tuple[float, ...], card: IndexCard) -> None:
    if card.place_unit == "lat_lon_deg" and not (abs(place[0]) <= 90 and abs(place[1]) <= 180):
        raise ConfigError(f"--near {place[0]},{place[1]} is no place in degrees; give latitude before longitude")


def _search_all(index: TileIndex, asked: Asked, plan: Plan, file: BinaryIO) -> Tally:
    tally = Tally()
    with tqdm(total=asked.count, desc="queries", unit="query", disable=not sys.stderr.isatty()) as bar:
        for batch in asked.batches(tally.add_seconds):
            _search_batch(index, batch, plan, tally, file)
            bar.update(len(batch.names))
    return tally


def _search_batch(index: TileIndex, batch: Batch, plan: Plan, tally: Tally, file: BinaryIO) -> None:
    found = two_stage_search(
        index, batch.recall_BD, batch.rerank_BE if plan.two_stage else None, plan.n, plan.asked, plan.m, plan.box
    )
    tally.add_seconds(recall=found.recall_s)
    if plan.two_stage:
        tally.add_seconds(rerank=found.rerank_s)
    if plan.m:
        tally.add_seconds(consistency=found.consistency_s)
    facts = iter(index.facts([name for names in found.names for name in names]))
    for name, scores, ranks in zip(batch.names, found.scores, found.recall_rank, strict=True):
        answers = list(_answers(facts, scores, ranks, index.card, plan.circle))[: plan.top]
        line = {"name": name, "answers": answers}
        file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
        tally.first.append((name, answers[0] if answers else None))
        tally.short += len(answers) < plan.top


def _answers(
    facts: Iterator[TileFacts], scores: np.ndarray, ranks: np.ndarray, card: IndexCard, circle: Circle | None
) -> Iterator[dict[str, Any]]:
    """One query's answers, best first; takes as many ``facts`` as there are scores."""
    for score, rank in zip(scores.tolist(), ranks.tolist(), strict=True):
        tile = next(facts)
        if circle and paired_distance_m(circle.place, tile.place, card.place_unit) > circle.radius_m:
            continue
        yield {"tile": tile.name, "place": tile.place, "bounds": tile.bounds, "score": score, "recall_rank": rank}


def _report(tally: Tally, plan: Plan) -> None:
    answered = [answer for _, answer in tally.first if answer]
    if len(tally.first) <= FEW:
        _print_table(tally.first, "consistency" if plan.m else "cosine")
    elif answered:
        score = np.array([answer["score"] for answer in answered])
        low, median, high = np.quantile(score, (0, 0.5, 1))
        print(f"{len(tally.first)} queries; score of the first answer {low:.3f} to {high:.3f}, median {median:.3f}")
    if plan.two_stage and answered:
        moved = sum(answer["recall_rank"] != 1 for answer in answered)
        print(f"stage two put another tile first than stage one for {moved} of {len(answered)} queries")
    if tally.short:
        print(f"note: {tally.short} of {len(tally.first)} queries got fewer than {plan.top} answers from where to look")
    times = (f"{stage} {1000 * s / len(tally.first):.3g} ms" for stage, s in tally.seconds.items())
    compiling = " (the first batch includes compiling)" if "encode" in tally.seconds else ""
    print(f"per query: {', '.join(times)}{compiling}")


def _print_table(first: list[tuple[str, dict[str, Any] | None]], score: str) -> None:
    rows = [("query", "first tile", "place", score, "in stage one")]
    for query, answer in first:
        if answer is None:
            rows.append((query, "-", "-", "-", "-"))
            continue
        place = ", ".join(f"{x:.8g}" for x in answer["place"]) if answer["place"] else "-"
        rows.append((query, answer["tile"], place, f"{answer['score']:.4f}", str(answer["recall_rank"])))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
