"""Milliseconds of a two-stage search for one query: benchmarks/two_stage_search.py --directory DIRECTORY [--out FILE].

Among 15 000 tiles, Omega selects N = 100 candidates, Phi (1024 numbers, 4 nodes) re-ranks them, and in a further case
the nodes of the first ten are compared. Queries are searched one at a time. Omega is measured reduced to 512 numbers,
memory-mapped from disk, and whole (50 176 numbers, 3 GB). The vectors are generated from a seed with the neighbor
statistics of a trained encoder, and kept in DIRECTORY. They vary only in directions that the reduction keeps, so this
benchmark can't show the cost of the reduction in recall. Fitting the reduction is timed too.
Goal: under 10 ms per query on two cores with the reduction.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")  # before NumPy and FAISS are imported
os.environ.setdefault("OPENBLAS_NUM_THREADS", "2")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import faiss
import numpy as np
from report import print_table

from mindloc.descriptors.reduction import Reduction, fit_reduction, load_reduction, save_reduction
from mindloc.runtime.device import describe_machine
from mindloc.search.faiss_index import FaissIndex, build_faiss_index, load_faiss_index
from mindloc.search.index import IndexCard, Tiles
from mindloc.search.two_stage import two_stage_search

THREADS = int(os.environ["OMP_NUM_THREADS"])
TILES, OMEGA, REDUCED, PHI, NODES = 15_000, 50_176, 512, 1024, 4
N, K = 100, 10
LIMIT_MS = 10.0
_BLOCK = 1000
_DIRECTIONS = 512


@dataclass(frozen=True)
class FallingSpectrum:
    """Random vectors ``unit(offset + sum_j sqrt(v_j) g_j e_j)``: g is normal, e a random orthonormal basis, and the
    variances are ``v_j ~ (j + knee)^-fall``. The defaults were fitted to the tiles of the quick start's test world
    under its trained encoder: cosine to the neighbors of rank 1, 10 and 100, cosine of two random tiles, intrinsic
    dimension.

    Shapes: Q queries, D width, R directions.
    """

    dimension: int
    seed: int
    fall: float = 4.0  # exponent with which the variances decrease
    knee: float = 4.0  # number of directions before they decrease
    offset: float = 0.4587  # mean fraction of a vector's squared length that is in the common offset
    query_noise: float = 0.0359  # squared length of the noise of a query, relative to a unit vector's

    def vectors(self, count: int, stream: int) -> np.ndarray:
        """(count, D) float32 of unit length; a different stream gives different vectors of the same distribution."""
        random = np.random.default_rng((self.seed, 1, stream))
        offset_D, direction_RD = self._directions()
        return unit(offset_D + random.standard_normal((count, len(direction_RD)), np.float32) @ direction_RD)

    def queries(self, count: int, stream: int) -> np.ndarray:
        """(count, D) float32 vectors that are in no index, with noise that has the same size in every direction."""
        vector_QD = self.vectors(count, stream)
        random = np.random.default_rng((self.seed, 2, stream))
        noise_QD = random.standard_normal(vector_QD.shape, np.float32)
        return unit(vector_QD + noise_QD * np.float32(np.sqrt(self.query_noise / self.dimension)))

    def _directions(self) -> tuple[np.ndarray, np.ndarray]:
        """(offset common to all vectors, directions scaled by their standard deviations)."""
        random = np.random.default_rng((self.seed, 0))
        count = min(self.dimension, _DIRECTIONS)
        turned_DR = np.linalg.qr(random.standard_normal((self.dimension, count)))[0]
        variance_R = (np.arange(1, count + 1) + self.knee) ** -self.fall
        variance_R *= (1 - self.offset) / variance_R.sum()
        offset_D = unit(random.standard_normal((1, self.dimension)))[0] * np.sqrt(self.offset)
        return offset_D.astype(np.float32), (turned_DR * np.sqrt(variance_R)).T.astype(np.float32)


def unit(row_ND: np.ndarray) -> np.ndarray:
    """Rows of unit length."""
    return row_ND / np.linalg.norm(row_ND, axis=1, keepdims=True)


def main() -> None:
    args = _parse()
    faiss.omp_set_num_threads(THREADS)
    omega_ND, query_QD = _omega(args)
    phi_NE, query_QE = _phi(args)
    rows, facts = [], {"hardware": describe_machine(), "threads": THREADS, "seed": args.seed, "tiles": args.tiles}
    reduction = _reduction(omega_ND, args, facts)
    started = time.perf_counter()
    reduced_QE = reduction.project(query_QD)
    facts["project_ms"] = round(1e3 * (time.perf_counter() - started) / len(query_QD), 2)
    index = _reduced_index(args, reduction, omega_ND, phi_NE)
    for m in (0, 10):
        rows.append(_measure(f"Omega reduced to {args.reduced}, m = {m}", index, reduced_QE, query_QE, m, args.queries))
    if not args.reduced_only:
        whole = build_faiss_index(_card(OMEGA), _tiles(omega_ND, phi_NE))
        rows.append(_measure(f"Omega whole, {OMEGA}, m = 0", whole, query_QD, query_QE, 0, 30))
    _print(rows, facts)
    if args.out:
        args.out.write_text(json.dumps({**facts, "rows": rows}, indent=2) + "\n", encoding="utf-8")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--directory", type=Path, required=True, help="directory that keeps vectors and the built index"
    )
    parser.add_argument("--tiles", type=int, default=TILES)
    parser.add_argument("--reduced", type=int, default=REDUCED, help="numbers that Omega is reduced to")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--reduced_only", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file")
    return parser.parse_args()


def _reduction(omega_ND: np.ndarray, args: argparse.Namespace, facts: dict) -> Reduction:
    """The reduction: loaded if it exists, otherwise fitted, timed and saved."""
    path = args.directory / f"reduction_{args.tiles}_{args.reduced}_seed{args.seed}.safetensors"
    if path.exists():
        return load_reduction(path)
    started, core_started = time.perf_counter(), time.process_time()
    reduction = fit_reduction(omega_ND, args.reduced, args.seed)
    facts["fit_s"] = round(time.perf_counter() - started, 1)
    facts["fit_processor_s"] = round(time.process_time() - core_started, 1)
    facts["fit_peak_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)
    return save_reduction(path, reduction)


def _omega(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Recall vectors of all tiles (memory-mapped) and of the queries."""
    model = FallingSpectrum(OMEGA, args.seed)
    path = args.directory / f"omega_{args.tiles}_seed{args.seed}.npy"
    if not path.exists():
        args.directory.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        matrix = np.lib.format.open_memmap(partial, "w+", np.float32, (args.tiles, OMEGA))
        for first in range(0, args.tiles, _BLOCK):
            count = min(_BLOCK, args.tiles - first)
            matrix[first : first + count] = model.vectors(count, stream=100 + first)
        matrix.flush()
        partial.rename(path)
    return np.load(path, mmap_mode="r"), model.queries(args.queries, stream=2)


def _phi(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    model = FallingSpectrum(PHI, args.seed + 1)
    return model.vectors(args.tiles, stream=1), model.queries(args.queries, stream=2)


def _card(dimension: int) -> IndexCard:
    return IndexCard("flat", "omega", dimension, PHI, NODES, None, None, None)


def _tiles(recall_ND: np.ndarray, phi_NE: np.ndarray) -> Iterator[Tiles]:
    for first in range(0, len(recall_ND), _BLOCK):
        part = slice(first, first + _BLOCK)
        names = [str(row) for row in range(first, min(first + _BLOCK, len(recall_ND)))]
        unknown = np.full((len(names), 6), np.nan)
        yield Tiles(names, recall_ND[part], phi_NE[part], unknown[:, :2], unknown[:, 2:])


def _reduced_index(
    args: argparse.Namespace, reduction: Reduction, omega_ND: np.ndarray, phi_NE: np.ndarray
) -> FaissIndex:
    directory = args.directory / f"reduced_{args.tiles}_{args.reduced}_seed{args.seed}"
    build_faiss_index(_card(args.reduced), _tiles(reduction.project(omega_ND), phi_NE)).save(directory)
    return load_faiss_index(directory, memory_map=True)


def _measure(
    name: str, index: FaissIndex, query_QD: np.ndarray, query_QE: np.ndarray, m: int, queries: int
) -> dict[str, float | str]:
    """Milliseconds of single queries, without the first ten."""
    spent, stages = [], []
    for query in range(-10, queries):
        one = slice(query % len(query_QD), query % len(query_QD) + 1)
        started = time.perf_counter()
        found = two_stage_search(index, query_QD[one], query_QE[one], N, K, m)
        spent.append(1e3 * (time.perf_counter() - started))
        stages.append([1e3 * found.recall_s, 1e3 * found.rerank_s, 1e3 * found.consistency_s])
    recall, rerank, consistency = np.median(stages[10:], axis=0)
    return {
        "name": name,
        "median_ms": round(float(np.median(spent[10:])), 2),
        "p95_ms": round(float(np.percentile(spent[10:], 95)), 2),
        "recall_ms": round(float(recall), 2),
        "rerank_ms": round(float(rerank), 2),
        "consistency_ms": round(float(consistency), 2),
        "load": round(os.getloadavg()[0], 1),
    }


def _print(rows: list[dict], facts: dict) -> None:
    print(f"{facts['hardware']}; {THREADS} threads; seed {facts['seed']}; {facts['tiles']} tiles, N = {N}, K = {K}\n")
    columns = ("median_ms", "p95_ms", "recall_ms", "rerank_ms", "consistency_ms")
    titles = ["search", "median, ms", "95th percentile", "stage one", "stage two", "nodes", "load of the machine"]
    print_table(titles, [[row["name"], *(row[column] for column in columns), row["load"]] for row in rows])
    print(f"\nLimit with the reduction: {LIMIT_MS:.0f} ms.")
    print({name: fact for name, fact in facts.items() if name not in ("hardware", "threads", "seed", "tiles")})


if __name__ == "__main__":
    main()
