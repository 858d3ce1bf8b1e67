"""What exclusion, weights and hard negatives are worth: python benchmarks/sampling_ablation.py --out work_dir/sampling.

Makes two generated worlds, trains the quick start's encoder on the first, one rung of LADDER after the other and each
with several seeds, and finds the frames of the second. Writes sampling_ablation.json, recall_by_variant.png and
recall_by_epoch.png. What is finished is not done again and what was stopped goes on, so that the same command may be
repeated, also with more seeds or variants.

A seed decides weights at the start, order and random changes of the pictures, so rungs are compared seed by seed. At
batch 32 exclusive sampling keeps 99 % of this world's pairs, with hard negatives 98 %, so that no rung sees many fewer;
the table says how many each kept.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
from project_command import PROJECT, make_world
from report import origin, percent, print_origin, print_table, write_json
from sampling_pictures import Curve, draw_epochs, draw_variants
from variant_training import train_variant, variant_folder

from mindloc.runtime.run_folder import read_metrics

CONFIG = PROJECT / "configs" / "world_tiny.yaml"
_PLAIN = {"sampling.mode": "random", "loss.name": "infonce"}
_EXCLUSIVE = {"sampling.mode": "exclusive", "loss.name": "infonce"}
_WEIGHTED = {"sampling.mode": "exclusive", "loss.name": "weighted_infonce"}
LADDER = {  # each rung is the one before it and one thing more
    "plain InfoNCE": _PLAIN,
    "+ exclusive batches": _EXCLUSIVE,
    "+ weights": _WEIGHTED,
    "+ hard negatives": {**_WEIGHTED, "sampling.hard_negatives": "both"},
}
BESIDE = {  # with --only; compared with "+ weights"
    "hard by map": {**_WEIGHTED, "sampling.hard_negatives": "map"},
    "hard by descriptors": {**_WEIGHTED, "sampling.hard_negatives": "descriptors"},
    "hard by map, then descriptors": {**_WEIGHTED, "sampling.hard_negatives": "map_then_descriptors"},
    "masked, weights": {"sampling.mode": "masked", "loss.name": "weighted_infonce"},
    "masked, weights, hard": {
        "sampling.mode": "masked",
        "loss.name": "weighted_infonce",
        "sampling.hard_negatives": "both",
    },
}
VARIANTS = {**LADDER, **BESIDE}
SEMIPOS = "semipos_recall@1"  # tiles that overlap partly count as right too
METRICS = ("recall@1", "recall@5", "recall@10", "ap", "dis@1_median_m")
SHARES = (SEMIPOS, "kept_share", "companion_share")


def main() -> None:
    args = _parse()
    args.out.mkdir(parents=True, exist_ok=True)
    worlds = {"train": ["--seed", "1", "--test_share", "0"], "test": ["--seed", "2", "--test_share", "1"]}
    worlds["test"] += ["--tiles", "500"]
    for name, words in worlds.items():
        make_world(_world(args, name), [*words, "--drones", str(args.frames)])
    wanted = [name for name in VARIANTS if any(part in name for part in args.only)] if args.only else list(LADDER)
    jobs = [(name, seed) for seed in args.seeds for name in wanted]  # whole ladders first, should time run out
    with ThreadPoolExecutor(args.jobs) as pool:
        rows = list(pool.map(lambda job: _measure(*job, args), jobs))
    result = {
        "version": 1,
        "config": CONFIG.name,
        "settings": args.set,
        "epochs": args.epochs,
        "frames": args.frames,
        "mode": "pos",
        "rows": rows,
        **origin(),
    }
    write_json(args.out / "sampling_ablation.json", result)
    _print(result)
    _draw(result, args.out)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for worlds, runs, numbers and pictures")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the trainings; worlds have their own"
    )
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--frames", type=int, default=1000, help="drone pictures of each world")
    parser.add_argument("--eval_every", type=int, default=1, help="epochs between two points of a curve")
    parser.add_argument("--hard_from", type=int, help="epoch that hard negatives begin with (default: a third)")
    parser.add_argument("--refresh_every", type=int, default=1, help="epochs between two searches for neighbors")
    parser.add_argument("--only", nargs="*", metavar="PART", help="variants whose name contains one of these")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for every variant")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once; they share out the cores")
    return parser.parse_args()


def _world(args: argparse.Namespace, name: str) -> Path:
    return args.out / f"world_{name}_{args.frames}"


def _measure(name: str, seed: int, args: argparse.Namespace) -> dict:
    started, settings = time.perf_counter(), _settings(name, seed, args)
    run = variant_folder(args.out / f"seed_{seed}", name, settings, args.set)
    if train_variant(run, CONFIG, settings, args.set, args.jobs):
        print(f"{name}, seed {seed}: {time.perf_counter() - started:.0f} s", flush=True)
    report = run / "reports" / f"e{args.epochs}" / "report.json"
    return {"variant": name, "seed": seed, **_numbers(run, report)}


def _settings(name: str, seed: int, args: argparse.Namespace) -> dict[str, object]:
    settings = {
        **VARIANTS[name],
        "data.root": _world(args, "train"),
        "data.test_root": _world(args, "test"),
        "train.seed": seed,
        "train.epochs": args.epochs,
        "data.train_mode": "pos_semipos",  # in pos alone overlaps are alike, and weights with them
        "train.eval_every_epochs": args.eval_every,
        "train.zero_shot_eval": "false",
        "train.checkpoint_every_epochs": args.eval_every,
    }
    source = VARIANTS[name].get("sampling.hard_negatives")
    if source:
        settings["sampling.hard_from_epoch"] = args.epochs // 3 if args.hard_from is None else args.hard_from
    if source not in (None, "map"):
        settings["sampling.refresh_every_epochs"] = args.refresh_every
    return settings


def _numbers(run: Path, report: Path) -> dict:
    """Of the last epoch, whatever the best one was: no variant gets to choose."""
    by_mode = json.loads(report.read_text(encoding="utf-8"))["methods"]["model"]
    model = by_mode["pos"]
    lines = list(read_metrics(run / "metrics.jsonl"))
    samplings = [line["sampling"] for line in lines if line["kind"] == "epoch"]
    curve = [(line["epoch"], line["metrics"]["recall@1"]) for line in lines if line["kind"] == "evaluation"]
    return {
        "queries": model["queries"],
        **{metric: model[metric] for metric in METRICS},
        SEMIPOS: by_mode["pos_semipos"]["recall@1"],
        "interval": [model["recall@1_low"], model["recall@1_high"]],
        "curve": curve,
        "kept_share": float(np.mean([sampling["kept"] / sampling["total"] for sampling in samplings])),
        "companion_share": samplings[-1]["companions"] / samplings[-1]["kept"],
        "training_s": sum(line.get("epoch_s", 0) + line.get("neighbors_s", 0) for line in lines),
    }


def _of(result: dict, variant: str, key: str) -> dict[int, Any]:
    """Seed -> what its row says."""
    return {row["seed"]: row[key] for row in result["rows"] if row["variant"] == variant}


def _rungs(result: dict) -> list[tuple[str, str | None]]:
    """(variant, the one that it is compared with)"""
    present = [name for name in VARIANTS if _of(result, name, "recall@1")]
    ladder = list(LADDER)
    before = {name: ladder[place - 1] for place, name in enumerate(ladder) if place}
    return [(name, before.get(name) or (None if name == ladder[0] else "+ weights")) for name in present]


def ladder_table(result: dict) -> tuple[list[str], list[list[str]]]:
    """(titles, rows): each variant over its seeds, and seed by seed against the rung before it."""
    titles = ["variant", "R@1, mean (least to most)", "each seed", "more than the rung before, each seed", "mean gain"]
    titles += ["R@5", "R@10", "AP", "median Dis@1", "R@1 in pos_semipos", "pairs kept", "companions"]
    rows = []
    for name, before in _rungs(result):
        first, base = _of(result, name, "recall@1"), _of(result, before, "recall@1") if before else {}
        gains = [first[seed] - base[seed] for seed in first if seed in base]
        values = list(first.values())
        cells = [name, f"{percent(np.mean(values))} ({percent(min(values))} to {percent(max(values))})"]
        cells += [", ".join(map(percent, values)), ", ".join(f"{100 * gain:+.2f}" for gain in gains)]
        cells += [f"{100 * np.mean(gains):+.2f}" if gains else ""]
        means = {metric: np.mean(list(_of(result, name, metric).values())) for metric in METRICS[1:]}
        cells += [*(percent(means[metric]) for metric in METRICS[1:4]), f"{means['dis@1_median_m']:.0f} m"]
        cells += [percent(np.mean(list(_of(result, name, key).values()))) for key in SHARES]
        rows.append(cells)
    return titles, rows


def _print(result: dict) -> None:
    print_table(*ladder_table(result))
    print(f"\nmode pos, {result['rows'][0]['queries']} queries, {result['epochs']} epochs, last one")
    print_origin(result)


def _draw(result: dict, folder: Path) -> None:
    names = [name for name, _ in _rungs(result)]
    recalls = {name: _of(result, name, "recall@1") for name in names}
    title = f"{result['rows'][0]['queries']} frames of another world among 500 tiles"
    draw_variants(recalls, title, folder / "recall_by_variant.png")
    curves: dict[str, list[Curve]] = {name: list(_of(result, name, "curve").values()) for name in names}
    draw_epochs(curves, folder / "recall_by_epoch.png")


if __name__ == "__main__":
    main()
