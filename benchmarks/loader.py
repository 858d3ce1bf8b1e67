"""Images per second, processor time and memory of the loader: training with and without augmentation, evaluation.

    python benchmarks/loader.py                              generated images, 512x384 and 256x256 JPEG, to 384 px
    python benchmarks/loader.py --query "data/X/drone/images/*" --reference "data/X/satellite/*" --workers 1 2
    python benchmarks/loader.py --peer PEER/bin/python       also DataLoader with albumentations, in turn

Each row of the table is measured in a process of its own. On a machine that other programs use too, processor time per
image is the more stable figure: with t milliseconds per image, N cores can load N * 1000 / t images per second.
"""

import argparse
import glob
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # runs from a plain clone

import cv2
import numpy as np
from report import add_json_argument, origin, print_origin, print_table, write_json
from turns import (
    PEER,
    add_peer_arguments,
    compare,
    cpu_s,
    memory_mib,
    ratio_cells,
    require_peer,
    run_case,
    take_turns,
)

from mindloc.config.sections import AugmentConfig
from mindloc.data.loader import ImageBatches, PairStream
from mindloc.data.sampler import EpochPlan
from mindloc.vocabulary import SIDES, ViewSpec

TRAINING = "training, all augmentations"
CASES = (TRAINING, "training, no augmentation", "evaluation, queries", "evaluation, references")
IMAGE_SIZES = {"query": (384, 512), "reference": (256, 256)}  # height, width of generated images
PEER_WORKERS = (1, 2, 4)
BEFORE, AFTER = 4, 8  # batches that are not timed: before timing, so that the loader reads ahead, and after it
FIGURES = {"images_per_s": 0, "cpu_ms_per_image": 2, "memory_mib": 0}  # name -> decimals in a table


class RandomPlan:
    """A sampler that draws pairs at random, without any condition."""

    def __init__(self, steps: int, batch_size: int, pairs: int):
        self._shape, self._pairs = (steps, batch_size), pairs

    def wait(self, epoch: int) -> None:
        """Return at once: every epoch can be planned."""

    def plan(self, epoch: int) -> EpochPlan:
        return EpochPlan(np.random.default_rng(epoch).integers(self._pairs, size=self._shape), report=None)

    def mask(self, pair_G: np.ndarray) -> np.ndarray:
        return np.ones((len(pair_G), len(pair_G)), bool)


def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    if args.one:
        print(json.dumps(measure(json.loads(args.one))))
        return
    require_peer(args.peer, ("torch", "albumentations", "cv2"))
    with tempfile.TemporaryDirectory() as directory:
        files = _images(args, Path(directory))
        result = {**origin(), "side_px": args.size, "batch_size": args.batch_size, "batches": args.batches}
        result["cases"] = _alone(files, args)
        if args.peer:
            result["peer"] = _with_peer(files, args)
    print_origin(result)
    write_json(args.json, result)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--query", help="glob of images of the query side; default: generated images")
    parser.add_argument("--reference", help="glob of images of the reference side")
    parser.add_argument("--size", type=int, default=384, help="input side in pixels (default %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--batches", type=int, default=20, help="batches that are timed per case")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cases", nargs="*", choices=CASES, default=CASES, metavar="CASE", help="; ".join(CASES))
    add_peer_arguments(parser)
    parser.add_argument(
        "--peer-workers", type=int, nargs="+", default=PEER_WORKERS, help="numbers of workers that are tried"
    )
    add_json_argument(parser)
    parser.add_argument("--one", help=argparse.SUPPRESS)  # what a child process measures
    args = parser.parse_args(argv)
    if bool(args.query) != bool(args.reference):
        parser.error("give --query and --reference together, or neither")
    return args


def _images(args: argparse.Namespace, directory: Path) -> dict[str, list[str]]:
    if args.query:
        sides = {side: sorted(glob.glob(getattr(args, side))) for side in IMAGE_SIZES}
    else:
        sides = {side: [str(path) for path in paths] for side, paths in make_images(directory, 64).items()}
    if not all(sides.values()):
        sys.exit(f"{len(sides['query'])} query and {len(sides['reference'])} reference images match; expected some")
    return sides


def make_images(directory: Path, count: int) -> dict[str, list[Path]]:
    """Write JPEG files of noise on three scales, with about as many bytes as real aerial images (0.3 per pixel)."""
    random, sides = np.random.default_rng(0), {}
    for side, (height, width) in IMAGE_SIZES.items():
        sides[side] = [directory / f"{side}{index}.jpg" for index in range(count)]
        for path in sides[side]:
            image = np.zeros((height, width, 3))
            for scale in (64, 16, 4):
                noise = random.normal(0, 28, (height // scale, width // scale, 3))
                image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(path), np.clip(image + 120, 0, 255).astype(np.uint8))
    return sides


def _alone(files: dict[str, list[str]], args: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for workers in args.workers:
        for case in args.cases:
            rows.append({"case": case, **run_case(_ours(files, args, case, workers))})
            print(f"{case}, {workers}: done", file=sys.stderr)
    cells = [[row["case"], row["workers"], *(f"{row[figure]:.{d}f}" for figure, d in FIGURES.items())] for row in rows]
    print_table(["case", "workers", "images/s", "processor ms per image", "memory, MiB"], cells)
    return rows


def _with_peer(files: dict[str, list[str]], args: argparse.Namespace) -> dict[str, Any]:
    """Measure both sides with all augmentations, in turn; the peer uses the number of workers that was fastest."""
    trials = [run_case(_peer(files, args, workers)) for workers in args.peer_workers]
    best = max(trials, key=lambda trial: trial["images_per_s"])["workers"]
    ours = _ours(files, args, TRAINING, max(args.workers))
    results, loads = take_turns([ours, _peer(files, args, best)], args.rounds)
    found = {figure: compare(*results, figure, loads) for figure in FIGURES}
    print(f"\n{TRAINING}: {max(args.workers)} threads against DataLoader's {best} workers, {args.rounds} rounds\n")
    titles = {"images_per_s": "images/s", "cpu_ms_per_image": "processor ms per image", "memory_mib": "memory, MiB"}
    print_table(
        ["", "ours", "peer", "ours / peer, median (min to max)"],
        [[titles[figure], *ratio_cells(found[figure], FIGURES[figure])] for figure in FIGURES],
    )
    versions = trials[0]["versions"]
    print(f"\npeer: {', '.join(f'{name} {number}' for name, number in versions.items())}")
    print(
        "trials of the peer: "
        + ", ".join(f"{trial['workers']} workers {trial['images_per_s']:.0f} images/s" for trial in trials)
    )
    return {"workers": best, "trials": trials, "ours": results[0], "peer": results[1], **found}


def _ours(files: dict[str, list[str]], args: argparse.Namespace, case: str, workers: int) -> list[str]:
    request = {**_request_of(files, args, workers), "case": case}
    return [sys.executable, str(Path(__file__).resolve()), "--one", json.dumps(request)]


def _peer(files: dict[str, list[str]], args: argparse.Namespace, workers: int) -> list[str]:
    return [args.peer, str(PEER / "loader.py"), json.dumps(_request_of(files, args, workers))]


def _request_of(files: dict[str, list[str]], args: argparse.Namespace, workers: int) -> dict[str, Any]:
    numbers = {"side_px": args.size, "batch_size": args.batch_size, "workers": workers}
    return {**files, **numbers, "before": BEFORE, "timed": args.batches, "after": AFTER}


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Images per second, processor time per image and memory of one case, while the loader reads ahead."""
    arriving = _arriving(request)
    for _ in range(request["before"]):
        next(arriving)
    started, cpu_started = time.perf_counter(), cpu_s()
    images = sum(next(arriving) for _ in range(request["timed"]))
    seconds, spent_s = time.perf_counter() - started, cpu_s() - cpu_started
    found = {
        "workers": request["workers"],
        "images_per_s": images / seconds,
        "cpu_ms_per_image": 1000 * spent_s / images,
        "memory_mib": memory_mib(),
    }
    arriving.close()
    return found


def _arriving(request: dict[str, Any]) -> Iterator[int]:
    """Yield the number of images of each batch when it arrives."""
    paths = {side: [Path(path) for path in request[side]] for side in SIDES}
    batches, case = request["before"] + request["timed"] + request["after"], request["case"]
    if case.startswith("training"):
        return _training(paths, request, batches, AugmentConfig(enabled=case == TRAINING))
    return _evaluation(paths["query" if case.endswith("queries") else "reference"], request, batches)


def _view(request: dict[str, Any]) -> ViewSpec:
    return ViewSpec("drone", (request["side_px"],) * 2, rotate=True)


def _training(
    paths: dict[str, list[Path]], request: dict[str, Any], batches: int, settings: AugmentConfig
) -> Iterator[int]:
    from mindloc.training.dataset import TrainData

    pairs = min(map(len, paths.values()))
    stream = PairStream(
        views=dict.fromkeys(SIDES, _view(request)),
        paths=paths,
        pair_P2=np.stack([np.arange(pairs)] * 2, axis=1),
        targets={"iou": np.ones(pairs, np.float32)},
        sampler=RandomPlan(batches, request["batch_size"], pairs),
        settings=settings,
        seed=0,
        workers=request["workers"],
    )
    for batch in TrainData(stream).dataset.create_tuple_iterator(num_epochs=1):
        yield 2 * len(batch[0])


def _evaluation(paths: list[Path], request: dict[str, Any], batches: int) -> Iterator[int]:
    size = request["batch_size"]
    repeated = [paths[index % len(paths)] for index in range(batches * size)]
    for _, count in ImageBatches(_view(request), repeated, size, request["workers"]):
        yield count


if __name__ == "__main__":
    main()
