"""What each part of the two-stage head is worth: python benchmarks/two_stage_ablation.py --out work_dir/ablation.

Makes two generated worlds, trains one encoder per variant on the first and finds 1 500 frames of the second among 500
tiles, by train.py and eval.py. All that differs between variants is stated in VARIANTS. What is finished already is not
done again, so that a run that was stopped goes on.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from project_command import PROJECT, make_world, run_command
from report import origin, percent, print_origin, print_table, write_json
from variant_training import train_variant, variant_folder

CONFIG = PROJECT / "configs" / "world_two_stage.yaml"
WORLDS = {
    "world_train": ["--seed", "1", "--drones", "1500", "--test_share", "0"],
    "world_test": ["--seed", "2", "--drones", "1500", "--test_share", "1", "--tiles", "500"],
}
VARIANTS = {
    "as configured (K = 4)": {},
    "no non-local block": {"head.non_local": "none"},
    "nodes not sorted": {"head.sort_by_area": "false"},
    "K = 1": {"head.nodes": "1"},
    "K = 6": {"head.nodes": "6"},
    "Phi after the non-local block": {"head.phi_reads_non_local": "true"},
    "cosine losses of SGM-Net": {"loss.omega": "cosine_embedding", "loss.phi": "cosine_triplet"},
}


def main() -> None:
    args = _parse()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, words in WORLDS.items():
        make_world(args.out / name, words)
    names = [name for name in VARIANTS if not args.only or any(part in name for part in args.only)]
    with ThreadPoolExecutor(args.jobs) as pool:
        rows = list(pool.map(lambda name: _measure(name, args), names))
    result = {
        "config": CONFIG.name,
        "settings": args.set,
        "seed": args.seed,
        "mode": "pos",
        "rows": rows,
        **origin(),
    }
    write_json(args.out / "ablation.json", result)
    _print(result)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for worlds, runs and ablation.json")
    parser.add_argument("--seed", type=int, default=1, help="of the trainings; the worlds have their own")
    parser.add_argument("--only", nargs="*", metavar="PART", help="variants whose name contains one of these")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for every variant")
    parser.add_argument("--jobs", type=int, default=1, help="variants at once; they share out the cores")
    return parser.parse_args()


def _measure(name: str, args: argparse.Namespace) -> dict:
    settings = {
        **VARIANTS[name],
        "data.root": str(args.out / "world_train"),
        "data.test_root": str(args.out / "world_test"),
        "train.seed": str(args.seed),
        "train.eval_every_epochs": "0",
        "train.zero_shot_eval": "false",
    }
    started = time.perf_counter()
    run = variant_folder(args.out / f"seed_{args.seed}", name, settings, args.set)
    train_variant(run, CONFIG, settings, args.set, args.jobs)
    weights, report = run / "checkpoints" / "weights_end.safetensors", run / "reports" / "final"
    if not (report / "report.json").is_file():
        evaluation = ["eval.py", "--checkpoint", str(weights), "--out", str(report)]
        run_command(evaluation, run.with_suffix(".log"), args.jobs)
    print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    return {"variant": name, **_numbers(json.loads((report / "report.json").read_text(encoding="utf-8")))}


def _numbers(report: dict) -> dict:
    methods, n = report["methods"], report["search"]["recall_n"]
    model, first, phi = (methods[name]["pos"] for name in ("model", "stage_one", "phi"))
    return {
        "queries": model["queries"],
        "stage_one_recall@1": first["recall@1"],
        "recall@1": model["recall@1"],
        "interval": [model["recall@1_low"], model["recall@1_high"]],
        "recall@5": model["recall@5"],
        "phi_recall@1": phi["recall@1"],
        "recall_n": n,
        "ceiling": first[f"recall@{n}"],
        "won": model["won_queries"],
        "lost": model["lost_queries"],
        "ap": model["ap"],
        "dis@1_median_m": model["dis@1_median_m"],
    }


def _print(result: dict) -> None:
    rows = result["rows"]
    titles = ["variant", "stage one R@1", "re-ranked R@1", "95 % interval", "won, lost", "re-ranked R@5"]
    titles += ["Phi alone R@1", f"stage one R@{rows[0]['recall_n']}", "AP", "median Dis@1"]
    table = []
    for row in rows:
        low, high = row["interval"]
        cells = [row["variant"], percent(row["stage_one_recall@1"]), percent(row["recall@1"])]
        cells += [f"{percent(low)} to {percent(high)}", f"{row['won']}, {row['lost']}", percent(row["recall@5"])]
        cells += [percent(row[key]) for key in ("phi_recall@1", "ceiling", "ap")]
        table.append([*cells, f"{row['dis@1_median_m']:.0f} m"])
    print_table(titles, table)
    print(f"\nmode pos, {rows[0]['queries']} queries, seed {result['seed']}")
    print_origin(result)


if __name__ == "__main__":
    main()
