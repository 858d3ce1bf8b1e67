"""Every kind of index over many tiles: time to build and load, bytes, queries per second and recall against exact.

    python benchmarks/index_kinds.py --library FOLDER                    # 10^6 vectors; the first time builds for long
    python benchmarks/index_kinds.py --library FOLDER --count 100000 --kinds ivf_flat ivf_pq
    python benchmarks/index_kinds.py --library FOLDER --like EVALUATION  # with query/ and gallery/ of your encoder

The vectors lie to each other as those of a trained encoder do (like_an_encoder.py; measured, fitted, and compared in
the first table); uniform noise stands beside them. Queries are held out. Each index is built once, saved, and searched
memory-mapped through the library's own ``recall``, checks and names included; the exact side is the faster of FAISS's
flat index and a NumPy product, without any of that. All take turns (A B A B), so that what else the machine does meets
all of them; figures are medians over the rounds. "By processor time" compares queries per second of processor time,
which a busy machine distorts less; with OMP_NUM_THREADS=1 and OPENBLAS_NUM_THREADS=1 no thread waits for another that
is kept from running. Goal: recall@10 of .95 at 20 times the exact side's speed.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")  # before NumPy and FAISS are imported
os.environ.setdefault("OPENBLAS_NUM_THREADS", "2")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import faiss
import numpy as np
from like_an_encoder import FallingSpectrum, Nearness, fit, measure, unit

from mindloc.descriptors.sets import load_descriptor_set
from mindloc.runtime.device import describe_machine
from mindloc.search.faiss_index import FaissIndex, build_faiss_index, load_faiss_index
from mindloc.search.faiss_kinds import FaissParameters
from mindloc.search.index import IndexCard, Tiles

# The held-out world of the quick start (500 tiles, 300 frames) under its trained encoder, and what was fitted to it.
MEASURED = Nearness(500, (0.9315, 0.8799, 0.6903), 0.509, 6.92, 0.9153)
FITTED = FallingSpectrum(256, 4.0, 4.0, 0.4587, 0.0359)

THREADS = int(os.environ["OMP_NUM_THREADS"])
K = 10
BATCHES = (1, 256)
QUERIES = 1024
GOAL_RECALL, GOAL_SPEED = 0.95, 20
_TILES_PER_BATCH = 50_000
_LEAST_S = 1.0  # of a measurement
_NUMPY_ROWS = 16_384  # scored at once


@dataclass
class Line:
    """One way to search, and what was measured of it."""

    name: str
    search: Callable[[np.ndarray], np.ndarray]  # queries -> (Q, K) rows, -1 where there are fewer
    facts: dict = field(default_factory=dict)
    per_s: dict[int, list[float]] = field(default_factory=lambda: {batch: [] for batch in BATCHES})
    per_core_s: dict[int, list[float]] = field(default_factory=lambda: {batch: [] for batch in BATCHES})
    recall: float = 0.0


def main() -> None:
    args = _parse()
    faiss.omp_set_num_threads(THREADS)
    target, model = _model(args)
    print(f"{describe_machine()}; {THREADS} threads; seed {args.seed}; load {os.getloadavg()[0]:.1f}\n")
    result = {"hardware": describe_machine(), "threads": THREADS, "seed": args.seed, "tables": {}}
    for name in args.vectors:
        vector_ND, query_QD = _draw(name, model, args)
        if args.build_only:
            for kind in args.kinds:
                _built(kind, _folder(args, name), vector_ND, args)
            continue
        result["tables"][name] = _measure(name, vector_ND, query_QD, target, args)
        if args.out:
            args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, required=True, help="folder that keeps vectors and built indexes")
    parser.add_argument("--like", type=Path, help="evaluation folder (query/, gallery/) of a trained encoder")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--kinds", nargs="+", default=["ivf_flat", "ivf_pq", "ivf_pq_refined", "hnsw"])
    parser.add_argument("--vectors", nargs="+", choices=("encoder", "noise"), default=["encoder", "noise"])
    parser.add_argument("--links", type=int, default=16, help="of hnsw")
    parser.add_argument("--ef_construction", type=int, default=60, help="of hnsw")
    parser.add_argument("--build_only", action="store_true", help="build and save what is not there yet, no more")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file")
    return parser.parse_args()


def _model(args: argparse.Namespace) -> tuple[Nearness, FallingSpectrum]:
    if args.like is None:
        return MEASURED, replace(FITTED, dimension=args.dimension, seed=args.seed)
    gallery_ND, query_QD = (
        unit(np.array(load_descriptor_set(args.like / view).descriptor_ND)) for view in ("gallery", "query")
    )
    target = measure(gallery_ND, query_QD)
    model = fit(target, args.dimension, args.seed)
    print(f"measured {target}\nfitted {model}\n")
    return target, model


def _draw(name: str, model: FallingSpectrum, args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (kept in a file) and held-out queries."""
    if name == "noise":
        random = np.random.default_rng(args.seed)
        query_QD = unit(random.standard_normal((QUERIES, args.dimension), np.float32))
        width = range(0, args.count, _TILES_PER_BATCH)
        sizes = (min(_TILES_PER_BATCH, args.count - first) for first in width)
        blocks = (unit(random.standard_normal((size, args.dimension), np.float32)) for size in sizes)
    else:
        query_QD, blocks = model.queries(QUERIES, stream=2), model.blocks(args.count, stream=1)
    path = _folder(args, name) / "vectors.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        matrix = np.lib.format.open_memmap(partial, "w+", np.float32, (args.count, args.dimension))
        first = 0
        for block_ND in blocks:
            matrix[first : first + len(block_ND)] = block_ND
            first += len(block_ND)
        matrix.flush()
        partial.rename(path)
    return np.load(path), query_QD


def _folder(args: argparse.Namespace, name: str) -> Path:
    origin = args.like.resolve().name if args.like and name == "encoder" else name
    return args.library / f"{origin}_{args.count}_{args.dimension}_seed{args.seed}"


def _measure(
    name: str, vector_ND: np.ndarray, query_QD: np.ndarray, target: Nearness, args: argparse.Namespace
) -> list[dict]:
    print(f"## {name}: {len(vector_ND)} x {vector_ND.shape[1]}\n")
    _print_nearness(target if name == "encoder" else None, vector_ND, query_QD)
    flat = faiss.IndexFlatIP(vector_ND.shape[1])
    flat.add(vector_ND)
    vector_ND = faiss.vector_to_array(flat.codes).view(np.float32).reshape(vector_ND.shape)  # one copy serves both
    truth_QK = flat.search(query_QD, K)[1]
    exact = [
        Line("exact, FAISS flat", lambda query: flat.search(query, K)[1], {"bytes": 4 * vector_ND.shape[1]}),
        Line("exact, NumPy", lambda query: _numpy_search(vector_ND, query), {"bytes": 4 * vector_ND.shape[1]}),
    ]
    print("searching ...", file=sys.stderr, flush=True)
    lines = exact + [line for kind in args.kinds for line in _indexed(kind, _folder(args, name), vector_ND, args)]
    for line in lines:
        found_QK = line.search(query_QD)
        line.recall = float(
            np.mean([len(set(a) & set(b)) / K for a, b in zip(found_QK.tolist(), truth_QK.tolist(), strict=True)])
        )
    for _ in range(args.rounds):
        for line in lines:
            for batch in BATCHES:
                per_s, per_core_s = _per_second(line.search, query_QD, batch)
                line.per_s[batch].append(per_s)
                line.per_core_s[batch].append(per_core_s)
    table = [_row(line, exact) for line in lines]
    _print_table(table)
    return table


def _print_nearness(target: Nearness | None, vector_ND: np.ndarray, query_QD: np.ndarray) -> None:
    print("| | vectors | cosine to neighbor 1, 10, 100 | random pair | intrinsic dimension | query to its first |")
    print("|---|--:|--:|--:|--:|--:|")
    if target is not None:
        print("| the encoder's tiles " + target.line())
        few = np.random.default_rng(0).permutation(len(vector_ND))[: target.count]
        print("| as many of these " + measure(vector_ND[np.sort(few)], query_QD).line())
    print("| all of these " + measure(vector_ND, query_QD[:256], sample=200).line() + "\n", flush=True)


def _numpy_search(vector_ND: np.ndarray, query_QD: np.ndarray) -> np.ndarray:
    """Block by block, looking closer only at scores above the K-th best so far: little but matrix products."""
    score_QK = np.full((len(query_QD), K), -np.inf, np.float32)
    row_QK = np.full((len(query_QD), K), -1)
    for first in range(0, len(vector_ND), _NUMPY_ROWS):
        score_QB = query_QD @ vector_ND[first : first + _NUMPY_ROWS].T
        above_Q = score_QB.max(axis=1) > score_QK[:, -1]
        for query in np.flatnonzero(above_Q):
            better = np.flatnonzero(score_QB[query] > score_QK[query, -1])
            if len(better) > K:
                better = better[np.argpartition(score_QB[query, better], -K)[-K:]]
            score = np.concatenate([score_QK[query], score_QB[query, better]])
            row = np.concatenate([row_QK[query], first + better])
            best = np.argsort(-score)[:K]
            score_QK[query], row_QK[query] = score[best], row[best]
    return row_QK


def _indexed(kind: str, folder: Path, vector_ND: np.ndarray, args: argparse.Namespace) -> Iterator[Line]:
    """The ways to search one built index."""
    path = _built(kind, folder, vector_ND, args)
    started = time.perf_counter()
    index = load_faiss_index(path, memory_map=True)
    facts = json.loads((folder / f"{path.name}.json").read_text())
    facts |= {"load_s": round(time.perf_counter() - started, 2)}
    facts["bytes"] = round((path / "vectors.faiss").stat().st_size / len(vector_ND))
    for effort in _efforts(kind):
        yield Line(f"{path.name}, " + ", ".join(f"{k} {v}" for k, v in effort.items()), _searcher(index, effort), facts)


def _built(kind: str, folder: Path, vector_ND: np.ndarray, args: argparse.Namespace) -> Path:
    """The folder of an index, built now unless it is there."""
    path = folder / (f"{kind}_{args.links}_{args.ef_construction}" if kind == "hnsw" else kind)
    if not path.exists():
        _build(path, kind.removesuffix("_refined"), vector_ND, _parameters(kind, args))
    return path


def _parameters(kind: str, args: argparse.Namespace) -> FaissParameters:
    refine = 4 if kind == "ivf_pq_refined" else 0
    return FaissParameters(refine=refine, links=args.links, ef_construction=args.ef_construction, seed=args.seed)


def _efforts(kind: str) -> list[dict[str, int]]:
    if kind == "hnsw":
        return [{"ef_search": candidates} for candidates in (16, 32, 48, 64, 128)]
    if kind == "ivf_pq_refined":
        return [{"nprobe": lists, "refine": 10} for lists in (8, 16, 24, 32)]
    return [{"nprobe": lists} for lists in (8, 16, 24, 32)]


def _searcher(index: FaissIndex, effort: dict[str, int]) -> Callable[[np.ndarray], np.ndarray]:
    parameters = replace(index.parameters, **effort)

    def search(query_QD: np.ndarray) -> np.ndarray:
        index.parameters = parameters
        return np.array([[int(name) for name in names] for names in index.recall(query_QD, K).names])

    return search


def _build(path: Path, kind: str, vector_ND: np.ndarray, parameters: FaissParameters) -> None:
    card = IndexCard(kind, "omega", vector_ND.shape[1], None, None, None, None, None)
    print(f"building {path.name} ...", file=sys.stderr, flush=True)
    started, load = time.perf_counter(), os.getloadavg()[0]
    index = build_faiss_index(card, _tiles(vector_ND), parameters)
    built = time.perf_counter()
    index.save(path)
    facts = {"build_s": round(built - started, 1), "save_s": round(time.perf_counter() - built, 1), "build_load": load}
    path.with_name(f"{path.name}.json").write_text(json.dumps(facts), encoding="utf-8")


def _tiles(vector_ND: np.ndarray) -> Iterator[Tiles]:
    for first in range(0, len(vector_ND), _TILES_PER_BATCH):
        block_ND = vector_ND[first : first + _TILES_PER_BATCH]
        unknown = np.full((len(block_ND), 6), np.nan)
        names = [str(row) for row in range(first, first + len(block_ND))]
        yield Tiles(names, block_ND, None, unknown[:, :2], unknown[:, 2:])


def _per_second(search: Callable[[np.ndarray], np.ndarray], query_QD: np.ndarray, batch: int) -> tuple[float, float]:
    """Queries answered in batches of so many: per second, and per second of processor time over all threads."""
    search(query_QD[:batch])  # what another index pushed out of the caches is not its fault
    done, started, core_started = 0, time.perf_counter(), time.process_time()
    while (spent := time.perf_counter() - started) < _LEAST_S:
        first = done % len(query_QD)
        search(query_QD[first : first + batch])
        done += batch
    return done / spent, done / (time.process_time() - core_started)


def _row(line: Line, exact: list[Line]) -> dict:
    row = {"name": line.name, "recall@10": round(line.recall, 4), **line.facts}
    for batch in BATCHES:
        for unit_of, kept in (("", "per_s"), ("core_", "per_core_s")):
            per_s = float(np.median(getattr(line, kept)[batch]))
            fastest = max(float(np.median(getattr(other, kept)[batch])) for other in exact)
            row |= {f"per_{unit_of}s_{batch}": round(per_s, 1), f"{unit_of}times_{batch}": round(per_s / fastest, 1)}
        row[f"rounds_{batch}"] = [round(value, 1) for value in line.per_s[batch]]
    return row


def _print_table(table: list[dict]) -> None:
    heads = ["index", "build", "load", "bytes each", "recall@10"]
    heads += [f"{batch}: {head}" for batch in BATCHES for head in ("queries/s", "times exact", "by processor time")]
    print("| " + " | ".join(heads) + " |\n|---" + "|--:" * (len(heads) - 1) + "|")
    for row in table:
        cells = [f"{row[name]} s" if name in row else "-" for name in ("build_s", "load_s")]
        cells += [str(row["bytes"]), f"{row['recall@10']:.4f}"]
        for batch in BATCHES:
            cells += [
                f"{row[f'per_s_{batch}']:.0f}",
                f"{row[f'times_{batch}']:.1f}",
                f"{row[f'core_times_{batch}']:.1f}",
            ]
        reached = row["recall@10"] >= GOAL_RECALL and min(row["times_1"], row["times_256"]) >= GOAL_SPEED
        print("| " + " | ".join([f"**{row['name']}**" if reached else row["name"], *cells]) + " |")
    print(
        f"\nIn bold: recall@10 of {GOAL_RECALL} or more at {GOAL_SPEED} times the exact side's speed, both batches.\n"
    )


if __name__ == "__main__":
    main()
