"""Make, change and look at an index of tiles that can be searched, from what extract wrote.

An index is a directory, or a collection of Milvus: milvus:DIRECTORY.db, milvus:http://host:19530, either with #NAME.
"""

import argparse
import time
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from mindloc.cli.command import command
from mindloc.errors import ConfigError, DataError, one_line
from mindloc.search.build import KINDS, add_tiles, build_index, describe_index, remove_tiles, require_buildable
from mindloc.search.extraction import load_extracted
from mindloc.search.faiss_kinds import FaissParameters


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mindloc index",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = _action(actions, "build", "make an index; one that is there stays whole until the new one is")
    _add_source(build)
    build.add_argument(
        "--kind", choices=KINDS, default="flat", help="how; default: flat, exact; diskann: on a Milvus server"
    )
    for parameter in fields(FaissParameters):
        default = parameter.metadata["auto"] or parameter.default
        text = f"{parameter.metadata['meaning']}; default: {default}"
        build.add_argument(f"--{parameter.name}", type=int, metavar="N", help=text)
    add = _action(actions, "add", "add tiles; one whose name is there takes the older one's place")
    _add_source(add)
    remove = _action(actions, "remove", "remove tiles")
    remove.add_argument("names", nargs="*", metavar="NAME")
    remove.add_argument("--names_from", type=Path, metavar="FILE", help="text, one name per line")
    _action(actions, "info", "say what an index contains and how it was made")
    return parser


def _action(actions: Any, name: str, text: str) -> argparse.ArgumentParser:
    action = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
    action.add_argument("--index", required=True, metavar="PATH", help="the index: a directory or milvus:...")
    return action


def _add_source(action: argparse.ArgumentParser) -> None:
    action.add_argument("directory", type=Path, help="what extract wrote, best with --places")
    action.add_argument("--pca", type=Path, metavar="FILE", help="reduce the recall descriptors by this file of pca")


def given_parameters(args: argparse.Namespace, names: Iterable[str]) -> dict[str, int]:
    """Those of these options that are on the command line."""
    return {name: value for name in names if (value := getattr(args, name)) is not None}


@command
def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    {"build": _build, "add": _add, "remove": _remove, "info": _info}[args.action](args)


def _build(args: argparse.Namespace) -> None:
    given = given_parameters(args, [parameter.name for parameter in fields(FaissParameters)])
    require_buildable(args.index, args.kind, given)
    extracted = load_extracted(args.directory, args.pca)
    started = time.perf_counter()
    build_index(args.index, extracted, args.kind, given)
    if extracted.recall.card["place_unit"] is None:
        print("note: these tiles have no places; extract --places reads them from the tiles' names")
    print(f"{args.index}: {extracted.count} tiles, kind {args.kind}, in {time.perf_counter() - started:.1f} s")


def _add(args: argparse.Namespace) -> None:
    extracted = load_extracted(args.directory, args.pca)
    added = add_tiles(args.index, extracted)
    print(f"{args.index}: {extracted.count} tiles added, {added.replaced} of them replaced; {added.total} in all")


def _remove(args: argparse.Namespace) -> None:
    names = [*args.names, *(_names_of(args.names_from) if args.names_from else [])]
    if not names:
        raise ConfigError("no tile was named; give NAME or --names_from FILE")
    left = remove_tiles(args.index, names)
    print(f"{args.index}: {len(set(names))} tiles removed, {left} are left")


def _info(args: argparse.Namespace) -> None:
    for name, value in describe_index(args.index).items():
        print(f"{name:24} {'-' if value is None else value}")


def _names_of(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")  # a name may contain other ends of line
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} can't be read ({one_line(error)[:120]}); give text, one name per line") from None
    return [line for line in lines if line]
