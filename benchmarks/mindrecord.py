"""Whether MindRecord reads or copies faster than picture files: python benchmarks/mindrecord.py [--json result.json].

    python benchmarks/mindrecord.py                           10000 made-up JPEG pictures (0.3 byte per pixel)
    python benchmarks/mindrecord.py --pictures "data/X/satellite/*" --count 10000

The same pictures lie on this disk as files, in a tar and in a MindRecord file (raw bytes, as they are). Files and
MindRecord are read in the same random order, as exclusive sampling asks for, A B A B; a cold case forgets the pages
that the system holds before every run. Copies go to this disk from a folder that stands for an object store: with
--request-ms each object costs that long before its first byte, and --threads objects are fetched at a time.
"""

import argparse
import glob
import itertools
import os
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # runs from a plain clone

import cv2
import mindspore.dataset as ds
import numpy as np
from made_up_pictures import SIZES, made_up_picture
from mindspore.mindrecord import FileWriter
from report import add_json_argument, origin, print_origin, write_json

from mindloc.data.augment import AugmentSettings, augment, draw_augmentation
from mindloc.data.images import Normalization, decode, read_bytes, resize
from mindloc.data.loader import BatchArrays, ImageBatches, ViewFiles
from mindloc.training.dataset import PREFETCH

NORMALIZATION = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def main() -> None:
    args = _parse()
    with tempfile.TemporaryDirectory(dir=args.disk) as folder:
        paths = _pictures(args, Path(folder) / "files")
        packs, seconds = pack(paths, Path(folder))
        files_mb = sum(path.stat().st_size for path in paths) / 1e6
        spent = ", ".join(f"{form} {value:.1f} s" for form, value in seconds.items())
        print(f"{len(paths)} files, {files_mb:.0f} MB; packing: {spent}")
        order = np.random.default_rng(0).permutation(len(paths))
        rows = reading(paths, packs["MindRecord"], order, args)
        share = reading_share(paths, args)
        copies = copying(paths, packs, Path(folder) / "scratch", args)
    result = {**origin(), "files": len(paths), "megabytes": round(files_mb, 1), "pack_s": seconds}
    result |= {"reading": rows, "reading_share": share, "copying": copies}
    print_origin(result)
    write_json(args.json, result)


def pack(paths: list[Path], folder: Path) -> tuple[dict[str, list[Path]], dict[str, float]]:
    """The files of each form, and the seconds that writing them took."""
    start = time.perf_counter()
    writer = FileWriter(str(folder / "pictures.mindrecord"), 1)
    writer.add_schema({"name": {"type": "string"}, "data": {"type": "bytes"}})
    for part in np.array_split(np.array(paths), max(1, len(paths) // 500)):
        writer.write_raw_data([{"name": path.name, "data": path.read_bytes()} for path in part])
    writer.commit()
    middle = time.perf_counter()
    with tarfile.open(folder / "pictures.tar", "w") as tar:
        for path in paths:
            tar.add(path, path.name)
    seconds = {"MindRecord": middle - start, "tar": time.perf_counter() - middle}
    packs = {"MindRecord": sorted(folder.glob("pictures.mindrecord*")), "tar": [folder / "pictures.tar"]}
    return packs, {name: round(value, 2) for name, value in seconds.items()}


def reading(paths: list[Path], record: list[Path], order: np.ndarray, args: argparse.Namespace) -> list[dict]:
    """Rates of both forms in random order, in turn: of undecoded bytes, and of batches as evaluation gets them."""
    some = order[: args.batch_pictures]
    all_files, some_files = ([paths[i] for i in indices] for indices in (order, some))
    cases = {
        "bytes alone": (lambda: file_bytes(all_files, args), lambda: record_bytes(record, order, args), len(order)),
        "batches": (lambda: file_batches(some_files, args), lambda: record_batches(record, some, args), len(some)),
    }
    rows = []
    print(f"random order, median of {args.repeats}; rates in pictures a second, CPU in ms a picture")
    print(f"{'reading':<24}{'files':>8}{'MindRecord':>12}{'ratio':>8}{'CPU files':>12}{'CPU MindRecord':>16}")
    for name, (*pair, count) in cases.items():
        for cold in (False, True):
            found = ([], [])
            for _ in range(args.repeats):
                for run, measured in zip(pair, found, strict=True):
                    forget([*paths, *record]) if cold else None
                    measured.append(measure(run, count))
            rows.append(_row(f"{name}, {'cold' if cold else 'warm'}", *found))
    return rows


def measure(run: Callable[[], Iterator[int]], expected: int) -> dict[str, float]:
    """Pictures a second, opening the data set included, and CPU milliseconds per picture, all threads together."""
    start, cpu_start = time.perf_counter(), time.process_time()
    count = sum(run())
    assert count == expected, f"{count} pictures arrived, expected {expected}"
    seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
    return {"per_s": round(count / seconds, 1), "cpu_ms": round(1000 * cpu_s / count, 3)}


def _row(case: str, files: list[dict], record: list[dict]) -> dict:
    per_s, cpu_ms = ([statistics.median(run[key] for run in runs) for runs in (files, record)] for key in files[0])
    print(f"{case:<24}{per_s[0]:>8.0f}{per_s[1]:>12.0f}{per_s[1] / per_s[0]:>8.2f}{cpu_ms[0]:>12.3f}{cpu_ms[1]:>16.3f}")
    return {"case": case, "ratio": round(per_s[1] / per_s[0], 3), "files": files, "mindrecord": record}


def file_bytes(paths: list[Path], args: argparse.Namespace) -> Iterator[int]:
    """The files' bytes, read by threads as the loader reads them."""
    with ThreadPoolExecutor(args.workers) as pool:
        yield from (1 for _ in pool.map(read_bytes, paths))


def record_bytes(record: list[Path], order: np.ndarray, args: argparse.Namespace) -> Iterator[int]:
    return (1 for _ in _record(record, order, args).create_tuple_iterator(num_epochs=1, output_numpy=True))


def file_batches(paths: list[Path], args: argparse.Namespace) -> Iterator[int]:
    files = ViewFiles(paths, (args.size, args.size))
    return (count for _, count in ImageBatches(files, NORMALIZATION, args.batch_size, args.workers))


def record_batches(record: list[Path], order: np.ndarray, args: argparse.Namespace) -> Iterator[int]:
    """The loader's own operations behind the other source."""
    size_px, arrays = (args.size, args.size), BatchArrays((args.batch_size, 3, args.size, args.size))

    def fill(data: np.ndarray, row: np.ndarray) -> None:
        NORMALIZATION.write(resize(decode(data.view(np.uint8), "record"), size_px), row)

    rows = _record(record, order, args).create_tuple_iterator(num_epochs=1, output_numpy=True)
    with ThreadPoolExecutor(args.workers) as pool:
        while part := [data for (data,) in itertools.islice(rows, args.batch_size)]:
            yield len(list(pool.map(fill, part, arrays.take())))


def _record(record: list[Path], order: np.ndarray, args: argparse.Namespace) -> ds.MindDataset:
    ds.config.set_prefetch_size(PREFETCH)
    sampler = ds.SubsetSampler(order.tolist())
    return ds.MindDataset(str(record[0]), ["data"], num_parallel_workers=args.workers, sampler=sampler)


def forget(paths: list[Path]) -> None:
    """Drop the pages of these files from memory, so that the disk is asked again."""
    os.sync()
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def reading_share(paths: list[Path], args: argparse.Namespace) -> list[dict]:
    """Milliseconds of reading a file, of decoding it and of the random changes (one thread, median picture).

    The first against the sum bounds what any other way of storing the bytes can win for a training.
    """
    cv2.setNumThreads(1)
    some, settings, rows = paths[: min(len(paths), 1000)], AugmentSettings(), []
    print("training, one thread, ms of the median picture")
    for cold in (True, False):
        forget(some) if cold else None
        spent = []
        for index, path in enumerate(some):
            marks = [time.perf_counter()]
            data = read_bytes(path)
            marks.append(time.perf_counter())
            image = decode(data, path)
            marks.append(time.perf_counter())
            augment(image, draw_augmentation(0, 0, index, settings).query, (args.size, args.size))
            spent.append(np.diff([*marks, time.perf_counter()]))
        median = (1000 * np.median(spent, axis=0)).round(3).tolist()
        row = {"cold": cold, **dict(zip(("read", "decode", "augment"), median, strict=True))}
        rows.append(row | {"reading_share": round(median[0] / sum(median), 3)})
        print(f"  {'cold' if cold else 'warm'}: {rows[-1]}", flush=True)
    return rows


def copying(paths: list[Path], packs: dict[str, list[Path]], scratch: Path, args: argparse.Namespace) -> list[dict]:
    """Seconds until the pictures lie on the scratch disk, A B C A B C; the tar's include unpacking."""
    forms = {"files": paths, "tar, unpacked": packs["tar"], "MindRecord": packs["MindRecord"]}
    seconds = {name: [] for name in forms}
    for _ in range(args.repeats):
        for name, objects in forms.items():
            forget(objects)
            seconds[name].append(_copy(objects, scratch, args))
    rows = []
    print(f"{args.threads} objects at a time, {args.request_ms:g} ms before the first byte, median of {args.repeats}")
    print(f"{'copying':<24}{'requests':>10}{'MB':>8}{'seconds':>9}")
    for name, objects in forms.items():
        size = sum(path.stat().st_size for path in objects) / 1e6
        row = {"form": name, "requests": len(objects), "megabytes": size, "seconds": statistics.median(seconds[name])}
        rows.append(row | {"all_seconds": seconds[name]})
        print(f"{name:<24}{row['requests']:>10}{size:>8.0f}{row['seconds']:>9.2f}", flush=True)
    return rows


def _copy(objects: list[Path], scratch: Path, args: argparse.Namespace) -> float:
    scratch.mkdir()

    def fetch(path: Path) -> None:
        time.sleep(args.request_ms / 1000)
        shutil.copyfile(path, scratch / path.name)

    start = time.perf_counter()
    with ThreadPoolExecutor(args.threads) as pool:
        list(pool.map(fetch, objects))
    for path in scratch.glob("*.tar"):
        with tarfile.open(path) as tar:
            tar.extractall(scratch, filter="data")
        path.unlink()
    os.sync()
    seconds = time.perf_counter() - start
    shutil.rmtree(scratch)
    return seconds


def _pictures(args: argparse.Namespace, folder: Path) -> list[Path]:
    """``count`` files in a folder of their own: made-up ones, or the asked ones again and again."""
    folder.mkdir()
    given = [Path(path).read_bytes() for path in sorted(glob.glob(args.pictures))] if args.pictures else _made_up(64)
    if not given:
        raise SystemExit(f"no picture matches {args.pictures}; expected a glob of JPEG or PNG files")
    paths = [folder / f"{index:06d}.jpg" for index in range(args.count)]
    for index, path in enumerate(paths):
        path.write_bytes(given[index % len(given)])
    return paths


def _made_up(count: int) -> list[bytes]:
    random = np.random.default_rng(0)
    pictures = (made_up_picture(random, *SIZES["query"]) for _ in range(count))
    return [cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", help="glob; default: pictures made up for the purpose")
    parser.add_argument("--count", type=int, default=10_000, help="files; fewer pictures are repeated")
    parser.add_argument("--batch-pictures", type=int, default=2000, help="pictures of one run of batches")
    parser.add_argument("--size", type=int, default=384, help="input side in pixels (default %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2, help="threads of the loader")
    parser.add_argument("--repeats", type=int, default=3, help="turns of A B")
    parser.add_argument("--threads", type=int, default=16, help="objects fetched at a time when copying")
    parser.add_argument("--request-ms", type=float, default=0.0, help="made-up latency of one object")
    parser.add_argument("--disk", type=Path, help="folder on the disk to measure; default: the temporary folder")
    add_json_argument(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
