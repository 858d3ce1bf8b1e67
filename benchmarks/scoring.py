"""Seconds and memory of scoring two descriptor sets: python benchmarks/scoring.py [--json result.json].

Writes sets of random descriptors with known correct items to disk (not timed), then loads and scores them exactly as
``python -m mindloc score`` does, in both modes, with every metric. Limit: 60 s, and 2 GB besides the descriptors.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
from report import add_json_argument, origin, print_origin, print_table, write_json

from mindloc.descriptors.sets import load_descriptor_set, make_rows, save_descriptor_set
from mindloc.evaluation.score import ScoreSettings, score_sets
from mindloc.evaluation.truth import load_truth, write_truth

LIMIT_S, LIMIT_GB = 60.0, 2.0


def main() -> None:
    args = _parse()
    with tempfile.TemporaryDirectory() as directory:
        _make(Path(directory), args.queries, args.gallery, args.dimension, args.right)
        result = _measure(Path(directory), args.queries, args.gallery, args.dimension)
    _print(result)
    write_json(args.json, result)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--gallery", type=int, default=15_000)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--right", type=int, default=8, help="correct tiles per query in mode pos_semipos")
    add_json_argument(parser)
    return parser.parse_args()


def _make(directory: Path, queries: int, gallery: int, dimension: int, right: int) -> None:
    random = np.random.default_rng(0)
    gallery_ND = random.standard_normal((gallery, dimension), np.float32)
    right_QP = random.integers(0, gallery, (queries, right))
    query_QD = gallery_ND[right_QP[:, 0]] + 6.0 * random.standard_normal((queries, dimension), np.float32)
    for name, matrix, view in (("query", query_QD, "drone"), ("gallery", gallery_ND, "satellite")):
        names = [f"{view}/{index}.png" for index in range(len(matrix))]
        rows = make_rows(names, random.uniform(0, 10_000, (len(matrix), 2)))
        save_descriptor_set(directory / name, matrix, rows, {"view": view, "place_unit": "plane_m"})
    lists = [[f"satellite/{index}.png" for index in np.unique(row)] for row in right_QP]
    first = [[f"satellite/{index}.png" for index in row[: right // 2]] for row in right_QP]
    names = [f"drone/{index}.png" for index in range(queries)]
    write_truth(directory / "truth.jsonl", names, {"pos": first, "pos_semipos": lists})


def _measure(directory: Path, queries: int, gallery: int, dimension: int) -> dict:
    before_gb, started = _reset_peak(), time.perf_counter()
    query_set, gallery_set = load_descriptor_set(directory / "query"), load_descriptor_set(directory / "gallery")
    truth = load_truth(directory / "truth.jsonl", query_set, gallery_set)
    loaded = time.perf_counter()
    scores = score_sets(query_set, gallery_set, truth, ScoreSettings())
    seconds = time.perf_counter() - started
    descriptors_gb = (queries + gallery) * dimension * 4 / 1e9
    return {
        "queries": queries,
        "gallery": gallery,
        "dimension": dimension,
        "load_s": round(loaded - started, 2),
        "total_s": round(seconds, 2),
        "limit_s": LIMIT_S,
        "descriptors_gb": round(descriptors_gb, 3),
        "beyond_gb": round(_peak_gb() - before_gb - descriptors_gb, 3),
        "limit_gb": LIMIT_GB,
        "recall@1": scores.numbers["pos"]["recall@1"],
        **origin(),
    }


def _reset_peak() -> float:
    """Memory in use now, GB; on Linux the peak counter is reset."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")
    return _status_gb("VmRSS")


def _peak_gb() -> float:
    return _status_gb("VmHWM")


def _status_gb(key: str) -> float:
    status = Path("/proc/self/status")
    if not status.exists():  # not Linux: the peak of the whole process, including writing the sets
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9 if key == "VmHWM" else 0.0
    line = next(line for line in status.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024 / 1e9


def _print(result: dict) -> None:
    size = f"{result['queries']} queries x {result['gallery']} tiles x {result['dimension']}"
    beyond = f"memory besides the descriptors ({result['descriptors_gb']} GB)"
    rows = [
        ["load and check", f"{result['load_s']} s", ""],
        ["load, rank and score, both modes", f"{result['total_s']} s", f"{LIMIT_S:.0f} s"],
        [beyond, f"{result['beyond_gb']} GB", f"{LIMIT_GB:.0f} GB"],
    ]
    print_table([size, "measured", "limit"], rows)
    print(f"\nRecall@1 {result['recall@1']:.4f}")
    print_origin(result)


if __name__ == "__main__":
    main()
