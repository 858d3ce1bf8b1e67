"""Arguments that several commands share: config keys, among them the flags of the field's public code, and the engine.

What computing in 8 bits does to the descriptors is said here too, before they are relied on.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mindloc.errors import ConfigError
from mindloc.inference.build import EngineRequest
from mindloc.inference.mindir import read_key
from mindloc.registry import ENGINES
from mindloc.vocabulary import SideName

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
    "--drone_size_px": ("data.query_size_px", None),
    "--satellite_size_px": ("data.reference_size_px", None),
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

# values that a flag takes with commas between: --gpu_ids 0,1 --drone_size_px 384,512 (height, width)
_LISTS = ("run.device_ids", "data.query_size_px", "data.reference_size_px")

# one root has training and test pairs, as in the public code, also where a config has two
_ALSO_SETS = {"data.root": ["data.test_root=null", "data.test_map_px=null", "data.test_m_per_px=null"]}


class _SetKey(argparse.Action):
    """Append ``key=value`` to the overrides, in the order in which flags and --set stand on the command line."""

    def __init__(self, option_strings: Sequence[str], dest: str, key: str, constant: str | None, **kwargs):
        super().__init__(option_strings, dest, nargs=None if constant is None else 0, **kwargs)
        self.key, self.constant = key, constant

    def __call__(self, parser, namespace, values, option_string=None):
        value = values if self.constant is None else self.constant
        if self.key in _LISTS and not value.startswith("["):
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
        word = "D2S|S2D" if flag == "--query_mode" else key.rpartition(".")[2].upper()
        metavar = {} if constant is not None else {"metavar": word}
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


# field of EngineRequest that only some engines read -> its flag
_OPTION_FLAGS = {"key": "--dec_key_file", "tensorrt": "--tensorrt", "allow_cpu_provider": "--allow_cpu_provider"}
_OF_FILES = " and ".join(name for name, entry in ENGINES.items() if entry.file_format)


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """--engine, what it runs and how; read them by ``engine_request``."""
    precisions = dict.fromkeys(name for entry in ENGINES.values() for name in entry.precisions)
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights of a training run")
    parser.add_argument("--engine", choices=ENGINES, default="mindspore", help="default: mindspore")
    parser.add_argument(
        "--exported",
        type=Path,
        metavar="PATH",
        help=f"exported file, or directory of such, for --engine {_OF_FILES}; enough without a checkpoint; "
        "default: export/ of the checkpoint's run",
    )
    parser.add_argument(
        "--precision",
        choices=precisions,
        help="default: the training's, of exported files fp32; int8: fp32 files on CPUs, quantized while loading",
    )
    parser.add_argument("--dec_key_file", type=Path, metavar="FILE", help="key of an encrypted MINDIR file")
    parser.add_argument("--tensorrt", action="store_true", help="onnx on GPU: TensorRT instead of CUDA")
    parser.add_argument(
        "--allow_cpu_provider", action="store_true", help="onnx: continue with the CPU where the GPU's provider fails"
    )
    parser.add_argument("--pca", type=Path, metavar="FILE", help="reduce the recall descriptors by this file of pca")


def add_view_argument(parser: argparse.ArgumentParser, default: SideName) -> None:
    """--view, by the words of the data that the encoder was trained on."""
    parser.add_argument(
        "--view", help=f"what the images show, such as drone or satellite; default: what the {default} side does"
    )


def engine_request(args: argparse.Namespace) -> EngineRequest:
    """What the arguments request.

    Raises:
        ConfigError: they contradict each other.
        ExportError: the key can't be read.
    """
    _check_engine(args)
    return EngineRequest(
        engine=args.engine,
        checkpoint=args.checkpoint,
        exported=args.exported,
        precision=args.precision,
        key=None if args.dec_key_file is None else read_key(args.dec_key_file),
        tensorrt=args.tensorrt,
        allow_cpu_provider=args.allow_cpu_provider,
        pca=args.pca,
    )


def _check_engine(args: argparse.Namespace) -> None:
    engine = ENGINES[args.engine]
    if engine.file_format is None and args.checkpoint is None:
        raise ConfigError(f"no --checkpoint FILE was given; only --engine {_OF_FILES} go without, by --exported PATH")
    if args.checkpoint is None and args.exported is None:
        raise ConfigError(f"--engine {args.engine} needs --exported PATH, or a --checkpoint whose export/ has them")
    if args.precision and args.precision not in engine.precisions:
        choices = ", ".join(engine.precisions)
        raise ConfigError(f"--precision {args.precision} is not for --engine {args.engine}, which has {choices}")
    unfit = ["--exported"] if args.exported and engine.file_format is None else []
    unfit += [
        flag
        for option, flag in _OPTION_FLAGS.items()
        if getattr(args, flag.removeprefix("--")) and option not in engine.options
    ]
    if unfit:
        raise ConfigError(
            f"{', '.join(unfit)} means nothing to --engine {args.engine}; leave it out or name the engine"
        )
