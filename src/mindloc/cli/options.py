"""Options that several commands share: those for config keys, with the flags of public code, and the engine's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial, reduce, wraps
from pathlib import Path

import click

from mindloc.cli.command import PATH, KeyOption
from mindloc.config.loader import text_override
from mindloc.config.meanings import default as default_of
from mindloc.config.meanings import meaning, placeholder
from mindloc.config.schema import OF_TEST_ROOT
from mindloc.errors import ConfigError
from mindloc.inference.build import EngineRequest
from mindloc.inference.mindir import read_key
from mindloc.registry import ENGINES
from mindloc.runtime.checkpoint import resolve_checkpoint
from mindloc.vocabulary import SideName

# flag -> (config key, value of a flag without one; None: the flag takes a value)
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

# key -> word of the public code -> our value
PUBLIC_WORDS = {
    "model.backbone": {"vit_base_patch16_rope_reg1_gap_256.sbb_in1k": "base"},
    "eval.swap_sides": {"D2S": "false", "S2D": "true"},  # the queries are drone images, or satellite tiles
}

# keys whose flag takes values separated by commas: --gpu_ids 0,1 --drone_size_px 384,512 (height, width)
_LISTS = ("run.device_ids", "data.query_size_px", "data.reference_size_px")

# --data_root is the root of training and test pairs, as in the public code, even if the config has two roots
_ALSO_SETS = {"data.root": [f"{key}=null" for key in OF_TEST_ROOT]}

CHECKPOINT = "a run directory, for its best weights, or a weights file"  # help of the option

Decorator = Callable[[Callable], Callable]


def key_overrides(key: str, text: str) -> list[str]:
    """The overrides of a flag: its key set to the text on the command line, and related keys."""
    if key in _LISTS and not text.startswith("["):
        text = f"[{text}]"
    return [text_override(key, PUBLIC_WORDS.get(key, {}).get(text, text)), *_ALSO_SETS.get(key, [])]


def config_options(flags: Sequence[str] = tuple(KNOWN_FLAGS), of_checkpoint: bool = False) -> Decorator:
    """A decorator that adds --set and the known flags, as ``overrides`` in their order, and --config.

    Args:
        of_checkpoint: True if config and defaults come from a checkpoint; --config is left out then.
    """
    explained = ("any setting, by its key in a config, such as train.seed=2; repeatable", "KEY=VALUE")
    options = [click.option("--set", cls=KeyOption, sets=lambda text: [text], explained=lambda: explained)]
    options += [_flag_option(flag, of_checkpoint) for flag in flags]
    if not of_checkpoint:
        text = "experiment: the name of a shipped config, or a YAML file; default: none"
        options.insert(0, click.option("--config", metavar="NAME", help=text))
    return _together(options)


def _flag_option(flag: str, of_checkpoint: bool) -> Decorator:
    key, constant = KNOWN_FLAGS[flag]

    def explained() -> tuple[str, str]:
        if constant is not None:
            return f"{meaning(key)}; set to {constant}", ""
        word, default = ("D2S|S2D", "D2S") if flag == "--query_mode" else (placeholder(key), default_of(key))
        default = "the checkpoint's" if of_checkpoint else default.replace("null", "none")
        return f"{meaning(key)}; default: {default}", word

    if constant is None:  # click takes is_flag=False for an option whose value may be left out
        return click.option(flag, cls=KeyOption, sets=partial(key_overrides, key), explained=explained)
    return click.option(flag, cls=KeyOption, sets=lambda _: [f"{key}={constant}"], explained=explained, is_flag=True)


def _together(options: Sequence[Decorator]) -> Decorator:
    return lambda function: reduce(lambda decorated, option: option(decorated), reversed(options), function)


# field of EngineRequest that only some engines read -> its flag
_OPTION_FLAGS = {"key": "--dec_key_file", "tensorrt": "--tensorrt", "allow_cpu_provider": "--allow_cpu_provider"}
_OF_FILES = " and ".join(name for name, entry in ENGINES.items() if entry.file_format)
_PRECISIONS = tuple(dict.fromkeys(name for entry in ENGINES.values() for name in entry.precisions))


def _engine(name: str) -> str:
    if name not in ENGINES:
        raise click.BadParameter(f"{name!r} is not one of {', '.join(ENGINES)}")
    return name


_ENGINE_OPTIONS = [
    click.option("--checkpoint", type=PATH, metavar="RUN", help=CHECKPOINT),
    click.option(
        "--engine",
        type=_engine,
        default="mindspore",
        metavar="|".join(ENGINES),
        help="what computes the descriptors; default: mindspore",
    ),
    click.option(
        "--exported",
        type=PATH,
        metavar="PATH",
        help=f"exported file, or directory of exported files, for --engine {_OF_FILES}; replaces --checkpoint; "
        "default: export/ of the checkpoint's run",
    ),
    click.option(
        "--precision",
        type=click.Choice(_PRECISIONS),
        help="of the computation; int8: fp32 files on CPUs, quantized while loading; default: that of the training "
        "run, or fp32 for exported files",
    ),
    click.option("--dec_key_file", type=PATH, metavar="FILE", help="key of an encrypted MINDIR file"),
    click.option("--tensorrt", is_flag=True, help="onnx on GPU: TensorRT instead of CUDA"),
    click.option("--allow_cpu_provider", is_flag=True, help="onnx: use the CPU if the GPU's provider fails"),
    click.option(
        "--pca",
        type=PATH,
        metavar="FILE",
        help="file written by the command pca, to reduce the recall descriptors; default: none",
    ),
]


@dataclass(frozen=True)
class EngineArguments:
    """The command line's arguments for the engine, not checked yet."""

    checkpoint: Path | None
    engine: str
    exported: Path | None
    precision: str | None
    dec_key_file: Path | None
    tensorrt: bool
    allow_cpu_provider: bool
    pca: Path | None

    def request(self) -> EngineRequest:
        """Check the arguments and return what they request.

        Raises:
            ConfigError: the arguments contradict each other.
            ExportError: the key can't be read.
        """
        self._check()
        return EngineRequest(
            engine=self.engine,
            checkpoint=self.checkpoint and resolve_checkpoint(self.checkpoint, print),
            exported=self.exported,
            precision=self.precision,
            key=None if self.dec_key_file is None else read_key(self.dec_key_file),
            tensorrt=self.tensorrt,
            allow_cpu_provider=self.allow_cpu_provider,
            pca=self.pca,
        )

    def _check(self) -> None:
        entry, named = ENGINES[self.engine], f"--engine {self.engine}"
        if entry.file_format is None and self.checkpoint is None:
            raise ConfigError(f"--checkpoint RUN is missing; give it, or --exported PATH with --engine {_OF_FILES}")
        if self.checkpoint is None and self.exported is None:
            raise ConfigError(f"{named} needs --exported PATH, or a --checkpoint whose export/ contains the files")
        if self.precision and self.precision not in entry.precisions:
            choices = ", ".join(entry.precisions)
            raise ConfigError(f"--precision {self.precision} is not supported by {named}; choose from {choices}")
        unfit = ["--exported"] if self.exported and entry.file_format is None else []
        unfit += [
            flag
            for option, flag in _OPTION_FLAGS.items()
            if getattr(self, flag.removeprefix("--")) and option not in entry.options
        ]
        if unfit:
            raise ConfigError(
                f"{', '.join(unfit)} has no effect with {named}; leave it out, or give the --engine that it is for"
            )


def engine_options(function: Callable) -> Callable:
    """Add --engine and the options on what it runs and how, as the argument ``engine``."""
    names = [field.name for field in fields(EngineArguments)]

    @wraps(function)
    def with_engine(**values):
        return function(engine=EngineArguments(**{name: values.pop(name) for name in names}), **values)

    return _together(_ENGINE_OPTIONS)(with_engine)


def view_option(default: SideName) -> Decorator:
    """A decorator that adds --view, whose values are the view names of the training data."""
    text = f"view that the images show, such as drone or satellite; default: that of the {default} side"
    return click.option("--view", help=text)
