"""Measure training steps or extraction of several encoders, optionally in turn with a peer, and print a table.

train_step.py and extraction.py define what one run is. This module contains what they share: the cases, the command
line and the table.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from report import add_json_argument, origin, print_origin, print_table, write_json
from turns import PEER, add_peer_arguments, compare, ratio_cells, require_peer, take_turns

from mindloc.config import Config
from mindloc.runtime.process import usable_cores

CASES = ("base:384:2", "base:224:8", "compact:128:32")


@dataclass(frozen=True)
class Case:
    """Encoder, image size and batch size; in a training step the batch size counts pairs."""

    backbone: str
    side_px: int
    batch_size: int
    fusion: str = "auto"  # run.operator_fusion; train.py and extract use auto

    @classmethod
    def parse(cls, text: str) -> "Case":
        """The case that ``text`` describes: BACKBONE:PIXELS:BATCH."""
        try:
            backbone, side_px, batch_size = text.split(":")
            return cls(backbone, int(side_px), int(batch_size))
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a case; expected BACKBONE:PIXELS:BATCH, for example base:384:2"
            ) from None

    def config(self) -> Config:
        """The default config with this encoder, image size and batch size."""
        values = {"model.backbone": self.backbone, "train.batch_size": self.batch_size}
        values |= dict.fromkeys(("data.query_size_px", "data.reference_size_px"), (self.side_px, self.side_px))
        return Config().with_values({**values, "run.operator_fusion": self.fusion})

    def use_device(self) -> None:
        """Choose the CPU in the same way as train.py and extract; call it before MindSpore is imported."""
        from mindloc.runtime.device import use_device

        use_device("CPU", operator_fusion=self.fusion)

    def __str__(self) -> str:
        return f"{self.backbone}, {self.side_px} px, batch {self.batch_size}"


def add_fusion_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fusion", choices=("auto", "always", "never"), default="auto", help="run.operator_fusion")


def compare_encoders(
    script: str, doc: str, work: str, measure: Callable[[Case, int], dict[str, Any]], argv: list[str] | None = None
) -> None:
    """Measure every case, in turn with the peer if there is one, and print the results.

    Args:
        script: Python file that a process of our side runs.
        work: "train_step" or "extraction", the names in peer/encoder.py.
        measure: (case, number of timed runs) -> first_s, seconds of each run, peak_mib; called in a process of its own.
    """
    args = _parse(doc, argv)
    if args.one:
        print(json.dumps(measure(Case(**json.loads(args.one)), args.runs)))
        return
    require_peer(args.peer, ("torch", "timm"))
    result = {**origin(), "work": work, "runs": args.runs, "rounds": args.rounds, "cases": []}
    for case in (replace(case, fusion=args.fusion) for case in args.cases):
        row = {**asdict(case), **_measure(script, work, case, args)}
        result["cases"].append(row)
        print(f"{case}: done", file=sys.stderr)
    _print(result, work)
    write_json(args.json, result)


def _parse(doc: str, argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = [Case.parse(case) for case in CASES]
    parser.add_argument("--cases", type=Case.parse, nargs="+", default=cases, metavar="BACKBONE:PIXELS:BATCH")
    add_fusion_argument(parser)
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each process (default %(default)s)")
    add_peer_arguments(parser)
    add_json_argument(parser)
    parser.add_argument("--one", help=argparse.SUPPRESS)  # what a process of our side measures
    return parser.parse_args(argv)


def _measure(script: str, work: str, case: Case, args: argparse.Namespace) -> dict[str, Any]:
    ours = [sys.executable, str(Path(script).resolve()), "--one", json.dumps(asdict(case)), "--runs", str(args.runs)]
    commands = [ours] + ([peer_command(args.peer, work, case, args.runs)] if args.peer else [])
    results, loads = take_turns(commands, args.rounds)
    for runs in results:
        for run in runs:
            run["median_s"] = statistics.median(run["seconds"])
    if not args.peer:
        return {"ours": results[0], "loads": loads}
    found = {figure: compare(*results, figure, loads) for figure in ("median_s", "peak_mib")}
    return {"ours": results[0], "peer": results[1], "loads": loads, **found}


def peer_command(python: str, work: str, case: Case, runs: int) -> list[str]:
    """Command that does the same work in PyTorch: an encoder of equal width, depth and heads, on as many cores."""
    from mindloc.models.vit_rope import SIZES  # here, as it imports MindSpore

    size = SIZES[case.backbone]
    request = {
        "work": work,
        "backbone": [size.width, size.depth, size.heads],
        "side_px": case.side_px,
        "batch_size": case.batch_size,
        "runs": runs,
        "cores": len(usable_cores()),
    }
    return [python, str(PEER / "encoder.py"), json.dumps(request)]


def _print(result: dict[str, Any], work: str) -> None:
    per_s = 1 if work == "extraction" else 2  # images per row of a batch
    with_peer = "peer" in result["cases"][0]
    titles = ["case", "seconds", "images/s", "first run, s", "peak memory, MiB"]
    if with_peer:
        titles = ["case", "seconds, ours", "PyTorch", "ours / PyTorch", "peak MiB, ours", "PyTorch", "ours / PyTorch"]
    rows = []
    for found in result["cases"]:
        case = Case(**{field.name: found[field.name] for field in fields(Case)})
        if with_peer:
            rows.append([case, *ratio_cells(found["median_s"], 3), *ratio_cells(found["peak_mib"], 0)])
            continue
        seconds, first, peak = (
            statistics.median(run[key] for run in found["ours"]) for key in ("median_s", "first_s", "peak_mib")
        )
        rows.append([case, f"{seconds:.3f}", f"{per_s * case.batch_size / seconds:.1f}", f"{first:.1f}", f"{peak:.0f}"])
    print_table(titles, rows)
    runs = f"{result['rounds']} rounds of processes in turn, {result['runs']} runs each; ratios: median (min to max)"
    print(f"\n{runs if with_peer else 'medians'}")
    if with_peer:
        peer_runs = [run for found in result["cases"] for run in found["peer"]]
        versions = ", ".join(f"{name} {number}" for name, number in peer_runs[0]["versions"].items())
        print(f"peer: {versions}; {', '.join(sorted({run['form'] for run in peer_runs}))}")
    print_origin(result)
