"""Make, change and look at a library of tiles that can be searched, from what extract wrote.

A library is a folder, or a collection of Milvus: milvus:FOLDER.db, milvus:http://host:19530, either with #NAME.

The numbers of a library in a folder as options: FaissParameters, and which kinds of index have which.
"""

import argparse
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mindloc.cli.command import command
from mindloc.errors import ConfigError, DataError, TileIndexError, one_line
from mindloc.search.faiss_index import build_faiss_index
from mindloc.search.faiss_kinds import FaissParameters, resolve
from mindloc.search.index import TileIndex
from mindloc.search.index_folder import require_index_place
from mindloc.search.milvus_connection import PREFIX as MILVUS_PREFIX
from mindloc.search.milvus_index import create_milvus_index
from mindloc.search.open_index import open_index
from mindloc.search.tile_checks import require_same_card
from mindloc.search.two_stage import Extracted, load_extracted

_DEFAULT = resolve("hnsw", 1, 0, FaissParameters())  # what this kind leaves open is filled in
PARAMETERS = {  # all whole numbers
    "nlist": "ivf: lists; default: by the number of tiles",
    "nprobe": "ivf: lists compared per query; default: by nlist",
    "pq_bytes": "ivf_pq: bytes per tile, a divisor of the dimension; default: about a quarter of it",
    "refine": "ivf_pq: this many times the answers are scored by whole vectors, which are kept for it; "
    f"default: {_DEFAULT.refine}",
    "links": f"hnsw: neighbors per tile; default: {_DEFAULT.links}",
    "ef_construction": f"hnsw: candidates while building; default: {_DEFAULT.ef_construction}",
    "ef_search": f"hnsw: candidates while searching; default: {_DEFAULT.ef_search}",
    "train_rows": f"ivf: tiles to learn from at most; default: {_DEFAULT.train_rows}",
    "seed": f"ivf: of the sample to learn from; default: {_DEFAULT.seed}",
}
WHILE_SEARCHING = ("nprobe", "refine", "ef_search")  # may be others than those of building

_IVF = ("nlist", "nprobe", "train_rows", "seed")
_OF_KIND = {
    "flat": (),
    "ivf_flat": _IVF,
    "ivf_pq": (*_IVF, "pq_bytes", "refine"),
    "hnsw": ("links", "ef_construction", "ef_search"),
}


def given_parameters(args: argparse.Namespace, names: Iterable[str]) -> dict[str, int]:
    """Those of these options that stand on the command line."""
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def require_parameters_of(kind: str, given: Iterable[str]) -> None:
    """Refuse options that an index of this kind would not heed.

    Raises:
        ConfigError: naming them.
    """
    unfit = [f"--{name}" for name in given if name not in _OF_KIND.get(kind, ())]
    if unfit:
        raise ConfigError(f"{', '.join(unfit)} means nothing to an index of kind {kind}; leave it out or take another")


KINDS = ("flat", "ivf_flat", "ivf_pq", "hnsw", "diskann")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mindloc index",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = _action(actions, "build", "make a library; one that is there stays whole until the new one is")
    _add_source(build)
    build.add_argument(
        "--kind", choices=KINDS, default="flat", help="how; default: flat, exact; diskann: on a Milvus server"
    )
    for name, text in PARAMETERS.items():
        build.add_argument(f"--{name}", type=int, metavar="N", help=text)
    add = _action(actions, "add", "put tiles in; one whose name is there takes the older one's place")
    _add_source(add)
    remove = _action(actions, "remove", "take tiles out")
    remove.add_argument("names", nargs="*", metavar="NAME")
    remove.add_argument("--names_from", type=Path, metavar="FILE", help="text, one name per line")
    _action(actions, "info", "say what a library holds and how it was made")
    return parser


def _action(actions: Any, name: str, text: str) -> argparse.ArgumentParser:
    action = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
    action.add_argument("--index", required=True, metavar="PATH", help="the library: a folder or milvus:...")
    return action


def _add_source(action: argparse.ArgumentParser) -> None:
    action.add_argument("folder", type=Path, help="what extract wrote, best with --places")
    action.add_argument("--pca", type=Path, metavar="FILE", help="reduce the recall descriptors by this file of pca")


@command
def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    ACTIONS[args.action](args)


def _build(args: argparse.Namespace) -> None:
    given = given_parameters(args, PARAMETERS)
    if is_milvus(args.index) and given:
        raise ConfigError(f"--{next(iter(given))} is for libraries in a folder; Milvus sizes its own: leave it out")
    require_parameters_of(args.kind, given)
    extracted = load_extracted(args.folder, args.pca)
    started = time.perf_counter()
    if is_milvus(args.index):
        _build_in_milvus(args.index, extracted, args.kind)
    else:
        _build_folder(Path(args.index), extracted, args.kind, given)
    if extracted.recall.card["place_unit"] is None:
        print("note: these tiles have no places; extract --places reads them from the tiles' names")
    print(f"{args.index}: {extracted.count} tiles, kind {args.kind}, in {time.perf_counter() - started:.1f} s")


def _build_folder(folder: Path, extracted: Extracted, kind: str, given: dict[str, int]) -> None:
    require_index_place(folder)  # known before the work, not only behind it
    index = build_faiss_index(extracted.index_card(kind), extracted.tiles(), FaissParameters(**given))
    with closing(index):
        index.save(folder)


def _build_in_milvus(address: str, extracted: Extracted, kind: str) -> None:
    """Fill a collection that holds nothing yet: one that is there can't be replaced at once."""
    with closing(create_milvus_index(address, extracted.index_card("milvus"), kind)) as index:
        if index.count:
            raise TileIndexError(
                f"{address} holds {index.count} tiles already; go on with: index add, or name another collection: #NAME"
            )
        for tiles in extracted.tiles():
            index.add(tiles)


def _add(args: argparse.Namespace) -> None:
    extracted = load_extracted(args.folder, args.pca)
    with _changed(args.index) as index:
        require_same_card(index.card, extracted.index_card(index.card.kind), args.index)
        before = index.count
        for tiles in extracted.tiles():
            index.add(tiles)
        after = index.count
    replaced = before + extracted.count - after
    print(f"{args.index}: {extracted.count} tiles put in, {replaced} of them anew; {after} in all")


def _remove(args: argparse.Namespace) -> None:
    names = [*args.names, *(_names_of(args.names_from) if args.names_from else [])]
    if not names:
        raise ConfigError("no tile was named; give NAME or --names_from FILE")
    with _changed(args.index) as index:
        index.remove(names)
        left = index.count
    print(f"{args.index}: {len(set(names))} tiles taken out, {left} are left")


def _info(args: argparse.Namespace) -> None:
    with closing(open_index(args.index)) as index:
        facts = {**asdict(index.card), **index.statistics()}
    for name, value in facts.items():
        print(f"{name:24} {'-' if value is None else value}")


ACTIONS = {"build": _build, "add": _add, "remove": _remove, "info": _info}


@contextmanager
def _changed(where: str) -> Iterator[TileIndex]:
    """A library to change; what was changed is on disk afterwards, of a folder all of it or nothing."""
    with closing(open_index(where, memory_map=False)) as index:
        yield index
        if not is_milvus(where):
            index.save(where)


def is_milvus(where: str) -> bool:
    """Whether a library is a collection of Milvus and no folder."""
    return where.startswith(MILVUS_PREFIX)


def _names_of(file: Path) -> Iterable[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} can't be read ({one_line(error)[:120]}); give text, one name per line") from None
    return [line for line in lines if line]
