"""Time and memory of a training step with the batch in parts: python benchmarks/grad_cache.py [--json result.json].

Training steps on noise, built as in train.py, with the whole batch, with parts that share no negatives
(train.accumulate), and with parts that share negatives (train.grad_cache). Each measurement is a process of its own, in
turn. First steps, which compile, are reported separately. A large batch on a small machine:

    python benchmarks/grad_cache.py --case small:224:256 --parts 64 --ways cached --runs 1 --rounds 1
"""

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # runs from a plain clone

from encoder_cases import Case, add_fusion_argument
from report import add_json_argument, origin, print_origin, print_table, write_json
from train_step import LEARNING_RATE, batch_of
from turns import peak_mib, take_turns

WAYS = {"whole": "whole batch", "parts": "parts", "cached": "parts that share negatives"}


def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    if args.one:
        print(json.dumps(measure(args.case, args.one, args.parts, args.runs)))
        return
    result = {**origin(), **asdict(args.case), "parts": args.parts, "runs": args.runs, "rounds": args.rounds}
    results, result["loads"] = take_turns([_command(way, args) for way in args.ways], args.rounds)
    result["ways"] = {way: _summary(runs) for way, runs in zip(args.ways, results, strict=True)}
    _print(result, args)
    write_json(args.json, result)


def measure(case: Case, way: str, parts: int, runs: int) -> dict[str, Any]:
    """Seconds of the first step and of ``runs`` further steps, the peak memory, and the loss of the first step."""
    case.use_device()

    import mindspore as ms
    from mindspore import Tensor

    from mindloc.losses.criterion import build_criterion
    from mindloc.models.build import build_encoder
    from mindloc.training.optimizer import AdamW
    from mindloc.training.step import TrainStep

    accumulate = 1 if way == "whole" else parts
    config = case.config().with_values({"train.accumulate": accumulate, "train.grad_cache": way == "cached"})
    encoder = build_encoder(config)
    optimizer = AdamW(encoder.trainable_params(), config.optimizer)
    step = TrainStep(encoder, build_criterion(config), optimizer, config.train).set_train(True)
    batch = batch_of(case)
    ms.ops.assign(step.lr, Tensor(LEARNING_RATE, ms.float32))
    seconds, losses = [], []
    for _ in range(runs + 1):
        started = time.perf_counter()
        losses.append(float(step(*batch)[0].asnumpy()))
        seconds.append(time.perf_counter() - started)
    return {"first_s": seconds[0], "seconds": seconds[1:], "peak_mib": peak_mib(), "loss": losses[0]}


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Case("compact", 128, 32)
    parser.add_argument(
        "--case", type=Case.parse, default=default, metavar="BACKBONE:PIXELS:BATCH", help="BATCH counts pairs"
    )
    add_fusion_argument(parser)
    parser.add_argument("--parts", type=int, default=4, help="number of parts of the batch (default %(default)s)")
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=list(WAYS))
    parser.add_argument("--runs", type=int, default=3, help="timed steps of each process (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="processes per way, in turn (default %(default)s)")
    add_json_argument(parser)
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)  # what a child process measures
    args = parser.parse_args(argv)
    args.case = replace(args.case, fusion=args.fusion)
    return args


def _command(way: str, args: argparse.Namespace) -> list[str]:
    case = f"{args.case.backbone}:{args.case.side_px}:{args.case.batch_size}"
    counts = ["--parts", str(args.parts), "--runs", str(args.runs)]
    words = ["--one", way, "--case", case, "--fusion", args.fusion, *counts]
    return [sys.executable, str(Path(__file__).resolve()), *words]


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "median_s": statistics.median(second for run in runs for second in run["seconds"]),
        "first_s": statistics.median(run["first_s"] for run in runs),
        "peak_mib": max(run["peak_mib"] for run in runs),
        "runs": runs,
    }


def _print(result: dict[str, Any], args: argparse.Namespace) -> None:
    whole = result["ways"].get("whole")
    rows = []
    for way, found in result["ways"].items():
        ratio = f"{found['median_s'] / whole['median_s']:.2f}" if whole else "-"
        seconds = [f"{found['median_s']:.2f}", ratio, f"{found['first_s']:.1f}"]
        rows.append([WAYS[way], *seconds, f"{found['peak_mib']:.0f}", f"{found['runs'][0]['loss']:.6f}"])
    titles = ["", "seconds per step", "ratio to the whole batch", "first step, s", "peak memory, MiB", "first loss"]
    print_table(titles, rows)
    print(f"\n{args.case} pairs, {args.parts} parts, fusion {args.fusion}")
    print(f"medians of {args.rounds} processes of {args.runs} steps each")
    print_origin(result)


if __name__ == "__main__":
    main()
