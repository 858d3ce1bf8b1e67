"""Conversion between YAML and ``Config``. A value that no chosen part reads is an error."""

import difflib
import json
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml

from mindloc.config.field_types import NameIn, ReadWith
from mindloc.config.messages import section_class, shown
from mindloc.config.schema import Config, with_set
from mindloc.errors import ConfigError, one_line
from mindloc.reading import read_text

SHIPPED = {path.stem: path for path in sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))}
_DEFAULTS = Config()
_MOST_NAMED = 5
_MOST_BYTES = 1 << 20  # of a config file
# sections that may differ from those of the training run; the others describe the encoder
AFTER_TRAINING = ("data", "eval", "search", "run")
_NULL = ("", "~", "null", "Null", "NULL")  # words of YAML

Readers = dict[str, dict[str, list[str]]]  # key -> choice that it depends on -> values of that choice that read it


def load_config(path: str | Path | None = None, overrides: Sequence[str] = (), of_run: bool = False) -> Config:
    """The configuration of one experiment: defaults, then the file, then ``key=value`` overrides in order.

    Args:
        path: YAML file, or the name of a shipped config; None means the defaults.
        overrides: such as ``["train.epochs=3"]``. Values are parsed as YAML. Exception: for a key whose value is text,
            such as a path, the value is taken literally, unless it is null or in quotes.
        of_run: True if a run wrote the file; then only overridden keys are checked for being read.

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown, a value has the wrong type or is out of range,
            values contradict each other, or no part reads a value.
    """
    tree, written = {} if path is None else _read_yaml(experiment_file(path)), _parsed(overrides)
    config = config_from_dict(with_set(tree, written))
    refuse_unread_keys(config, [key for key, _ in written] if of_run else None)
    return config


def experiment_file(named: str | Path) -> Path:
    """The path of the YAML file that a user names: an existing file, or a shipped config by its name.

    Raises:
        ConfigError: there is neither such a file nor such a shipped config.
    """
    path = Path(named)
    if path.exists():
        return path
    if str(named) in SHIPPED:
        return SHIPPED[str(named)]
    if path.stem in SHIPPED:
        raise ConfigError(f"config file {path} is missing; give the shipped config by its name: --config {path.stem}")
    near = difflib.get_close_matches(path.stem, SHIPPED, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ConfigError(f"config {path} is neither a file nor a shipped config; {hint}shipped are {', '.join(SHIPPED)}")


def override_config(config: Config, overrides: Sequence[str], read: Container[str] = ()) -> Config:
    """A copy of the config with ``key=value`` overrides applied in order.

    Args:
        read: keys that the caller reads, whatever the config's choices.

    Raises:
        ConfigError: for the reasons given in ``load_config``; only the overridden keys are checked for being read.
    """
    written = _parsed(overrides)
    changed = config_from_dict(with_set(config.model_dump(), written))
    refuse_unread_keys(changed, [key for key, _ in written], read)
    return changed


def override_after_training(
    config: Config,
    overrides: Sequence[str],
    sections: Sequence[str] = AFTER_TRAINING,
    reason: str = "it is fixed by the checkpoint",
    read: Container[str] = (),
) -> Config:
    """A checkpoint's config with overrides of the sections that may change after training.

    Args:
        sections: names of the sections that may change.
        reason: why keys of other sections may not change, for the message.
        read: see ``override_config``.

    Raises:
        ConfigError: an override is in a different section, or for the reasons given in ``override_config``.
    """
    for key in (override.partition("=")[0] for override in overrides):
        if key.partition(".")[0] not in sections:
            raise ConfigError(f"{key} can't be set here: {reason}; only keys of {', '.join(sections)} can")
    return override_config(config, overrides, read)


def override_for_evaluation(config: Config, overrides: Sequence[str]) -> Config:
    """A checkpoint's config with overrides for an evaluation, which needs every image.

    Raises:
        ConfigError: for the reasons given in ``override_after_training``, or ``data.on_bad_image`` is overridden.
    """
    if any(override.partition("=")[0] == "data.on_bad_image" for override in overrides):
        raise ConfigError(
            "data.on_bad_image can't be set for an evaluation, which needs every image; "
            "repair the images that check-data names"
        )
    return override_after_training(config, overrides)


def config_from_dict(tree: dict[str, Any]) -> Config:
    """A ``Config`` from a nested dict, such as a checkpoint's.

    Raises:
        ConfigError: for the reasons given in ``load_config``, except unread keys.
    """
    return Config.model_validate(tree)


def config_to_dict(config: Config) -> dict[str, Any]:
    """Nested dict of plain values for YAML and JSON; ``config_from_dict`` is its inverse."""
    return config.model_dump(mode="json")


class _Dumper(yaml.SafeDumper):
    """Plain values only; line breaks other than line feeds, such as U+0085, are escaped, else they are lost."""

    def represent_str(self, value: str) -> yaml.ScalarNode:
        style = '"' if any(break_ in value for break_ in "\r\x85\u2028\u2029") else None
        return self.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


def dump_yaml(config: Config) -> str:
    return yaml.dump(config_to_dict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _read_yaml(path: Path) -> dict[str, Any]:
    tree = _yaml(read_text(path, ConfigError, "give a YAML file", "config file", _MOST_BYTES), f"config file {path}")
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"config file {path} contains a {type(tree).__name__}; expected sections such as 'train:'")
    return tree


class _Loader(yaml.SafeLoader):
    """YAML loader for plain values. Duplicate keys are errors, and so are aliases, which can make a small file huge."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(
                None, None, "an alias (*name); write the value out", self.peek_event().start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value]
        for place, (key, _) in enumerate(node.value):
            if key.value in keys[:place]:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} appears twice", key.start_mark)
        return super().construct_mapping(node, deep)


def _yaml(text: str, what: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: an invalid date
        raise ConfigError(f"{what} can't be read as YAML: {one_line(error)[:300]}; correct it there") from None


def _parsed(overrides: Sequence[str]) -> list[tuple[str, Any]]:
    return [_parsed_override(override) for override in overrides]


def _parsed_override(override: str) -> tuple[str, Any]:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(
            f"override {override!r} is not of the form section.key=value; write for example train.epochs=3"
        )
    if _is_text(key) and text not in _NULL and not text.startswith(('"', "'")):
        return key, text  # even if YAML would read it as a number, a comment or a list
    return key, _yaml(text, f"override {override!r}: the value")


def text_override(key: str, text: object) -> str:
    """The override that sets a key to exactly this text, such as a path; see ``load_config``."""
    value = str(text)
    is_plain = value not in _NULL and not value.startswith(('"', "'"))
    return f"{key}={value if is_plain else json.dumps(value, ensure_ascii=False)}"


def _is_text(key: str) -> bool:
    """Whether the value of a key, ``section.name``, is text."""
    section, _, name = key.partition(".")
    field = section_class(Config, section).model_fields.get(name) if section in Config.model_fields else None
    if field is None:
        return False
    is_union = get_origin(field.annotation) in (Union, UnionType)
    kinds = get_args(field.annotation) if is_union else (field.annotation,)
    return any(kind is str or (get_origin(kind) is Annotated and get_args(kind)[0] is str) for kind in kinds)


def refuse_unread_keys(config: Config, written: Iterable[str] | None = None, read: Container[str] = ()) -> None:
    """Check that every value has an effect; one without is a mistake. Values equal to the default are not checked.

    Args:
        written: keys to check, ``section.key`` or a whole section; None: all.
        read: keys not to check.

    Raises:
        ConfigError: no chosen part reads a value. The message names the key, its value, its default, the choice that
            leaves it unread and a choice that reads it.
    """
    checked, readers = None if written is None else set(written), readers_of_keys()
    for key in readers:
        value, default = config.value(key), _DEFAULTS.value(key)
        is_checked = checked is None or checked & {key, key.partition(".")[0]}
        if value != default and is_checked and key not in read and not _is_read(key, config, readers):
            reason = _reason(key, config, readers)
            raise ConfigError(f"config key {key} is {shown(value)}; expected {shown(default)} with {reason}")


def readers_of_keys() -> Readers:
    """For each key that only some choices read: those choices, from registry entries and the schema's ``ReadWith``."""
    found: Readers = defaultdict(lambda: defaultdict(list))
    for key, metadata in _fields():
        for note in metadata:
            if isinstance(note, NameIn):
                for name, entry in note.table.items():
                    for read in entry.reads:
                        found[read][key].append(name)
            elif isinstance(note, ReadWith):
                found[key][note.key] = list(note.values)
    return {key: dict(found[key]) for key, _ in _fields() if key in found}


def _fields() -> Iterator[tuple[str, list[Any]]]:
    for section in Config.model_fields:
        for name, field in section_class(Config, section).model_fields.items():
            yield f"{section}.{name}", field.metadata


def _is_read(key: str, config: Config, readers: Readers) -> bool:
    if key not in readers:
        return True
    return any(config.value(choice) in readers[key][choice] for choice in _deciding(key, config, readers))


def _deciding(key: str, config: Config, readers: Readers) -> list[str]:
    """The choices that decide whether a key is read, leaving out choices that are not read themselves."""
    return [choice for choice in readers[key] if _is_read(choice, config, readers)]


def _reason(key: str, config: Config, readers: Readers) -> str:
    choices = _deciding(key, config, readers)
    settings = " and ".join(f"{choice}={config.value(choice)}" for choice in choices)
    # with two stages several choices can read the key: name the choice whose default reads it
    usual = [choice for choice in choices if _DEFAULTS.value(choice) in readers[key][choice]]
    choice = (usual or choices)[0]
    names = readers[key][choice]
    some = names if len(names) <= _MOST_NAMED else [names[0], f"another of {len(names)}"]
    listed = " or ".join(filter(None, (", ".join(some[:-1]), some[-1])))
    return f"{settings}; set {choice}={listed} to have it read"
