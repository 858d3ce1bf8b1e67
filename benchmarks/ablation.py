"""Effect of each part of a method: python benchmarks/ablation.py STUDY --out work_dir/STUDY [--seeds 1 2 3].

The study ``sampling`` adds exclusive batches, weights and hard negatives, one after the other. The study ``two_stage``
changes one part of the two-stage head at a time. The script generates two worlds, trains one encoder per variant and
seed on the first world, evaluates it on the frames of the second, and writes STUDY.json. Finished runs are not repeated
and stopped runs are continued, so the command can be repeated, also with more seeds or variants.

A seed determines start weights, order and random changes of the images. So variants are compared seed by seed, each
with the variant before it or with the first one. At batch 32 exclusive sampling keeps 99 % of the pairs of
``sampling``'s world, and 98 % with hard negatives, so all variants train on about as many pairs; the table has the
fraction that each variant keeps.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
from report import make_world, origin, percent, print_origin, print_table, run_command, set_words, write_json

from mindloc.training.reporting import read_metrics

Settings = Mapping[str, object]
SEMIPOS = "semipos_recall@1"  # Recall@1 in mode pos_semipos, where tiles with a partial overlap are correct too


@dataclass(frozen=True)
class Study:
    """One study.

    ``ladder``: variant -> its settings; each variant adds one change to the variant before it.
    ``beside``: further variants, trained only if --only names them; all are compared with one variant of the ladder.
    """

    config: str
    frames: int
    ladder: Mapping[str, Settings]
    beside: Mapping[str, Settings]
    beside_is_compared_with: str
    settings: Settings  # of every variant
    epochs: int | None = None  # None: the config's
    columns: Mapping[str, str] = field(default_factory=dict)  # title -> a figure besides those that every study has

    @property
    def variants(self) -> dict[str, Settings]:
        return {**self.ladder, **self.beside}

    def compared_with(self, variant: str) -> str | None:
        """The variant that ``variant`` is compared with; None for the first of the ladder."""
        names = list(self.ladder)
        if variant in self.beside:
            return self.beside_is_compared_with
        return names[names.index(variant) - 1] if names.index(variant) else None


_EXCLUSIVE = {"sampling.mode": "exclusive", "loss.name": "infonce"}
_WEIGHTED = {"sampling.mode": "exclusive", "loss.name": "weighted_infonce"}
STUDIES = {
    "sampling": Study(
        config="world_tiny",
        frames=1000,
        epochs=3,
        ladder={
            "plain InfoNCE": {"sampling.mode": "random", "loss.name": "infonce"},
            "+ exclusive batches": _EXCLUSIVE,
            "+ weights": _WEIGHTED,
            "+ hard negatives": {**_WEIGHTED, "sampling.hard_negatives": "both"},
        },
        beside={
            "hard by map": {**_WEIGHTED, "sampling.hard_negatives": "map"},
            "hard by descriptors": {**_WEIGHTED, "sampling.hard_negatives": "descriptors"},
            "hard by map, then descriptors": {**_WEIGHTED, "sampling.hard_negatives": "map_then_descriptors"},
            "masked, weights": {**_WEIGHTED, "sampling.mode": "masked"},
            "masked, weights, hard": {**_WEIGHTED, "sampling.mode": "masked", "sampling.hard_negatives": "both"},
        },
        beside_is_compared_with="+ weights",
        settings={"data.train_mode": "pos_semipos"},  # in mode pos the overlaps, and so the weights, are all similar
        columns={"R@1 in pos_semipos": SEMIPOS, "pairs kept": "kept_share"},
    ),
    "two_stage": Study(
        config="world_two_stage",
        frames=1500,
        ladder={"as configured (K = 4)": {}},
        beside={
            "no non-local block": {"head.non_local": "none"},
            "nodes not sorted": {"head.sort_by_area": "false"},
            "K = 1": {"head.nodes": "1"},
            "K = 6": {"head.nodes": "6"},
            "Phi after the non-local block": {"head.phi_reads_non_local": "true"},
            "cosine losses of SGM-Net": {"loss.omega": "cosine_embedding", "loss.phi": "cosine_triplet"},
        },
        beside_is_compared_with="as configured (K = 4)",
        settings={},
        columns={"stage one R@1": "stage_one_recall@1", "Phi alone R@1": "phi_recall@1", "stage one R@N": "ceiling"},
    ),
}
METRICS = ("recall@1", "recall@5", "recall@10", "ap", "dis@1_median_m")


def main() -> None:
    args = _parse()
    study = STUDIES[args.study]
    args.out.mkdir(parents=True, exist_ok=True)
    worlds = {"train": ["--seed", "1", "--test_share", "0"]}
    worlds["test"] = ["--seed", "2", "--test_share", "1", "--tiles", "500"]
    for name, words in worlds.items():
        make_world(_world(args, name), [*words, "--drones", str(args.frames or study.frames)])
    names = [name for name in study.variants if any(part in name for part in args.only)] or list(study.ladder)
    jobs = [(name, seed) for seed in args.seeds for name in names]  # all variants of a seed before the next seed
    with ThreadPoolExecutor(args.jobs) as pool:
        rows = list(pool.map(lambda job: _measure(study, *job, args), jobs))
    result = {
        "study": args.study,
        "config": study.config,
        "settings": args.set,
        "mode": "pos",
        "rows": rows,
        **origin(),
    }
    write_json(args.out / f"{args.study}.json", result)
    print_table(*variant_table(study, rows))
    print(f"\nmode pos, {rows[0]['queries']} queries, {rows[0]['epochs']} epochs, the last one")
    print_origin(result)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--out", type=Path, required=True, help="directory for worlds, runs and numbers")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="seeds of training, not of the worlds")
    parser.add_argument("--epochs", type=int, help="default: the study's")
    parser.add_argument("--frames", type=int, help="drone images of each world; default: the study's")
    parser.add_argument(
        "--only", nargs="*", default=[], metavar="PART", help="variants whose name contains one of these"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for every variant")
    parser.add_argument("--jobs", type=int, default=1, help="training runs at the same time; they divide the cores")
    return parser.parse_args()


def _world(args: argparse.Namespace, name: str) -> Path:
    return args.out / f"world_{name}_{args.frames or STUDIES[args.study].frames}"


def _measure(study: Study, name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    started, settings = time.perf_counter(), _settings(study, name, seed, args)
    run = variant_directory(args.out / f"seed_{seed}", name, settings, args.set)
    if train_variant(run, study.config, settings, args.set, args.jobs):
        print(f"{name}, seed {seed}: {time.perf_counter() - started:.0f} s", flush=True)
    return {"variant": name, "seed": seed, **_numbers(run, args)}


def _settings(study: Study, name: str, seed: int, args: argparse.Namespace) -> dict[str, object]:
    epochs = args.epochs or study.epochs
    settings = {
        **study.settings,
        **study.variants[name],
        "data.root": _world(args, "train"),
        "data.test_root": _world(args, "test"),
        "train.seed": seed,
        "train.eval_every_epochs": 0,
        "train.zero_shot_eval": "false",
    }
    if epochs:
        settings["train.epochs"] = epochs
    source = settings.get("sampling.hard_negatives")
    if source:
        settings["sampling.hard_from_epoch"] = epochs // 3
    if source not in (None, "map"):
        settings["sampling.refresh_every_epochs"] = 1
    return settings


def variant_directory(out: Path, name: str, settings: Settings, changes: Sequence[str] = ()) -> Path:
    """The directory of a variant's run: its name and a digest of its settings, so different settings never share it."""
    request = json.dumps([{key: str(value) for key, value in settings.items()}, list(changes)], sort_keys=True)
    readable = "".join(c if c.isalnum() else "_" for c in name).strip("_")
    return out / f"{readable}_{hashlib.sha256(request.encode()).hexdigest()[:8]}"


def train_variant(
    run: Path, config: str | Path, settings: Settings, changes: Sequence[str] = (), jobs: int = 1
) -> bool:
    """Train a variant, or continue its stopped run. Returns False if the run is already finished."""
    if (run / "checkpoints" / "weights_end.safetensors").is_file():
        return False
    first = ["--config", str(config), "--run_dir", str(run), *set_words(settings, changes)]
    stopped = (run / "config.yaml").is_file()
    run_command(["train.py", *(["--resume", str(run)] if stopped else first)], run.with_suffix(".log"), jobs)
    return True


def _numbers(run: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The numbers of a run's last epoch. The best epoch is not used, since the test data would choose it."""
    report = run / "reports" / "final"
    if not (report / "report.json").is_file():
        weights = run / "checkpoints" / "weights_end.safetensors"
        words = ["eval.py", "--checkpoint", str(weights), "--out", str(report)]
        run_command(words, run.with_suffix(".log"), args.jobs)
    found = json.loads((report / "report.json").read_text(encoding="utf-8"))
    lines = list(read_metrics(run / "metrics.jsonl"))
    samplings = [line["sampling"] for line in lines if line["kind"] == "epoch"]
    kept = float(np.mean([sampling["kept"] / sampling["total"] for sampling in samplings]))
    return {**report_numbers(found), "kept_share": kept, "epochs": len(samplings)}


def report_numbers(report: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a row of the table, from report.json; for a two-stage encoder also the numbers of each stage."""
    methods = report["methods"]
    model = methods["model"]["pos"]
    numbers = {"queries": model["queries"], **{metric: model[metric] for metric in METRICS}}
    numbers |= {"interval": [model["recall@1_low"], model["recall@1_high"]]}
    numbers |= {SEMIPOS: methods["model"]["pos_semipos"]["recall@1"]}
    if "stage_one" in methods:
        first = methods["stage_one"]["pos"]
        numbers |= {"stage_one_recall@1": first["recall@1"], "ceiling": first[f"recall@{report['search']['recall_n']}"]}
        numbers |= {"phi_recall@1": methods["phi"]["pos"]["recall@1"]}
        numbers |= {"won": model["won_queries"], "lost": model["lost_queries"]}
    return numbers


def variant_table(study: Study, rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """(titles, rows): the numbers of each variant over its seeds, and its gain over the variant it is compared with."""
    titles = ["variant", "R@1, mean (min to max)", "each seed", "gain over the compared variant", "mean gain"]
    titles += ["R@5", "R@10", "AP", "median Dis@1", *study.columns]
    table = []
    for name in study.variants:
        of_seed = _by_seed(rows, name, "recall@1")
        if not of_seed:
            continue
        base = _by_seed(rows, study.compared_with(name), "recall@1")
        gains = [of_seed[seed] - base[seed] for seed in of_seed if seed in base]
        values = list(of_seed.values())
        means = [np.mean(list(_by_seed(rows, name, key).values())) for key in (*METRICS[1:], *study.columns.values())]
        cells = [name, f"{percent(np.mean(values))} ({percent(min(values))} to {percent(max(values))})"]
        cells += [", ".join(map(percent, values)), ", ".join(f"{100 * gain:+.2f}" for gain in gains)]
        cells += [f"{100 * np.mean(gains):+.2f}" if gains else "", *map(percent, means[:3]), f"{means[3]:.0f} m"]
        table.append([*cells, *map(percent, means[4:])])
    return titles, table


def _by_seed(rows: Sequence[dict[str, Any]], variant: str | None, key: str) -> dict[int, Any]:
    return {row["seed"]: row[key] for row in rows if row["variant"] == variant}


if __name__ == "__main__":
    main()
