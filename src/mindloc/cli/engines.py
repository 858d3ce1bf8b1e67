"""The engine that a command runs: a checkpoint on MindSpore, or exported files on MindSpore or ONNX Runtime."""

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindloc.cli.export import default_folder
from mindloc.config import config_from_dict
from mindloc.config.schema import Config
from mindloc.errors import ConfigError, ExportError
from mindloc.inference.agreement import Agreement, compare_engines
from mindloc.inference.engine import Engine
from mindloc.inference.exported import AbsentError, ExportedFile, find_exported
from mindloc.runtime.checkpoint import Weights, load_weights
from mindloc.runtime.device import check_mindspore, use_device

AGREEMENT_PICTURES = 8  # of each view, on which int8 is compared with fp32 before it is used
FORMATS = {"mindir": "MINDIR", "onnx": "ONNX"}
PRECISIONS = {
    "mindspore": ("fp32", "fp16", "bf16"),
    "mindir": ("fp32", "fp16", "bf16"),
    "onnx": ("fp32", "fp16", "int8"),
}


@dataclass
class Source:
    """What the encoder comes from, read once."""

    config: Config  # as training left it
    weights: Weights | None  # of the mindspore engine
    files: dict[str, ExportedFile]  # of the others, by view


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights of a training run")
    parser.add_argument("--engine", choices=PRECISIONS, default="mindspore", help="default: mindspore")
    parser.add_argument(
        "--exported",
        type=Path,
        metavar="PATH",
        help="exported file, or folder of such, for --engine mindir and onnx; enough without a checkpoint; "
        "default: export/ of the checkpoint's run",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "bf16", "int8"),
        help="default: the training's, of exported files fp32; int8: the onnx engine on CPUs, quantized while loading",
    )
    parser.add_argument("--dec_key_file", type=Path, metavar="FILE", help="key of an encrypted MINDIR file")
    parser.add_argument("--tensorrt", action="store_true", help="onnx on GPU: TensorRT instead of CUDA")
    parser.add_argument(
        "--allow_cpu_provider", action="store_true", help="onnx: go on with the CPU where the GPU's provider is absent"
    )


def read_source(args: argparse.Namespace, views: Sequence[str]) -> Source:
    """Read the checkpoint, or the cards of the exported files that encode ``views``.

    Raises:
        ConfigError: arguments that contradict each other.
        CheckpointError, ExportError: what they name is missing or damaged, or does not belong together.
    """
    _check_arguments(args)
    if args.engine == "mindspore":
        weights = load_weights(args.checkpoint)
        return Source(config_from_dict(weights.config), weights, {})
    checkpoint_sha256 = None if args.checkpoint is None else load_weights(args.checkpoint).sha256
    from mindloc.inference.build import exported_config

    files = _find(args, views)
    return Source(exported_config(files, checkpoint_sha256), None, files)


def start_engine(args: argparse.Namespace, source: Source, config: Config) -> Engine:
    """The engine, on the device of ``config.run``; says on the console what computes where.

    Raises:
        DeviceError: the device, the library or the precision is not to be had here.
        CheckpointError, ExportError: weights or files that are not what they say.
    """
    check_mindspore()
    run = config.run
    if args.engine == "onnx":
        use_device("CPU")  # MindSpore only reads the pictures
        return _start_onnx(args, source.files, config)
    device = use_device(run.device_target, run.device_ids[0])
    print(f"device: {device.description}")
    from mindloc.inference.build import load_engine, load_mindir_engine, require_inputs, require_precision

    if args.engine == "mindspore":
        require_precision(args.precision or config.train.precision, device.target)
        return load_engine(source.weights, config.eval.batch_size, args.precision)[0]
    from mindloc.inference.mindir_file import read_key

    require_inputs(source.files, config)
    key = None if args.dec_key_file is None else read_key(args.dec_key_file)
    engine = load_mindir_engine(source.files, config.eval.batch_size, key)
    print(f"engine: {describe(engine)}")
    return engine


def describe(engine: Engine) -> str:
    facts = engine.facts
    files = sorted({item["file"] for item in facts.get("exported", {}).values()})
    where = f" on {facts['provider']} ({facts['runtime']})" if facts.get("provider") else ""
    return f"{engine.name} {engine.precision}{where}, {', '.join(files)}, batches of at most {engine.batch_size}"


def sample_pictures(
    config: Config, paths: Mapping[str, Sequence[Path]], batch_size: int
) -> Iterator[tuple[str, np.ndarray]]:
    """(view, normalized pictures) of a few real pictures of each view, spread evenly over its list."""
    from mindloc.data.build import build_images

    for view, of_view in paths.items():
        spread = list(of_view)[:: max(1, len(of_view) // AGREEMENT_PICTURES)][:AGREEMENT_PICTURES]
        for image_B3HW, count in build_images(config, view, spread, min(batch_size, len(spread))):
            yield view, image_B3HW[:count]


def measure_agreement(engine: Engine, source: Source, batches: Iterable[tuple[str, np.ndarray]]) -> Agreement | None:
    """How far an int8 engine agrees with the file it was quantized from; None for all others.

    Also put into the engine's facts, which descriptor sets keep.
    """
    if engine.precision != "int8":
        return None
    from mindloc.inference.build import load_onnx_engine
    from mindloc.inference.onnx_file import CPU, Provider

    agreement = compare_engines(load_onnx_engine(source.files, Provider(CPU)), engine, batches)
    engine.agreement = {
        "with": "fp32",
        "pictures": agreement.pictures,
        "cosine_min": agreement.cosine_min,
        "cosine_mean": agreement.cosine_mean,
    }
    print(f"agreement of int8 with fp32: {agreement}")
    return agreement


def _check_arguments(args: argparse.Namespace) -> None:
    own = args.engine == "mindspore"
    if own and args.checkpoint is None:
        raise ConfigError(
            "no --checkpoint FILE was given; only --engine mindir and onnx go without, by --exported PATH"
        )
    if args.checkpoint is None and args.exported is None:
        raise ConfigError(f"--engine {args.engine} needs --exported PATH, or a --checkpoint beside whose run it looks")
    if args.precision and args.precision not in PRECISIONS[args.engine]:
        choices = ", ".join(PRECISIONS[args.engine])
        raise ConfigError(f"--precision {args.precision} is not for --engine {args.engine}, which has {choices}")
    given = {"--exported": args.exported and own, "--dec_key_file": args.dec_key_file and args.engine != "mindir"}
    given |= {"--tensorrt": args.tensorrt and args.engine != "onnx"}
    given |= {"--allow_cpu_provider": args.allow_cpu_provider and args.engine != "onnx"}
    unfit = [flag for flag, wrong in given.items() if wrong]
    if unfit:
        raise ConfigError(
            f"{', '.join(unfit)} means nothing to --engine {args.engine}; leave it out or name the engine"
        )


def _find(args: argparse.Namespace, views: Sequence[str]) -> dict[str, ExportedFile]:
    file_format = FORMATS[args.engine]
    precision = "fp32" if args.precision == "int8" else args.precision
    try:
        return find_exported(args.exported or default_folder(args.checkpoint), file_format, precision, views)
    except AbsentError as error:
        line = f"python export.py --checkpoint {args.checkpoint or 'FILE'} --file_format {file_format}"
        line += "" if precision in (None, "fp32") else f" --precision {precision}"
        line += f" --out {args.exported}" if args.exported is not None and not args.exported.is_file() else ""
        raise ExportError(f"{error}; write it with: {line}") from None


def _start_onnx(args: argparse.Namespace, files: dict[str, ExportedFile], config: Config) -> Engine:
    from mindloc.inference.build import load_onnx_engine, require_inputs
    from mindloc.inference.onnx_file import choose_provider

    require_inputs(files, config)
    int8 = args.precision == "int8"
    target = "CPU" if int8 and config.run.device_target == "auto" else config.run.device_target
    provider = choose_provider(target, config.run.device_ids[0], args.tensorrt, args.allow_cpu_provider)
    if provider.note:
        print(f"note: on the CPU, because {provider.note}")
    engine = load_onnx_engine(files, provider, int8)
    print(f"engine: {describe(engine)}")
    return engine
