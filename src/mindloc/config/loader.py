"""YAML to ``Config`` and back; never silent."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mindloc.config.schema import Config, with_set
from mindloc.config.unread import refuse_unread_keys
from mindloc.errors import ConfigError, one_line


def load_config(path: str | Path | None = None, overrides: Sequence[str] = (), of_run: bool = False) -> Config:
    """The configuration of one experiment: defaults, then the file, then ``key=value`` overrides in order.

    Args:
        path: YAML file; None means the defaults.
        overrides: like ``["train.epochs=3"]``; the value is parsed as YAML.
        of_run: the file is what a run wrote of itself: an override may leave unread what it says, and only what
            overrides name has to be read by something.

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown, a value has the wrong type or is out of range,
            values contradict each other, or nothing reads one.
    """
    tree, written = {} if path is None else _read_yaml(Path(path)), _parsed(overrides)
    config = config_from_dict(with_set(tree, written))
    refuse_unread_keys(config, [key for key, _ in written] if of_run else None)
    return config


def override_config(config: Config, overrides: Sequence[str]) -> Config:
    """The same config with ``key=value`` overrides applied in order.

    Raises:
        ConfigError: as ``load_config``, but that of keys nothing reads.
    """
    return config_from_dict(with_set(config.model_dump(), _parsed(overrides)))


def config_from_dict(tree: dict[str, Any]) -> Config:
    """A ``Config`` from a nested dict such as a checkpoint carries.

    Raises:
        ConfigError: as ``load_config``, but that of keys nothing reads.
    """
    return Config.model_validate(tree)


def config_to_dict(config: Config) -> dict[str, Any]:
    """Nested dict of plain values, fit for YAML and JSON; ``config_from_dict`` is its inverse."""
    return config.model_dump(mode="json")


def dump_yaml(config: Config) -> str:
    return yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"config file {path} is missing; the shipped ones are under configs/") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"config file {path} can't be read as YAML: {one_line(error)}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"config file {path} contains a {type(tree).__name__}; expected sections such as 'train:'")
    return tree


def _parsed(overrides: Sequence[str]) -> list[tuple[str, Any]]:
    return [_parsed_override(override) for override in overrides]


def _parsed_override(override: str) -> tuple[str, Any]:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override {override!r} is not of the form section.key=value")
    try:
        return key, yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not YAML: {one_line(error)}") from None
