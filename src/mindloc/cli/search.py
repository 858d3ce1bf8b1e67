"""Look drone images up in an index of tiles: recall by one descriptor, re-rank by another where there is one.

Queries are images, or with --queries an extraction that exists already, for which no device is needed. Every query's
answers go to the file of --out, one line of JSON each: name, answers (tile, place, bounds, score, score_of: "cosine"
or "consistency", recall_rank).
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from mindloc.cli.arguments import (
    add_config_arguments,
    add_engine_arguments,
    add_view_argument,
    engine_request,
    refuse_overrides_outside,
)
from mindloc.cli.command import command
from mindloc.cli.index import given_parameters
from mindloc.config import Config, config_from_dict, override_config
from mindloc.data.images import image_names
from mindloc.data.loader import ImageBatches
from mindloc.errors import ConfigError, TileIndexError
from mindloc.inference.build import compare_with_exact, read_source, start_engine
from mindloc.inference.extract import encoded_queries
from mindloc.runtime.files import atomic_write
from mindloc.search.answers import Summary, plan_search, require_fit, search_all, write_answers
from mindloc.search.build import open_index
from mindloc.search.extraction import Batch, Queries, load_extracted
from mindloc.search.faiss_kinds import WHILE_SEARCHING
from mindloc.search.index import Box
from mindloc.search.two_stage import Circle

_ORDER = "latitude before longitude, or x before y; below zero write it as --near=-34,151 or --box=-34,151,-33,152"
_BOTH_STAGES = {  # how to come by queries with both descriptors: read, encoded
    True: "name the directory that extract wrote, with omega and phi",
    False: "encode them by the checkpoint, or by files exported with both descriptors",
}
Source = tuple[Queries, Config, Callable[[], Iterator[Batch]]]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mindloc search",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", type=Path, nargs="?", help="images (.png, .jpg, .jpeg), subdirectories included")
    parser.add_argument(
        "--queries", type=Path, metavar="DIRECTORY", help="what extract wrote of them, in place of images"
    )
    parser.add_argument("--index", required=True, metavar="PATH", help="the index: a directory or milvus:...")
    add_engine_arguments(parser)
    add_view_argument(parser, "query")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="answers per query; default: 5")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--near", type=numbers(2), metavar="A,B", help=f"last known position, with --within_m; {_ORDER}")
    where.add_argument("--box", type=numbers(4), metavar="A0,B0,A1,B1", help=f"lowest corner, then highest; {_ORDER}")
    parser.add_argument("--within_m", type=float, metavar="METERS", help="how far from --near a tile's place may be")
    for name in WHILE_SEARCHING:
        parser.add_argument(f"--{name}", type=int, metavar="N", help="as of index build; default: the index's own")
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


@command
def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    _check(args)
    where = Box(args.box[:2], args.box[2:]) if args.box else Circle(args.near, args.within_m) if args.near else None
    with closing(open_index(args.index)) as index:
        if given := given_parameters(args, WHILE_SEARCHING):
            index.search_with(given)
        queries, config, batches = _read_queries(args) if args.queries else _encode_queries(args)
        require_fit(index.card, queries, _BOTH_STAGES[bool(args.queries)])
        summary = Summary(plan_search(index, args.top, config.search.recall_n, config.search.consistency_m, where))
        with atomic_write(args.out, "answers", TileIndexError) as file:
            answered = search_all(index, batches(), summary, encoding=not args.queries)
            write_answers(file, answered, queries.count)
    for line in summary.lines():
        print(line)
    print(f"answers: {args.out}")


def _check(args: argparse.Namespace) -> None:
    if (args.directory is None) == (args.queries is None):
        raise ConfigError("give either a directory of images or --queries DIRECTORY")
    if args.queries:
        _refuse_encoding(args)
    refuse_overrides_outside(args.overrides, ("data", "eval", "search", "run"), "the rest is fixed by the checkpoint")
    if (args.near is None) != (args.within_m is None):
        raise ConfigError("--near A,B and --within_m METERS go together; give both or none")
    if args.within_m is not None and not 0 < args.within_m < np.inf:
        raise ConfigError(f"--within_m is {args.within_m}; give a distance in meters above 0")


def _refuse_encoding(args: argparse.Namespace) -> None:
    """Refuse what says how images are encoded, where nothing is left to encode."""
    engine = argparse.ArgumentParser()
    add_engine_arguments(engine)
    defaults = {**vars(engine.parse_args([])), "view": None}
    given = [f"--{name}" for name, value in defaults.items() if name != "pca" and getattr(args, name) != value]
    if given:
        raise ConfigError(f"--queries are encoded already; leave {', '.join(given)} out")
    refuse_overrides_outside(args.overrides, ("search",), "--queries are encoded already")


def _read_queries(args: argparse.Namespace) -> Source:
    """The queries of an extraction; no device, no MindSpore."""
    extracted = load_extracted(args.queries, args.pca)
    config = override_config(config_from_dict(extracted.recall.card.get("config", {})), args.overrides)
    return extracted.queries, config, extracted.batches


def _encode_queries(args: argparse.Namespace) -> Source:
    """The images of a directory; calling for their batches starts the device."""
    names = image_names(args.directory)
    request = engine_request(args)
    source = read_source(request, ("query",), args.view)
    config, side = override_config(source.config, args.overrides), source.side

    def batches() -> Iterator[Batch]:
        engine, paths = start_engine(request, source, config), [args.directory / name for name in names]
        compare_with_exact(engine, config, {side: paths})
        images = ImageBatches(config.view(side), paths, engine.batch_size, config.data.workers)
        return encoded_queries(engine, side, images, names)

    return source.queries(len(names)), config, batches
