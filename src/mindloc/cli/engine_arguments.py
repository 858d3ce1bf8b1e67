"""The arguments that name an engine: a checkpoint on MindSpore, or exported files on MindSpore or ONNX Runtime."""

import argparse
from pathlib import Path

from mindloc.errors import ConfigError
from mindloc.inference.build import EngineWish
from mindloc.inference.mindir_file import read_key

PRECISIONS = {
    "mindspore": ("fp32", "fp16", "bf16"),
    "mindir": ("fp32", "fp16", "bf16"),
    "onnx": ("fp32", "fp16", "int8"),
}


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
    parser.add_argument("--pca", type=Path, metavar="FILE", help="reduce the recall descriptors by this file of pca")


def engine_wish(args: argparse.Namespace) -> EngineWish:
    """What the arguments ask for.

    Raises:
        ConfigError: they contradict each other.
        ExportError: the key can't be read.
    """
    _check(args)
    return EngineWish(
        engine=args.engine,
        checkpoint=args.checkpoint,
        exported=args.exported,
        precision=args.precision,
        key=None if args.dec_key_file is None else read_key(args.dec_key_file),
        tensorrt=args.tensorrt,
        allow_cpu_provider=args.allow_cpu_provider,
        pca=args.pca,
    )


def _check(args: argparse.Namespace) -> None:
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
