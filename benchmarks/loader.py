"""Pictures per second that the loader makes: training with and without random changes, and evaluation.

    python benchmarks/loader.py                              made-up pictures, 512x384 and 256x256 JPEG, to 384 px
    python benchmarks/loader.py --drone "data/X/drone/images/*" --satellite "data/X/satellite/*" --workers 1 2

CPU time per picture is the steadier figure on a machine that others use too: cores * 1000 / (CPU ms) is what the
loader makes when nothing else runs.
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

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # runs from a plain clone

import cv2
import numpy as np

from mindloc.data.augment import AugmentSettings
from mindloc.data.picture_stream import PairStream, ViewFiles
from mindloc.data.pipeline import ImageBatches, train_data
from mindloc.data.sampler import EpochPlan

MEAN = STD = (0.5, 0.5, 0.5)


class RandomPlan:
    """A sampler that asks nothing of the pairs."""

    def __init__(self, steps: int, batch_size: int, pairs: int):
        self._shape, self._pairs = (steps, batch_size), pairs

    def plan(self, epoch: int) -> EpochPlan:
        return EpochPlan(np.random.default_rng(epoch).integers(self._pairs, size=self._shape), report=None)

    def mask(self, pair_G: np.ndarray) -> np.ndarray:
        return np.ones((len(pair_G), len(pair_G)), bool)


def make_pictures(folder: Path, count: int) -> tuple[list[Path], list[Path]]:
    """Drone pictures and tiles with about as many bytes as real aerial ones (0.3 byte per pixel)."""
    random, views = np.random.default_rng(0), []
    for view, (height, width) in {"drone": (384, 512), "satellite": (256, 256)}.items():
        views.append([folder / f"{view}{index}.jpg" for index in range(count)])
        for path in views[-1]:
            image = np.zeros((height, width, 3))
            for scale in (64, 16, 4):
                noise = random.normal(0, 28, (height // scale, width // scale, 3))
                image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(path), np.clip(image + 120, 0, 255).astype(np.uint8))
    return views[0], views[1]


def training(
    drone: list[Path], satellite: list[Path], args: argparse.Namespace, workers: int, settings: AugmentSettings | None
) -> Iterator[int]:
    """Pictures of each batch as it arrives."""
    pairs = min(len(drone), len(satellite))
    stream = PairStream(
        drone=ViewFiles(drone, (args.size, args.size)),
        satellite=ViewFiles(satellite, (args.size, args.size)),
        pair_P2=np.stack([np.arange(pairs)] * 2, axis=1),
        weight_P=np.ones(pairs, np.float32),
        sampler=RandomPlan(args.batches + 1, args.batch_size, pairs),
        settings=settings,
        seed=0,
        workers=workers,
    )
    for batch in train_data(stream, MEAN, STD).dataset.create_tuple_iterator(num_epochs=1):
        yield 2 * len(batch[0])


def evaluation(paths: list[Path], args: argparse.Namespace, workers: int) -> Iterator[int]:
    wanted = [paths[i % len(paths)] for i in range((args.batches + 1) * args.batch_size)]
    for _, count in ImageBatches(wanted, (args.size, args.size), MEAN, STD, args.batch_size, workers):
        yield count


def measure(name: str, workers: int, arriving: Iterator[int]) -> dict:
    """Rates of an iterator of picture counts; its first batch is start-up and only counted as CPU time."""
    cpu_start = time.process_time()
    first = next(arriving)
    start = time.perf_counter()
    counts = list(arriving)
    seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
    return {
        "case": name,
        "workers": workers,
        "images": sum(counts),
        "images_per_s": round(sum(counts) / seconds, 1),
        "cpu_ms_per_image": round(1000 * cpu_s / (first + sum(counts)), 3),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drone", help="glob of drone pictures; default: pictures made up for the purpose")
    parser.add_argument("--satellite", help="glob of tiles")
    parser.add_argument("--size", type=int, default=384, help="input side in pixels (default %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--batches", type=int, default=20, help="batches that are timed per case")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    args = parser.parse_args(argv)
    if bool(args.drone) != bool(args.satellite):
        parser.error("give --drone and --satellite together, or neither")
    with tempfile.TemporaryDirectory() as folder:
        if args.drone:
            drone, satellite = ([Path(p) for p in sorted(glob.glob(g))] for g in (args.drone, args.satellite))
        else:
            drone, satellite = make_pictures(Path(folder), 64)
        if not drone or not satellite:
            parser.error(f"{len(drone)} drone pictures and {len(satellite)} tiles match; expected some of each")
        rows = []
        print(f"{'case':<30}{'workers':>8}{'images/s':>10}{'CPU ms/image':>14}")
        for workers in args.workers:
            cases = {
                "training, whole list": training(drone, satellite, args, workers, AugmentSettings()),
                "training, no random changes": training(drone, satellite, args, workers, None),
                "evaluation, drone pictures": evaluation(drone, args, workers),
                "evaluation, tiles": evaluation(satellite, args, workers),
            }
            for name, arriving in cases.items():
                row = measure(name, workers, arriving)
                rows.append(row)
                print(f"{name:<30}{workers:>8}{row['images_per_s']:>10}{row['cpu_ms_per_image']:>14}", flush=True)
    if args.json:
        settings = {"size_px": args.size, "batch_size": args.batch_size, "cores": os.cpu_count()}
        args.json.write_text(json.dumps({**settings, "cases": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
