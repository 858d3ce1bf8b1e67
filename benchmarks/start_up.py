"""Seconds from the command to the first step: python benchmarks/start_up.py [--json result.json].

Imports, building, compiling, first and second run of the training step and of extraction, each line in a fresh process.
"graph cache" is run.compiler_cache, "fusion" run.operator_fusion, which builds loops once and finds them again: each
once with an empty cache folder and once with what that left. The folders are their own, so nothing that lies on the
machine already helps. Extraction compiles within its first batch: compiling and that batch are one figure.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # runs from a plain clone

from encoder_cases import Case
from report import add_json_argument, origin, print_origin, print_table, write_json
from turns import run_case

WORKS = ("train_step", "extraction")
VARIANTS = ("plain", "graph cache", "fusion", "fusion and graph cache")
STAGES = ("import_s", "build_s", "compile_s", "first_s", "second_s")


def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    if args.one:
        print(json.dumps(measure(**json.loads(args.one))))
        return
    result = {**origin(), "rounds": args.rounds, "rows": []}
    for case in args.cases:
        for work in WORKS:
            for variant in args.variants:
                if work == "train_step" or "graph cache" not in variant:  # kept graphs are the training's
                    result["rows"] += _rows(case, work, variant, args.rounds)
                    print(f"{case}, {work}, {variant}: done", file=sys.stderr)
    _print(result["rows"])
    print_origin(result)
    write_json(args.json, result)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Case.parse, nargs="+", default=[Case("base", 384, 2), Case("compact", 128, 32)])
    parser.add_argument("--variants", choices=VARIANTS, nargs="+", default=VARIANTS, metavar="VARIANT")
    parser.add_argument("--rounds", type=int, default=3, help="processes per line; the median counts")
    add_json_argument(parser)
    parser.add_argument("--one", help=argparse.SUPPRESS)  # what a child process measures
    return parser.parse_args(argv)


def _rows(case: Case, work: str, variant: str, rounds: int) -> list[dict[str, Any]]:
    """One row, or two where the first process leaves something for the next."""
    leaves = variant != "plain"
    names = [f"{variant}, empty", f"{variant}, filled"] if leaves else [variant]
    runs: list[list[dict]] = [[] for _ in names]
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            asked = {"case": asdict(case), "work": work, "variant": variant, "folder": folder}
            for found in runs:
                found.append(run_case([sys.executable, str(Path(__file__).resolve()), "--one", json.dumps(asked)]))
    facts = {"case": str(case), "work": work}
    return [
        {**facts, "variant": name, "runs": found, **{s: statistics.median(run[s] for run in found) for s in STAGES}}
        for name, found in zip(names, runs, strict=True)
    ]


def measure(case: dict[str, Any], work: str, variant: str, folder: str) -> dict[str, float]:
    """Seconds of each stage of this process, imports from its start on; ``compiled_s`` went into compiling."""
    os.environ["XDG_CACHE_HOME"] = folder  # where graphs and loops are kept
    from mindloc.runtime.compilation import compiled_s
    from mindloc.runtime.process import process_age_s

    chosen = Case(**{**case, "fusion": "always" if "fusion" in variant else "never"})
    chosen.use_device()
    seconds, started = {"import_s": process_age_s()}, time.perf_counter()
    if work == "train_step":
        compile_it, run = _build_step(chosen, "auto" if "graph cache" in variant else "none")
    else:
        compile_it = run = _build_extraction(chosen)
    seconds["build_s"] = time.perf_counter() - started
    for stage, do in zip(STAGES[2:], (compile_it, run, run), strict=True):
        started = time.perf_counter()
        do()
        seconds[stage] = time.perf_counter() - started
    return {**seconds, "compiled_s": compiled_s()}


def _build_step(case: Case, cache: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """What compiles the training step, and what runs it."""
    import train_step

    from mindloc.runtime.cluster import ALONE
    from mindloc.runtime.compilation import compiling
    from mindloc.training.build import build_compiler_cache

    step, batch, config = train_step.train_step(case), train_step.batch_of(case), case.config()
    config.run.compiler_cache = cache
    serve_graph = build_compiler_cache(config, ALONE, print)

    def compile_step() -> None:
        with compiling(), serve_graph(*batch):
            step.compile(*batch)

    return compile_step, lambda: step(*batch)[0].asnumpy()


def _build_extraction(case: Case) -> Callable[[], Any]:
    """What encodes a batch; the first time it compiles."""
    import extraction

    encode, batch = extraction.encoding(case), extraction.batch_of(case)
    return lambda: encode(batch)


def _print(rows: list[dict[str, Any]]) -> None:
    titles = [
        "case",
        "work",
        "variant",
        "imports",
        "building",
        "compiling",
        "first run",
        "second run",
        "first result after",
    ]
    cells = []
    for row in rows:
        seconds = [row[stage] for stage in STAGES]
        whole = sum(seconds[:4])
        cells.append([row["case"], row["work"], row["variant"], *(f"{value:.2f}" for value in seconds), f"{whole:.1f}"])
    print_table(titles, cells)


if __name__ == "__main__":
    main()
