"""Compare all engines on the same encoder and images: file size, export time, agreement, images per second.

    python benchmarks/engines.py                                         # a seeded base encoder at 384 px, on the CPU
    python benchmarks/engines.py --checkpoint RUN/checkpoints/weights_best.safetensors
    python benchmarks/engines.py --device_target GPU --precision fp16 --batch_size 64 --images 512 [--tensorrt]

Images are generated from a seed and written as JPEG files. Images per second include reading, decoding, resizing and
encoding, as in `mindloc extract`, after one batch that is not counted. Engines take turns (A B A B), so that other load
of the machine affects all of them. Agreement compares the descriptors of all images with those of the first engine; for
a two-stage encoder (--head two_stage), it is printed for each descriptor. If torch and timm can be imported, timm's
model in PyTorch is measured too, with the same weights, shapes and precision.
"""

import argparse
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import cv2
import numpy as np

from mindloc.config import Config, config_from_dict, config_to_dict, load_config
from mindloc.data.loader import ImageBatches
from mindloc.inference.engine import Engine, compare_descriptors
from mindloc.runtime.checkpoint import Weights, load_weights, save_weights
from mindloc.runtime.device import describe_machine, use_device
from mindloc.runtime.process import usable_cores

SIDE, VIEW = "reference", "satellite"
IMAGE_PX = 512
TIMM_NAMES = {"base": "vit_base_patch16_rope_reg1_gap_256"}


@dataclass
class Entry:
    """An engine and its figures: one row of the table."""

    name: str
    engine: Engine
    load_s: float
    file_mb: float | None = None
    export_s: float | None = None
    images_per_s: list[float] = field(default_factory=list)
    descriptors: dict[str, np.ndarray] = field(default_factory=dict)  # (N, D) of each


def main() -> None:
    args = _parse()
    device = use_device("CPU" if args.onnx_only else args.device_target, args.device_id, operator_fusion="auto")
    with tempfile.TemporaryDirectory(prefix="mindloc-engines-") as directory:
        checkpoint = args.checkpoint or _seeded_checkpoint(Path(directory), args)
        paths = _images(Path(directory) / "images", args.images)
        entries, config = _entries(checkpoint, Path(directory), args, device.target)
        for entry in entries:  # a first batch, so that compiling is not counted
            _extract(entry.engine, config, paths[: args.batch_size])
        for _ in range(args.rounds):
            for entry in entries:
                started = time.perf_counter()
                entry.descriptors = _extract(entry.engine, config, paths)
                entry.images_per_s.append(len(paths) / (time.perf_counter() - started))
        print(_table(entries))
        size = "x".join(map(str, config.view(SIDE).size_px))
        print(
            f"\n{config.model.backbone}, head {config.head.name}, {size} px, batches of {args.batch_size}, "
            f"{len(paths)} images, {args.rounds} rounds in turn, seed {args.seed}; {describe_machine()}, "
            f"{time.strftime('%Y-%m-%d')}"
        )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="default: an untrained encoder with seeded weights")
    parser.add_argument("--backbone", default="base")
    parser.add_argument("--head", choices=("global", "two_stage"), default="global")
    parser.add_argument("--size_px", type=int, default=384)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp32")
    parser.add_argument("--device_target", choices=("CPU", "GPU"), default="CPU")
    parser.add_argument("--device_id", type=int, default=0)
    parser.add_argument("--onnx_only", action="store_true", help="leave out MindSpore's engines; needs no GPU plugin")
    parser.add_argument("--tensorrt", action="store_true")
    return parser.parse_args()


def _seeded_checkpoint(directory: Path, args: argparse.Namespace) -> Path:
    from mindloc.models.build import build_encoder

    sizes = [f"data.{side}_size_px=[{args.size_px}, {args.size_px}]" for side in ("query", "reference")]
    names = [f"model.backbone={args.backbone}", f"head.name={args.head}", f"train.seed={args.seed}"]
    config = load_config(overrides=[*names, *sizes])
    random = np.random.default_rng(args.seed)
    arrays = {}
    for name, parameter in build_encoder(config).parameters_and_names():
        spread = 0.02 if parameter.ndim > 1 else 0.0  # noise on the start weights, so that every block has an effect
        arrays[name] = parameter.asnumpy() + spread * random.standard_normal(parameter.shape, np.float32)
    save_weights(directory / "weights.safetensors", arrays, config_to_dict(config))
    return directory / "weights.safetensors"


def _images(directory: Path, count: int) -> list[Path]:
    random = np.random.default_rng(0)
    directory.mkdir()
    paths = [directory / f"{index}.jpg" for index in range(count)]
    for path in paths:
        small = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        cv2.imwrite(str(path), cv2.resize(small, (IMAGE_PX, IMAGE_PX), interpolation=cv2.INTER_CUBIC))
    return paths


def _entries(checkpoint: Path, directory: Path, args: argparse.Namespace, target: str) -> tuple[list[Entry], Config]:
    """The loaded engines, the most exact one first, and the config of the checkpoint."""
    from mindloc.inference.build import load_engine
    from mindloc.inference.mindir import load_mindir_engine
    from mindloc.inference.onnx import choose_provider, load_onnx_engine

    weights, precision, batch = load_weights(checkpoint), args.precision, args.batch_size
    entries = []
    made = _export(checkpoint, directory, "ONNX", args, target)
    provider = choose_provider(args.device_target, args.device_id, args.tensorrt)
    where = provider.name.removesuffix("ExecutionProvider")
    if not args.onnx_only:
        entries.append(_timed(f"mindspore {precision}", lambda: load_engine(weights, batch, precision)[0]))
        mindir = _export(checkpoint, directory, "MINDIR", args, target)
        entries.append(_timed(f"mindir {precision}", lambda: load_mindir_engine(mindir.files, batch), mindir))
    entries.append(_timed(f"onnx {precision}, {where}", lambda: load_onnx_engine(made.files, provider), made))
    if args.device_target == "CPU" and precision == "fp32":
        entries.append(_timed("onnx int8, CPU", lambda: load_onnx_engine(made.files, provider, True), made))
        entries[-1].file_mb = entries[-1].export_s = None  # quantized while loading
    torch_engine = _torch_engine(weights, args)
    if torch_engine is not None:
        entries.append(Entry(f"PyTorch {precision}", torch_engine, 0.0))
    return entries, config_from_dict(weights.config).with_values({"data.workers": len(usable_cores())})


@dataclass
class _Made:
    files: dict
    seconds: float
    megabytes: float


def _export(checkpoint: Path, directory: Path, file_format: str, args: argparse.Namespace, target: str) -> _Made:
    from mindloc.export.build import ExportRequest, export_checkpoint
    from mindloc.inference.exported import read_card

    started = time.perf_counter()
    request = ExportRequest(file_format, VIEW, args.batch_size, args.precision)
    (exported,) = export_checkpoint(checkpoint, directory, request, target)
    seconds = time.perf_counter() - started
    gc.collect()
    return _Made({SIDE: read_card(exported.path)}, seconds, exported.path.stat().st_size / 1e6)


def _timed(name: str, load: Callable[[], Engine], made: _Made | None = None) -> Entry:
    started = time.perf_counter()
    engine = load()
    seconds = time.perf_counter() - started
    return Entry(name, engine, seconds, made and made.megabytes, made and made.seconds)


def _extract(engine: Engine, config: Config, paths: list[Path]) -> dict[str, np.ndarray]:
    batches = ImageBatches(config.view(SIDE), paths, engine.batch_size, config.data.workers)
    encoded = [engine.encode({SIDE: images[:count]}) for images, count in batches]
    return {name: np.concatenate([batch[f"{SIDE}.{name}"] for batch in encoded]) for name in engine.descriptors}


class TorchEngine:
    """An engine that runs timm's model in PyTorch, with autocast for fp16."""

    name, descriptors = "pytorch", ("global",)

    def __init__(self, model, device: str, precision: str, batch_size: int):
        self.model, self.device, self.precision, self.batch_size = model, device, precision, batch_size

    def encode(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        import torch

        half = self.precision == "fp16"
        with torch.inference_mode(), torch.autocast(self.device.split(":")[0], torch.float16, enabled=half):
            found = {side: self.model(torch.from_numpy(images).to(self.device)) for side, images in batch.items()}
        return {f"{side}.global": descriptor.float().cpu().numpy() for side, descriptor in found.items()}


def _torch_engine(weights: Weights, args: argparse.Namespace) -> TorchEngine | None:
    try:
        import timm
        import torch
    except ModuleNotFoundError as missing:
        print(f"no PyTorch in the table: {missing.name} is not installed", file=sys.stderr)
        return None
    settings = weights.config["model"]
    if settings["backbone"] not in TIMM_NAMES or weights.config.get("head", {}).get("name", "global") != "global":
        return None
    model = timm.create_model(TIMM_NAMES[settings["backbone"]], num_classes=0, img_size=args.size_px)
    prefix = "backbone." if settings["share_weights"] else f"{SIDE}_backbone."
    ours = {name.removeprefix(prefix): array for name, array in weights.arrays.items() if name.startswith(prefix)}
    model.load_state_dict({name: torch.from_numpy(array) for name, array in ours.items()}, strict=False)
    device = "cpu" if args.device_target == "CPU" else f"cuda:{args.device_id}"
    torch.set_num_threads(len(usable_cores()))
    return TorchEngine(model.eval().to(device), device, args.precision, args.batch_size)


def _table(entries: list[Entry]) -> str:
    lines = [
        "| engine | file | export | load | images/s, each round | cosine to the first, min | mean | max difference |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for entry in entries:
        near = _agreement(entries[0], entry)
        rounds = ", ".join(f"{speed:.2f}" for speed in entry.images_per_s)
        size = "-" if entry.file_mb is None else f"{entry.file_mb:.0f} MB"
        export = "-" if entry.export_s is None else f"{entry.export_s:.0f} s"
        cells = [entry.name, size, export, f"{entry.load_s:.1f} s", rounds, *near]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _agreement(first: Entry, entry: Entry) -> list[str]:
    """Three cells: lowest cosine, mean cosine, largest difference; with several descriptors, the values of each."""
    if entry is first:
        return ["-"] * 3
    values = []
    for name, descriptor_ND in entry.descriptors.items():
        found = compare_descriptors((first.descriptors[name], descriptor_ND))
        title = f"{name} " if len(entry.descriptors) > 1 else ""
        numbers = (f"{found.cosine_min:.7f}", f"{found.cosine_mean:.7f}", f"{found.largest_difference:.1e}")
        values.append([title + number for number in numbers])
    return [", ".join(cell) for cell in zip(*values, strict=True)]


if __name__ == "__main__":
    main()
