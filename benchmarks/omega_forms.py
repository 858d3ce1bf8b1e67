"""What shorter forms of Omega cost and save: python benchmarks/omega_forms.py REPORT TRAIN_TILES [--json result.json].

REPORT is the folder of an evaluation of a two-stage encoder with the whole Omega, TRAIN_TILES what ``mindloc extract``
wrote of the training tiles with the same checkpoint: the reductions are fitted to these, never to what is searched.
Every form is searched exactly; the re-ranking by Phi is the same behind each.
"""

import argparse
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
from report import add_json_argument, origin, percent, print_origin, print_table, write_json

from mindloc.descriptors.reduction import fit_reduction
from mindloc.descriptors.sets import DescriptorSet, load_descriptor_sets
from mindloc.evaluation.score import DescriptorSets, ScoreSettings, score_two_stage
from mindloc.evaluation.truth import Truth, load_truth

GRIDS = (3, 2, 1)
DIMENSIONS = (1024, 512, 256, 128, 64)
TILES = 10**6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("train_tiles", type=Path)
    parser.add_argument("--recall_n", type=int, default=100)
    add_json_argument(parser)
    args = parser.parse_args()
    queries, reference = (load_descriptor_sets(args.report / side) for side in ("query", "gallery"))
    train = load_descriptor_sets(args.train_tiles)["omega"]
    truth = load_truth(args.report / "truth.jsonl", queries["omega"], reference["omega"])
    settings = ScoreSettings(recall_n=args.recall_n, bootstrap=1000)
    rows = [_measure("whole", queries, reference, truth, settings)]
    for form, shorter in _forms(queries["omega"], train):
        rows.append(_measure(form, *(_with(sets, shorter) for sets in (queries, reference)), truth, settings))
        print(f"{form} done", file=sys.stderr)
    result = {"recall_n": args.recall_n, "fitted_on": train.count, "rows": rows, **origin()}
    _print(result)
    write_json(args.json, result)


def _forms(omega: DescriptorSet, train: DescriptorSet):
    """(name, function of a matrix of whole Omega)."""
    channels = omega.card["config"]["head"]["channels"]
    positions = omega.descriptor_ND.shape[1] // channels
    side = math.isqrt(positions)
    if side * side == positions:
        for grid in GRIDS:
            if side % grid == 0 and grid < side:
                yield f"averaged to {grid} x {grid}", lambda rows, grid=grid: _averaged(rows, side, grid, channels)
    for dimension in DIMENSIONS:
        if dimension <= min(train.count - 1, omega.descriptor_ND.shape[1]):
            yield f"PCA, {dimension}", fit_reduction(train.descriptor_ND, dimension, seed=0).project


def _averaged(omega_ND: np.ndarray, side: int, grid: int, channels: int) -> np.ndarray:
    cells = omega_ND.reshape(len(omega_ND), grid, side // grid, grid, side // grid, channels).mean((2, 4))
    cells = cells.reshape(len(omega_ND), -1)
    return cells / np.linalg.norm(cells, axis=1, keepdims=True)


def _with(sets: DescriptorSets, shorter) -> DescriptorSets:
    omega = sets["omega"]
    return {**sets, "omega": DescriptorSet(shorter(np.asarray(omega.descriptor_ND)), omega.rows, omega.card)}


def _measure(
    form: str, queries: DescriptorSets, reference: DescriptorSets, truth: Truth, settings: ScoreSettings
) -> dict:
    scores = score_two_stage(queries, reference, truth, settings)
    first, final = (scores[name].numbers["pos"] for name in ("stage_one", "model"))
    n = min(settings.recall_n, reference["omega"].count)
    dimension = reference["omega"].descriptor_ND.shape[1]
    return {
        "form": form,
        "dimension": dimension,
        "bytes_per_tile": 4 * dimension,
        "gb_at_a_million_tiles": 4e-9 * dimension * TILES,
        "stage_one_recall@1": first["recall@1"],
        "stage_one_recall@10": first["recall@10"],
        "stage_one_recall@n": first[f"recall@{n}"],
        "recall@1": final["recall@1"],
    }


def _print(result: dict) -> None:
    titles = ["Omega", "length", "bytes a tile", "10^6 tiles", "stage one R@1", "R@10", f"R@{result['recall_n']}"]
    rows = []
    for row in result["rows"]:
        cells = [row["form"], row["dimension"], row["bytes_per_tile"], f"{row['gb_at_a_million_tiles']:.2f} GB"]
        shares = [row[f"stage_one_recall@{k}"] for k in ("1", "10", "n")] + [row["recall@1"]]
        rows.append([*cells, *map(percent, shares)])
    print_table([*titles, "re-ranked R@1"], rows)
    print(f"\nmode pos; reductions fitted to {result['fitted_on']} training tiles")
    print_origin(result)


if __name__ == "__main__":
    main()
