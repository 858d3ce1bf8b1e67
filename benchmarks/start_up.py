"""Seconds from the command to the first step, and memory: python benchmarks/start_up.py [--json result.json].

The stages are imports, building, compiling, first and second run, for the training step and for extraction. Each row is
measured in a new process, with the peak memory after each stage. The variant "fusion" sets run.operator_fusion, which
keeps compiled loops in a cache directory: it is measured once with an empty directory and once with the directory that
the first process filled. The directory is temporary, so loops kept on the machine before are not used. Extraction
compiles within its first batch, so "compiling" includes that batch.
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
from turns import peak_mib, run_case

WORKS = ("train_step", "extraction")
VARIANTS = ("plain", "fusion")
STAGES = {
    "import": "imports",
    "build": "building",
    "compile": "compiling",
    "first": "first run",
    "second": "second run",
}
FIGURES = [f"{stage}_{unit}" for unit in ("s", "mib") for stage in STAGES]


def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    if args.one:
        print(json.dumps(measure(**json.loads(args.one))))
        return
    result = {**origin(), "rounds": args.rounds, "rows": []}
    for case in args.cases:
        for work in WORKS:
            for variant in args.variants:
                result["rows"] += _rows(case, work, variant, args.rounds)
                print(f"{case}, {work}, {variant}: done", file=sys.stderr)
    _print(result["rows"])
    print_origin(result)
    write_json(args.json, result)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Case.parse, nargs="+", default=[Case("base", 384, 2), Case("compact", 128, 32)])
    parser.add_argument("--variants", choices=VARIANTS, nargs="+", default=VARIANTS, metavar="VARIANT")
    parser.add_argument("--rounds", type=int, default=3, help="processes per row; the table has their median")
    add_json_argument(parser)
    parser.add_argument("--one", help=argparse.SUPPRESS)  # what a child process measures
    return parser.parse_args(argv)


def _rows(case: Case, work: str, variant: str, rounds: int) -> list[dict[str, Any]]:
    """One row, or two if the first process fills a cache that the second one uses."""
    leaves = variant != "plain"
    names = [f"{variant}, empty", f"{variant}, filled"] if leaves else [variant]
    runs: list[list[dict]] = [[] for _ in names]
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as directory:
            request = {"case": asdict(case), "work": work, "variant": variant, "directory": directory}
            for found in runs:
                found.append(run_case([sys.executable, str(Path(__file__).resolve()), "--one", json.dumps(request)]))
    facts = {"case": str(case), "work": work}
    return [
        {**facts, "variant": name, "runs": found, **_medians(found)} for name, found in zip(names, runs, strict=True)
    ]


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {figure: statistics.median(run[figure] for run in runs) for figure in FIGURES}


def measure(case: dict[str, Any], work: str, variant: str, directory: str) -> dict[str, float]:
    """Seconds of each stage of this process (imports since its start), and its peak memory after each stage;
    ``compiled_s`` is the total time spent compiling.
    """
    os.environ["XDG_CACHE_HOME"] = directory  # where loops are kept
    from mindloc.runtime.compilation import compiled_s
    from mindloc.runtime.process import process_age_s

    chosen = Case(**{**case, "fusion": "always" if variant == "fusion" else "never"})
    chosen.use_device()
    figures, started = {"import_s": process_age_s(), "import_mib": peak_mib()}, time.perf_counter()
    compile_it, run = {"train_step": _build_step, "extraction": _build_extraction}[work](chosen)
    figures |= {"build_s": time.perf_counter() - started, "build_mib": peak_mib()}
    for stage, do in zip(("compile", "first", "second"), (compile_it, run, run), strict=True):
        started = time.perf_counter()
        do()
        figures |= {f"{stage}_s": time.perf_counter() - started, f"{stage}_mib": peak_mib()}
    return {**figures, "compiled_s": compiled_s()}


def _build_step(case: Case) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """(function that compiles the training step, function that runs it)."""
    import train_step

    step, batch = train_step.train_step(case), train_step.batch_of(case)
    return lambda: step.compile(*batch), lambda: step(*batch)[0].asnumpy()


def _build_extraction(case: Case) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The function that encodes a batch, twice: its first call also compiles."""
    import extraction

    encode, batch = extraction.encoding(case), extraction.batch_of(case)
    return (lambda: encode(batch),) * 2


def _print(rows: list[dict[str, Any]]) -> None:
    kinds = [[row["case"], row["work"], row["variant"]] for row in rows]
    seconds = [[row[f"{stage}_s"] for stage in STAGES] for row in rows]
    titles = ["case", "work", "variant", *STAGES.values()]
    cells = [[*map("{:.2f}".format, values), f"{sum(values[:4]):.1f}"] for values in seconds]
    print_table([*titles, "first result after, s"], [k + c for k, c in zip(kinds, cells, strict=True)])
    print("\npeak memory after each, MiB:\n")
    memory = [[f"{row[f'{stage}_mib']:.0f}" for stage in STAGES] for row in rows]
    print_table(titles, [k + m for k, m in zip(kinds, memory, strict=True)])


if __name__ == "__main__":
    main()
