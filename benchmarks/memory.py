"""Peak memory of this program's work on a CPU, MiB: python benchmarks/memory.py [--json result.json].

Importing, building the encoder, encoding batches and training steps, each in a fresh process.
Side by side with PyTorch: train_step.py and extraction.py with --peer; of the loader: loader.py.
"""

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # runs from a plain clone

import extraction
import train_step
from encoder_cases import CASES, Case, add_case_arguments, chosen_cases
from process_figures import peak_mib
from report import add_json_argument, origin, print_origin, print_table, write_json
from turns import run_case

RUNS = 3  # of a batch or a step; the peak is there after the second


def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    if args.one:
        print(json.dumps(measure(**json.loads(args.one))))
        return
    result = {**origin(), "cases": []}
    cases = chosen_cases(args)
    for case in cases:
        row = {**asdict(case)}
        for work in WORKS:
            asked = json.dumps({"case": asdict(case), "work": work})
            row[work] = run_case([sys.executable, str(Path(__file__).resolve()), "--one", asked])["peak_mib"]
        result["cases"].append(row)
        print(f"{case}: done", file=sys.stderr)
    rows = zip(cases, result["cases"], strict=True)
    print_table(["peak memory, MiB", *WORKS], [[case, *(f"{row[work]:.0f}" for work in WORKS)] for case, row in rows])
    print_origin(result)
    write_json(args.json, result)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_case_arguments(parser, CASES)
    add_json_argument(parser)
    parser.add_argument("--one", help=argparse.SUPPRESS)  # what a child process measures
    return parser.parse_args(argv)


def measure(case: dict[str, Any], work: str) -> dict[str, float]:
    """Peak of this process once the work is done."""
    WORKS[work](Case(**case))
    return {"peak_mib": peak_mib()}


def _imports(case: Case) -> None:
    case.use_device()


def _encoder(case: Case) -> None:
    _imports(case)
    extraction.encoding(case)


WORKS = {
    "imports": _imports,
    "encoder built": _encoder,
    "extraction": lambda case: extraction.measure(case, RUNS),
    "training step": lambda case: train_step.measure(case, RUNS),
}


if __name__ == "__main__":
    main()
