"""Commands for an index of tiles, built from the output of extract, and for the reduction that makes it small."""

import time
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path

import click

from mindloc.cli.command import PATH, SETTINGS, Command, command
from mindloc.descriptors.reduction import fit_reduction, save_reduction
from mindloc.errors import ConfigError, DataError, TileIndexError
from mindloc.reading import read_lines
from mindloc.search.build import KINDS, add_tiles, build_index, describe_index, remove_tiles, require_buildable
from mindloc.search.extraction import load_extracted
from mindloc.search.faiss_kinds import FaissParameters

FLOAT_BYTES = 4


@click.group("index", context_settings=SETTINGS)
def index() -> None:
    """Build, change or describe an index of tiles that can be searched, from the output of extract.

    An index is a directory, or a collection of Milvus: milvus:DIRECTORY.db or milvus:http://host:19530, each
    optionally followed by #NAME.
    """


def index_option(function: Callable) -> Callable:
    """Add --index, the address of an index, as the argument ``index``."""
    text = "the index: a directory or milvus:..."
    return click.option("--index", required=True, metavar="PATH", help=text)(function)


def _source(function: Callable) -> Callable:
    """Add the argument DIRECTORY, the tiles to be added, and --pca, their reduction."""
    text = "file written by the command pca, to reduce the recall descriptors; default: none"
    return click.argument("directory", type=PATH)(click.option("--pca", type=PATH, metavar="FILE", help=text)(function))


def parameter_options(names: Iterable[str], text: str | None = None) -> Callable[[Callable], Callable]:
    """A decorator that adds an option for each index parameter in ``names``.

    Args:
        text: help of each option; None: the parameter's meaning and default.
    """

    def decorate(function: Callable) -> Callable:
        for parameter in reversed([field for field in fields(FaissParameters) if field.name in names]):
            default = parameter.metadata["auto"] or parameter.default
            help_text = text or f"{parameter.metadata['meaning']}; default: {default}"
            function = click.option(f"--{parameter.name}", type=int, metavar="N", help=help_text)(function)
        return function

    return decorate


def given(parameters: dict[str, int | None]) -> dict[str, int]:
    """The parameters that are on the command line, in the order of their definition."""
    names = [field.name for field in fields(FaissParameters)]
    return {name: parameters[name] for name in names if parameters.get(name) is not None}


@index.command("build", cls=Command, example="tiles --index tiles_index")
@_source
@index_option
@click.option(
    "--kind", type=click.Choice(KINDS), default="flat", help="default: flat, exact; diskann: on a Milvus server"
)
@parameter_options([parameter.name for parameter in fields(FaissParameters)])
def build(directory: Path, pca: Path | None, index: str, kind: str, **parameters: int | None) -> None:
    """Build an index of the tiles in DIRECTORY, which extract wrote, best with --places. An existing index is replaced
    only when the new one is complete.
    """
    require_buildable(index, kind, given(parameters))
    extracted = load_extracted(directory, pca)
    started = time.perf_counter()
    build_index(index, extracted, kind, given(parameters))
    if extracted.recall.card["place_unit"] is None:
        print("note: these tiles have no places; extract --places reads them from the tiles' names")
    print(f"{index}: {extracted.count} tiles, kind {kind}, in {time.perf_counter() - started:.1f} s")


@index.command("add", cls=Command, example="more_tiles --index tiles_index")
@_source
@index_option
def add(directory: Path, pca: Path | None, index: str) -> None:
    """Add the tiles in DIRECTORY, which extract wrote. A tile replaces the one of the same name in the index."""
    extracted = load_extracted(directory, pca)
    added = add_tiles(index, extracted)
    print(f"{index}: {extracted.count} tiles added, {added.replaced} of them replaced; {added.total} in all")


@index.command("remove", cls=Command, example="3_0_2_1.png --index tiles_index")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@index_option
@click.option("--names_from", type=PATH, metavar="FILE", help="text file with one name per line")
def remove(names: tuple[str, ...], index: str, names_from: Path | None) -> None:
    """Remove tiles by their names."""
    named = [*names, *(_names_of(names_from) if names_from else [])]
    if not named:
        raise ConfigError("no tile was named; give NAME or --names_from FILE")
    left = remove_tiles(index, named)
    print(f"{index}: {len(set(named))} tiles removed, {left} are left")


@index.command("info", cls=Command, example="--index tiles_index")
@index_option
def info(index: str) -> None:
    """Print what an index contains and how it was built."""
    for name, value in describe_index(index).items():
        shown = str(value)[:12] if name.endswith("sha256") else value
        print(f"{name:24} {'-' if value is None else shown}")


def _names_of(file: Path) -> list[str]:
    lines = read_lines(file, DataError, "give text, one name per line", "list of names")
    return [line.strip() for line in lines if line.strip()]


@command("pca", example="tiles --dimension 256 --out omega_256.safetensors")
@click.argument("directory", type=PATH)
@click.option("--dimension", type=int, default=512, metavar="N", help="numbers per reduced descriptor; default: 512")
@click.option("--seed", type=int, default=0, metavar="N", help="seed of the random start directions; default: 0")
@click.option("--out", type=PATH, required=True, metavar="FILE", help="new .safetensors file")
def pca(directory: Path, dimension: int, seed: int, out: Path) -> None:
    """Fit the reduction of recall descriptors (PCA) on the tiles in DIRECTORY, which extract wrote: it keeps the
    directions in which their descriptors vary most.

    Use tiles of the training data: a reduction fitted on the searched tiles makes Recall look better than it is. Give
    the file as --pca to extract, index, search and eval.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out is {out}; name a file that ends in .safetensors")
    if seed < 0:
        raise ConfigError(f"--seed is {seed}; give a whole number, 0 or more")
    tiles = load_extracted(directory)
    if tiles.reduction_sha256:
        raise TileIndexError(f"{directory} was reduced when it was extracted; extract it again without --pca")
    started = time.perf_counter()
    fitted = fit_reduction(tiles.recall.descriptor_ND, dimension, seed, tiles.checkpoint_sha256)
    save_reduction(out, fitted)
    print(
        f"{tiles.recall.descriptor} of {tiles.count} tiles: {tiles.dimension} numbers to {fitted.dimension}, "
        f"which explain {fitted.explained_share:.1%} of the variance"
    )
    print(f"bytes per tile: {FLOAT_BYTES * tiles.dimension} before, {FLOAT_BYTES * fitted.dimension} after")
    print(f"{out}: fitted in {time.perf_counter() - started:.1f} s")
