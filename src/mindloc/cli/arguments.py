"""The flags that users of the field's public code know, and the config key that each one sets.

The arguments that name an engine: a checkpoint on MindSpore, or exported files on MindSpore or ONNX Runtime.

What computing in 8 bits does to the descriptors, said before they are relied on.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from mindloc.config.schema import Config
from mindloc.errors import ConfigError
from mindloc.inference.build import EngineWish, compare_with_fp32, sample_batches
from mindloc.inference.engine import Engine
from mindloc.inference.mindir import read_key

# flag -> (config key, value when the flag stands alone; None: the flag takes a value)
KNOWN_FLAGS = {
    "--data_root": ("data.root", None),
    "--train_pairs_meta_file": ("data.train_pairs", None),
    "--test_pairs_meta_file": ("data.test_pairs", None),
    "--model": ("model.backbone", None),
    "--no_share_weights": ("model.share_weights", "false"),
    "--lr": ("optimizer.lr", None),
    "--batch_size": ("train.batch_size", None),
    "--epochs": ("train.epochs", None),
    "--epoch": ("train.epochs", None),
    "--checkpoint_start": ("train.checkpoint_start", None),
    "--train_mode": ("data.train_mode", None),
    "--test_mode": ("data.test_mode", None),
    "--query_mode": ("eval.swap_sides", None),
    "--label_smoothing": ("loss.label_smoothing", None),
    "--with_weight": ("loss.name", "weighted_infonce"),
    "--k": ("loss.k", None),
    "--no_custom_sampling": ("sampling.mode", "random"),
    "--train_ratio": ("data.train_ratio", None),
    "--device_target": ("run.device_target", None),
    "--device_id": ("run.device_ids", None),
    "--gpu_ids": ("run.device_ids", None),
}

# key -> words of the public code for our values
PUBLIC_WORDS = {
    "model.backbone": {"vit_base_patch16_rope_reg1_gap_256.sbb_in1k": "base"},
    "eval.swap_sides": {"D2S": "false", "S2D": "true"},  # drone images ask for satellite tiles, or tiles for them
}

# one root holds training and test pairs, as in the public code, also where a config has two
_ALSO_SETS = {"data.root": ["data.test_root=null", "data.test_map_px=null", "data.test_m_per_px=null"]}


class _SetKey(argparse.Action):
    """Append ``key=value`` to the overrides, in the order in which flags and --set stand on the command line."""

    def __init__(self, option_strings: Sequence[str], dest: str, key: str, constant: str | None, **kwargs):
        super().__init__(option_strings, dest, nargs=None if constant is None else 0, **kwargs)
        self.key, self.constant = key, constant

    def __call__(self, parser, namespace, values, option_string=None):
        value = values if self.constant is None else self.constant
        if self.key == "run.device_ids":
            value = f"[{value}]"
        value = PUBLIC_WORDS.get(self.key, {}).get(value, value)
        also = _ALSO_SETS.get(self.key, [])
        namespace.overrides = [*namespace.overrides, f"{self.key}={value}", *also]


class _SetOverride(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        namespace.overrides = [*namespace.overrides, values]


def add_config_arguments(
    parser: argparse.ArgumentParser, flags: Sequence[str] = tuple(KNOWN_FLAGS), with_file: bool = True
) -> None:
    """--set and the known flags as ``args.overrides``, in their order; --config unless the config comes elsewhere."""
    parser.set_defaults(overrides=[])
    if with_file:
        parser.add_argument("--config", type=Path, metavar="YAML", help="experiment; shipped ones are under configs/")
    parser.add_argument(
        "--set", action=_SetOverride, dest="overrides", metavar="KEY=VALUE", help="override one config key; repeatable"
    )
    for flag in flags:
        key, constant = KNOWN_FLAGS[flag]
        text = f"sets {key}" if constant is None else f"sets {key}={constant}"
        metavar = {} if constant is not None else {"metavar": key.rpartition(".")[2].upper()}
        parser.add_argument(flag, action=_SetKey, dest="overrides", key=key, constant=constant, help=text, **metavar)


def refuse_overrides_outside(overrides: Sequence[str], sections: Sequence[str], reason: str) -> None:
    """Raise when an override belongs to another section of the config.

    Raises:
        ConfigError: naming the key and the ``reason``.
    """
    for override in overrides:
        key = override.partition("=")[0]
        if key.partition(".")[0] not in sections:
            raise ConfigError(f"{key} can't be set here: {reason}; only keys of {', '.join(sections)} can")


SIDE_OF = {"drone": "query", "satellite": "reference"}

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


def say_agreement(wish: EngineWish, engine: Engine, config: Config, paths: Mapping[str, Sequence[Path]]) -> None:
    """Print how far an int8 engine agrees with fp32 on a few pictures of each view; of other engines nothing."""
    if wish.precision == "int8":
        agreement = compare_with_fp32(engine, sample_batches(config, paths, engine.batch_size))
        print(f"agreement of int8 with fp32: {agreement}")
