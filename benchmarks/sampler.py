"""Seconds, memory and kept pairs of planning an epoch: python benchmarks/sampler.py [--json result.json].

Query images and tiles are random points of a square; points that are near each other overlap, as on a map. Each row is
measured in a process of its own, which gives its own peak memory. Limit for 10^6 pairs at batch 64: 10 s and 1 GB.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
from turns import peak_mib

from mindloc.config.sections import SamplingConfig
from mindloc.data.exclusion import OverlapGraph
from mindloc.data.hard_negatives import NO_NEIGHBOR, NeighborTables
from mindloc.data.sampler import SAMPLERS
from mindloc.data.split import Edges

LIMIT_S, LIMIT_MIB = 10.0, 1024
NEIGHBORS = 32  # candidates of a query image, with --mined-per-pair
# query images, tiles, tiles per query image, batch size: the size of GTA-UAV, the size of the limit, a dense flight
CASES = [(33_763, 14_640, 4.0, 64), (120_000, 40_000, 8.45, 64), (120_000, 40_000, 8.45, 256), (4_950, 1_000, 25.2, 64)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mode", choices=list(SAMPLERS), default="exclusive")
    parser.add_argument(
        "--mined-per-pair", type=int, default=0, help="number of hard negatives per pair, in half of each batch"
    )
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)  # what a child process measures
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(*args.case, args.mode, args.mined_per_pair)))
        return
    rows = [_in_child(case, args.mode, args.mined_per_pair) for case in CASES]
    _print(rows)
    if args.json:
        hardware = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        text = json.dumps({"version": 1, "hardware": hardware, "rows": rows}, indent=2)
        args.json.write_text(text + "\n", encoding="utf-8")


def _in_child(case: tuple, mode: str, mined: int) -> dict:
    command = [sys.executable, __file__, "--mode", mode, "--mined-per-pair", str(mined), "--case", json.dumps(case)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(queries: int, tiles: int, tiles_per_query: float, batch_size: int, mode: str, mined: int = 0) -> dict:
    """Time and memory of building the graph and planning one epoch, without the generation of points and neighbors."""
    edges = near_edges(queries, tiles, tiles_per_query)
    pair_P2 = np.stack([edges.query(), edges.reference], axis=1)
    neighbors = None
    if mined:
        table_QK = beside_edges(edges, near_edges(queries, tiles, 4 * tiles_per_query))
        sampling = SamplingConfig(hard_negatives="map", hard_from_epoch=0, mined_per_pair=mined)
        neighbors = NeighborTables(sampling, table_QK)
    before_mib = peak_mib()
    started = time.perf_counter()
    sampler = SAMPLERS[mode](pair_P2, OverlapGraph(edges, tiles), batch_size, 1, neighbors)
    graph_s = time.perf_counter() - started
    plan = sampler.plan(0)
    return {
        "mode": mode,
        "pairs": len(pair_P2),
        "batch": batch_size,
        "graph_s": round(graph_s, 3),
        "plan_s": round(time.perf_counter() - started - graph_s, 3),
        "peak_mib": round(peak_mib()),  # of the whole process, Python and points included
        "peak_before_mib": round(before_mib),
        "kept": round(plan.report.kept_share, 5),
        "mined": plan.report.mined,
    }


def near_edges(queries: int, tiles: int, tiles_per_query: float, seed: int = 0) -> Edges:
    """Edges between random points of the unit square: a query image overlaps all tiles within a radius. The radius is
    chosen so that ``tiles_per_query`` tiles are within it on average.
    """
    rng = np.random.default_rng(seed)
    query_Q2, tile_S2 = rng.random((queries, 2)), rng.random((tiles, 2))
    radius = np.sqrt(tiles_per_query / tiles / np.pi)
    by_x = np.argsort(tile_S2[:, 0])
    sorted_S2 = tile_S2[by_x]
    low_Q = np.searchsorted(sorted_S2[:, 0], query_Q2[:, 0] - radius)
    high_Q = np.searchsorted(sorted_S2[:, 0], query_Q2[:, 0] + radius)
    near, start = [], np.zeros(queries + 1, np.int64)
    for query, (low, high) in enumerate(zip(low_Q.tolist(), high_Q.tolist(), strict=True)):
        offset_N2 = sorted_S2[low:high] - query_Q2[query]
        near.append(by_x[low:high][np.einsum("nc,nc->n", offset_N2, offset_N2) < radius**2])
        start[query + 1] = start[query] + len(near[-1])
    reference_E = np.concatenate(near).astype(np.int32)
    return Edges(start, reference_E, {"iou": np.full(len(reference_E), 0.5, np.float32)})


def beside_edges(edges: Edges, wider: Edges) -> np.ndarray:
    """(Q, 32) tiles of each query that are in ``wider`` but not in ``edges``, in arbitrary order."""
    table_QK = np.full((edges.query_count, NEIGHBORS), NO_NEIGHBOR, np.int32)
    for query, row_K in enumerate(table_QK):
        beside = np.setdiff1d(wider.references_of(query), edges.references_of(query))[:NEIGHBORS]
        row_K[: len(beside)] = beside
    return table_QK


def _print(rows: list[dict]) -> None:
    columns = list(rows[0])
    print("".join(f"{column:>16}" for column in columns))
    for row in rows:
        print("".join(f"{row[column]!s:>16}" for column in columns))
    for row in rows:
        seconds = row["graph_s"] + row["plan_s"]
        if row["pairs"] > 900_000 and row["batch"] == 64:
            verdict = "met" if seconds < LIMIT_S and row["peak_mib"] < LIMIT_MIB else "MISSED"
            numbers = f"{seconds:.2f} s of {LIMIT_S:.0f}, {row['peak_mib']} MiB of {LIMIT_MIB}"
            print(f"10^6 pairs at batch 64: {numbers}: {verdict}")


if __name__ == "__main__":
    main()
