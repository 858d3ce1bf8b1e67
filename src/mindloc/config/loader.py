"""YAML to ``Config`` and back: strict about keys, types and choices, and never silent."""

import dataclasses
import difflib
import types
import typing
from pathlib import Path
from typing import Any, Literal, Union

import yaml

from mindloc.config.check import check_config, check_epochs
from mindloc.config.schema import Config
from mindloc.config.unread_keys import refuse_unread_keys
from mindloc.errors import ConfigError, one_line

# keys of earlier versions, still read from their YAML files, runs and checkpoints: old key -> (key, its value)
RENAMED_KEYS = {"run.device_id": ("run.device_ids", lambda device_id: [device_id])}

# keys of text that one may want off: the word for that
_OFF = {"run.compiler_cache": "none", "model.pretrained": "null", "train.checkpoint_start": "null"}


def load_config(path: str | Path | None = None, overrides: list[str] | None = None, of_run: bool = False) -> Config:
    """The configuration of one experiment: defaults, then the file, then ``key=value`` overrides in order.

    Args:
        path: YAML file; None means the defaults.
        overrides: like ``["train.epochs=3"]``; the value is parsed as YAML.
        of_run: the file is what a run wrote of itself, maybe an earlier version's: only what overrides name has to be
            read by something.

    Raises:
        ConfigError: the file is missing or no YAML, a key is unknown, a value has the wrong type or is out of range,
            values contradict each other, or nothing reads one.
    """
    tree = _read_yaml(Path(path)) if path is not None else {}
    for override in overrides or []:
        _set_override(tree, override)
    config = config_from_dict(tree)
    check_epochs(config)
    refuse_unread_keys(config, [override.partition("=")[0] for override in overrides or []] if of_run else None)
    return config


def override_config(config: Config, overrides: list[str]) -> Config:
    """The same config with ``key=value`` overrides applied in order.

    Raises:
        ConfigError: as ``config_from_dict``.
    """
    tree = config_to_dict(config)
    for override in overrides:
        _set_override(tree, override)
    return config_from_dict(tree)


def config_from_dict(tree: dict[str, Any]) -> Config:
    """A ``Config`` from a nested dict such as a checkpoint carries.

    Raises:
        ConfigError: as ``load_config``, but that of keys nothing reads: earlier versions took them and wrote them down.
    """
    return check_config(_build(Config, _with_present_names(tree), prefix=""))


def config_to_dict(config: Config) -> dict[str, Any]:
    """Nested dict of plain values, fit for YAML and JSON; ``config_from_dict`` is its inverse."""
    return _plain(dataclasses.asdict(config))


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
        raise ConfigError(f"config file {path} holds a {type(tree).__name__}, expected sections such as 'train:'")
    return tree


def _with_present_names(tree: Any) -> Any:
    """The tree with every renamed key under its present name, unless both are there."""
    for old, (new, present) in RENAMED_KEYS.items():
        (section, old_name), new_name = old.split("."), new.rpartition(".")[2]
        held = tree.get(section) if isinstance(tree, dict) else None
        if isinstance(held, dict) and old_name in held and new_name not in held:
            others = {name: value for name, value in held.items() if name != old_name}
            tree = {**tree, section: {**others, new_name: present(held[old_name])}}
    return tree


def _set_override(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override {override!r} is not of the form section.key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is no YAML: {one_line(error)}") from None
    if key in RENAMED_KEYS:  # now, so that it wins over what the tree holds under the present name
        key, present = RENAMED_KEYS[key]
        value = present(value)
    *sections, name = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"override {override!r}: {section!r} is a value, not a section")
    tree[name] = value


def _build(cls: type, tree: Any, prefix: str) -> Any:
    if not isinstance(tree, dict):
        raise ConfigError(f"config section {prefix.rstrip('.')} is {tree!r}, expected key: value lines")
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in tree.items():
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known here: {', '.join(hints)}"
            raise ConfigError(f"unknown config key {prefix}{key}; {hint}")
        values[key] = _convert(value, hints[key], f"{prefix}{key}")
    return cls(**values)


def _convert(value: Any, hint: Any, key: str) -> Any:
    """``value`` as the type that the schema states, or an error that names the key."""
    if dataclasses.is_dataclass(hint):
        return _build(hint, value if value is not None else {}, prefix=f"{key}.")
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return _convert(value, next(arg for arg in args if arg is not type(None)), key)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"config key {key} is {value!r}; choose from {', '.join(map(str, args))}")
        return value
    if origin is tuple:
        return _convert_tuple(value, args, key)
    if origin is list:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"config key {key} is {value!r}, expected a list")
        return [_convert(item, args[0], f"{key}[{i}]") for i, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"config key {key} is {value!r}, expected key: value lines")
        return {str(name): _convert(item, args[1], f"{key}.{name}") for name, item in value.items()}
    return _convert_scalar(value, hint, key)


def _convert_tuple(value: Any, args: tuple, key: str) -> tuple:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"config key {key} is {value!r}, expected a list such as [1, 2]")
    if args[-1] is Ellipsis:
        return tuple(_convert(item, args[0], f"{key}[{i}]") for i, item in enumerate(value))
    if len(value) != len(args):
        raise ConfigError(f"config key {key} has {len(value)} values, expected {len(args)}")
    return tuple(_convert(item, arg, f"{key}[{i}]") for i, (item, arg) in enumerate(zip(value, args, strict=True)))


def _convert_scalar(value: Any, hint: type, key: str) -> Any:
    if hint is float:
        if isinstance(value, str):  # PyYAML reads 1e-3 as a string (YAML 1.1 asks for 1.0e-3)
            try:
                return float(value)
            except ValueError:
                raise ConfigError(f"config key {key} is {value!r}, expected a number") from None
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    elif hint is str and isinstance(value, bool):
        off = f", or set {key}={_OFF[key]} to switch it off" if key in _OFF and not value else ""
        raise ConfigError(
            f"config key {key} is {value}, expected text; YAML reads on, off, yes and no as true and false: put the "
            f"word in quotes{off}"
        )
    elif hint is str and value is not None and not isinstance(value, (dict, list)):
        return str(value)  # a run may be called 7
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ConfigError(f"config key {key} is {value!r}, expected {hint.__name__}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
