"""Command that searches an index of tiles for drone images: recall by one descriptor, re-ranking by a second if any."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from mindloc.cli.command import PATH, command
from mindloc.cli.index import given, index_option, parameter_options
from mindloc.cli.options import (
    EngineArguments,
    config_options,
    engine_options,
    view_option,
)
from mindloc.config import Config, config_from_dict, override_after_training
from mindloc.data.image_directory import list_images
from mindloc.errors import ConfigError, TileIndexError
from mindloc.inference.build import compare_with_exact, read_source, start_engine
from mindloc.inference.extract import encoded_queries
from mindloc.runtime.files import atomic_write
from mindloc.search.answers import Summary, plan_search, require_fit, search_all, write_answers
from mindloc.search.build import open_index
from mindloc.search.extraction import Batch, Queries, load_extracted
from mindloc.search.faiss_kinds import WHILE_SEARCHING
from mindloc.search.index import Box, Circle

_ORDER = "latitude before longitude, or x before y"
_ACROSS = "; across the 180th meridian from 179.9 to -179.9"
_BOTH_STAGES = {  # way out if queries lack a descriptor that the index needs; True: they were read, False: encoded
    True: "give the directory that extract wrote, with omega and phi",
    False: "encode them with the checkpoint, or with files exported with both descriptors",
}
_ON_BAD_IMAGE = "data.on_bad_image"
_ENCODED = "--queries are encoded already"
_READ = ("search.recall_n", "search.consistency_m")  # keys that a search reads, whatever the encoder's head
_ENCODING = ("checkpoint", "engine", "exported", "precision", "dec_key_file", "tensorrt", "allow_cpu_provider", "view")
Point = tuple[float, ...]


class QuerySource(NamedTuple):
    """Queries that are read or encoded only when ``batches`` is called."""

    known: Queries
    config: Config
    batches: Callable[[], Iterator[Batch]]
    after: Callable[[], int] = lambda: (
        0
    )  # called when all are searched: prints what was left out, returns the exit code


def numbers(count: int) -> Callable[[str], Point]:
    """A parser of an option's value: ``count`` numbers separated by commas."""

    def parse(text: str) -> Point:
        try:
            values = tuple(float(part) for part in text.split(","))
        except ValueError:
            values = ()
        if len(values) != count or not np.isfinite(values).all():
            raise click.BadParameter(f"{text!r} is not {count} numbers separated by commas")
        return values

    return parse


@command("search", example="images --index tiles_index --checkpoint work_dir/latest --out answers.jsonl")
@click.argument("directory", type=PATH, required=False)
@click.option("--queries", type=PATH, metavar="DIRECTORY", help="output of extract for the queries, instead of images")
@index_option
@engine_options
@view_option("query")
@click.option("--top", type=int, default=5, metavar="K", help="answers per query; default: 5")
@click.option("--near", type=numbers(2), metavar="A,B", help=f"last known position, with --within_m; {_ORDER}")
@click.option("--box", type=numbers(4), metavar="A0,B0,A1,B1", help=f"lowest corner, then highest; {_ORDER}{_ACROSS}")
@click.option("--within_m", type=float, metavar="METERS", help="maximum distance of a tile's place from --near")
@parameter_options(WHILE_SEARCHING, "as in index build; default: the index's own")
@click.option("--out", type=PATH, required=True, metavar="FILE", help="answers, one line of JSON per query")
@config_options(("--device_target", "--device_id"), of_checkpoint=True)
@click.pass_context
def search(
    context: click.Context,
    directory: Path | None,
    queries: Path | None,
    index: str,
    engine: EngineArguments,
    view: str | None,
    top: int,
    near: Point | None,
    box: Point | None,
    within_m: float | None,
    out: Path,
    overrides: tuple[str, ...],
    **parameters: int | None,
) -> int:
    """Search an index of tiles for drone images: recall by one descriptor, re-rank by a second if there is one.

    Queries are the images in DIRECTORY (JPEG, PNG, WebP, TIFF, BMP; subdirectories included), or with --queries the
    output of extract, for which no device is needed. Every query's answers are written to the file of --out, one
    line of JSON each: name, answers (tile, place, bounds, score, score_of: "cosine" or "consistency", recall_rank).

    Images that can't be read are named and left out, and the exit code is 1; with --set data.on_bad_image=stop the
    first one is an error, with skip the exit code is 0.
    """
    if (directory is None) == (queries is None):
        raise ConfigError("give either a directory of images or --queries DIRECTORY")
    if queries:
        _refuse_encoding(context)
    where = _place(near, within_m, box)
    with closing(open_index(index)) as opened:
        if chosen := given(parameters):
            opened.search_with(chosen)
        if queries:
            source = _read_queries(queries, engine.pca, overrides)
        else:
            source = _encode_queries(directory, engine, view, overrides)
        known, settings = source.known, source.config.search
        require_fit(opened.card, known, _BOTH_STAGES[bool(queries)])
        summary = Summary(plan_search(opened, top, settings.recall_n, settings.consistency_m, where))
        with atomic_write(out, "answers", TileIndexError) as file:
            write_answers(file, search_all(opened, source.batches(), summary, encoding=not queries), known.count)
    for line in summary.lines():
        print(line)
    exit_code = source.after()
    print(f"answers: {out}")
    return exit_code


def _place(near: Point | None, within_m: float | None, box: Point | None) -> Box | Circle | None:
    if near and box:
        raise ConfigError("--near and --box both limit the search area; give one of them")
    if (near is None) != (within_m is None):
        raise ConfigError("--near A,B and --within_m METERS go together; give both or none")
    if within_m is not None and not 0 < within_m < np.inf:
        raise ConfigError(f"--within_m is {within_m}; give a distance in meters above 0")
    if box:
        return Box(box[:2], box[2:])
    return Circle(near, within_m) if near else None


def _refuse_encoding(context: click.Context) -> None:
    """Check that no option on encoding is given with --queries, which are encoded already."""
    on_line = click.core.ParameterSource.COMMANDLINE
    named = [f"--{name}" for name in _ENCODING if context.get_parameter_source(name) is on_line]
    if named:
        raise ConfigError(f"{_ENCODED}; leave {', '.join(named)} out")


def _read_queries(directory: Path, pca: Path | None, overrides: Sequence[str]) -> QuerySource:
    """The queries of an extraction; needs neither a device nor MindSpore."""
    extracted = load_extracted(directory, pca)
    config = config_from_dict(extracted.recall.card.get("config", {}))
    config = override_after_training(config, overrides, ("search",), _ENCODED, read=_READ)
    return QuerySource(extracted.queries, config, extracted.batches)


def _encode_queries(
    directory: Path, engine: EngineArguments, view: str | None, overrides: Sequence[str]
) -> QuerySource:
    """The queries from a directory of images; the device is started when ``batches`` is called."""
    listed, request = list_images(directory), engine.request()
    source = read_source(request, ("query",), view)
    config, side = override_after_training(source.config, overrides, read=_READ), source.side
    requested = any(override.partition("=")[0] == _ON_BAD_IMAGE for override in overrides)
    found = listed.checked(not requested or config.value(_ON_BAD_IMAGE) == "skip")

    def batches() -> Iterator[Batch]:
        started = start_engine(request, source, config)
        compare_with_exact(started, config, {side: found.paths})
        images = found.batches(config.view(side), started.batch_size, config.data.workers)
        return encoded_queries(started, side, images, found.names, found.findings.left_out)

    def after() -> int:
        found.say_after(print)
        return 1 if found.left_out and not requested else 0

    return QuerySource(source.queries(len(found.names)), config, batches, after)
