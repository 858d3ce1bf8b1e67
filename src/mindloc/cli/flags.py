"""The flags that users of the field's public code know, and the config key that each one sets."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mindloc.errors import ConfigError

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
    "--query_mode": ("data.query_mode", None),
    "--label_smoothing": ("loss.label_smoothing", None),
    "--with_weight": ("loss.name", "weighted_infonce"),
    "--k": ("loss.k", None),
    "--no_custom_sampling": ("sampling.mode", "random"),
    "--train_ratio": ("data.train_ratio", None),
    "--device_target": ("run.device_target", None),
    "--device_id": ("run.device_ids", None),
    "--gpu_ids": ("run.device_ids", None),
}

# names under which the public code knows our backbones
PUBLIC_MODEL_NAMES = {"vit_base_patch16_rope_reg1_gap_256.sbb_in1k": "base"}

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
        if self.key == "model.backbone":
            value = PUBLIC_MODEL_NAMES.get(value, value)
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
