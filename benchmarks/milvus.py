"""Milvus beside FAISS: python benchmarks/milvus.py [--tiles 5000 100000] [--address milvus:http://host:19530].

Random tiles are put into a library each of Milvus and of FAISS (flat); measured are tiles a second going in, by the
clock and by processor time (which other programs change less), bytes on disk, and milliseconds of a query, the median
and in brackets the fastest. Without an address Milvus is milvus-lite in a temporary folder. Protobuf runs in Python, as
wherever MindSpore may be near; with PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=upb before the command it does not.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np

from mindloc.runtime.device import describe_machine
from mindloc.search.faiss_index import build_faiss_index
from mindloc.search.index import IndexCard, TileIndex, Tiles
from mindloc.search.milvus_collection import KINDS
from mindloc.search.milvus_index import create_milvus_index

RECALL_N, ANSWERS = 100, 10
BLOCK = 10_000  # tiles made at a time


def main() -> None:
    args = _parse()
    results = []
    for count in args.tiles:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            results.append(_measure_milvus(args, count, args.address or f"milvus:{folder}/tiles.db"))
            if not args.address:
                results.append(_measure_faiss(args, count, Path(folder) / "faiss"))
    _print(results)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, nargs="+", default=[5000, 100_000])
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--rerank_dimension", type=int, default=0, help="0: recall alone")
    parser.add_argument("--kind", choices=KINDS, default="flat", help="of Milvus")
    parser.add_argument("--queries", type=int, default=30, help="each asked alone")
    parser.add_argument("--address", help="of an empty collection on a server")
    parser.add_argument("--folder", help="where temporary libraries go")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _card(args: argparse.Namespace, kind: str) -> IndexCard:
    return IndexCard(kind, "omega", args.dimension, args.rerank_dimension or None, None, "plane_m", None, None)


def _blocks(args: argparse.Namespace, count: int):
    random, width = np.random.default_rng(0), args.rerank_dimension
    for start in range(0, count, BLOCK):
        rows = min(BLOCK, count - start)
        place_N2 = random.uniform(0, 10_000, (rows, 2))
        yield Tiles(
            names=[f"satellite/{row}.png" for row in range(start, start + rows)],
            recall_ND=random.standard_normal((rows, args.dimension), np.float32),
            rerank_NE=random.standard_normal((rows, width), np.float32) if width else None,
            place_N2=place_N2,
            bounds_N4=np.hstack([place_N2 - 50, place_N2 + 50]),
        )


def _measure_milvus(args: argparse.Namespace, count: int, address: str) -> dict:
    blocks = list(_blocks(args, count))
    result = {"library": f"Milvus {args.kind}", "tiles": count}
    with closing(create_milvus_index(address, _card(args, "milvus"), args.kind)) as index:
        processor = time.process_time()
        result["tiles_per_s"] = count / sum(_seconds(lambda tiles=tiles: index.add(tiles)) for tiles in blocks)
        result["tiles_per_cpu_s"] = count / (time.process_time() - processor)
        result["first_search_s"] = _seconds(lambda: index.recall(np.ones((1, args.dimension)), RECALL_N))
        result |= _query_times(args, index)
    if not args.address:  # closed: all of it is written
        result["bytes_per_tile"] = _bytes_under(Path(address.removeprefix("milvus:"))) / count
    return result


def _measure_faiss(args: argparse.Namespace, count: int, folder: Path) -> dict:
    blocks = list(_blocks(args, count))
    started, processor = time.perf_counter(), time.process_time()
    index = build_faiss_index(_card(args, "flat"), blocks)
    index.save(folder)
    result = {"library": "FAISS flat", "tiles": count, "tiles_per_s": count / (time.perf_counter() - started)}
    result |= {"tiles_per_cpu_s": count / (time.process_time() - processor), **_query_times(args, index)}
    return result | {"bytes_per_tile": _bytes_under(folder) / count}


def _query_times(args: argparse.Namespace, index: TileIndex) -> dict:
    """Median and fastest of the queries, each asked alone."""
    random = np.random.default_rng(1)
    recall_s, rerank_s, vectors_s = [], [], []
    for _ in range(args.queries):
        query_1D = random.standard_normal((1, args.dimension))
        recall_s.append(_seconds(lambda query=query_1D: index.recall(query, RECALL_N)))
        if args.rerank_dimension:
            names = index.recall(query_1D, RECALL_N).names
            query_1E = random.standard_normal((1, args.rerank_dimension))
            rerank_s.append(_seconds(lambda query=query_1E, names=names: index.rerank(query, names, ANSWERS)))
            vectors_s.append(_seconds(lambda names=names: index.rerank_vectors(names[0])))
    times = {"recall_ms": recall_s, "rerank_ms": rerank_s, "vectors_ms": vectors_s}
    return {
        name: [round(float(number(seconds)) * 1000, 3) for number in (np.median, np.min)]
        for name, seconds in times.items()
        if seconds
    }


def _seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _bytes_under(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _print(results: list[dict]) -> None:
    columns = (
        "tiles_per_s",
        "tiles_per_cpu_s",
        "first_search_s",
        "recall_ms",
        "rerank_ms",
        "vectors_ms",
        "bytes_per_tile",
    )
    print(f"| library | tiles | {' | '.join(columns)} |")
    print(f"|---|{'--:|' * (len(columns) + 1)}")
    for result in results:
        cells = [_cell(result.get(column)) for column in columns]
        print(f"| {result['library']} | {result['tiles']} | {' | '.join(cells)} |")
    print(f"\n{describe_machine()}; protobuf: {os.environ['PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION']}")


def _cell(value: float | list[float] | None) -> str:
    if isinstance(value, list):
        return "{:.3g} ({:.3g})".format(*value)
    return "-" if value is None else f"{value:.4g}"


if __name__ == "__main__":
    main()
