"""Values that the choices made elsewhere in a config leave unread: of another backbone, loss, schedule, ..."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from mindloc.config.field_types import NameIn, ReadWith
from mindloc.config.messages import section_class, shown
from mindloc.config.schema import Config
from mindloc.errors import ConfigError

_DEFAULTS = Config()
_MOST_NAMED = 5

Readers = dict[str, dict[str, list[str]]]  # key -> the choices that it depends on -> which of their values read it


def refuse_unread_keys(config: Config, written: Iterable[str] | None = None) -> None:
    """Refuse a value that has no effect: a mistake of whoever wrote it. Only one that differs from its default is seen.

    Args:
        written: keys, ``section.key``, to look at; None: all.

    Raises:
        ConfigError: naming the key, its value, its default, the choice that leaves it unread and one that would not.
    """
    asked, readers = None if written is None else set(written), readers_of_keys()
    for key in readers:
        value, default = _value(config, key), _value(_DEFAULTS, key)
        looked_at = asked is None or asked & {key, key.partition(".")[0]}
        if value != default and looked_at and not _is_read(key, config, readers):
            reason = _reason(key, config, readers)
            raise ConfigError(f"config key {key} is {shown(value)}; expected {shown(default)} with {reason}")


def readers_of_keys() -> Readers:
    """Of every key that not all choices read, who reads it: by the tables' entries and by the schema's ``ReadWith``."""
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
    return any(_value(config, choice) in readers[key][choice] for choice in _made(key, config, readers))


def _made(key: str, config: Config, readers: Readers) -> list[str]:
    """The choices that decide whether a key is read, without those that are themselves unread."""
    return [choice for choice in readers[key] if _is_read(choice, config, readers)]


def _reason(key: str, config: Config, readers: Readers) -> str:
    choices = _made(key, config, readers)
    made = " and ".join(f"{choice}={_value(config, choice)}" for choice in choices)
    # of two stages each has a loss of its own: the one that has such a loss by default is named
    usual = [choice for choice in choices if _value(_DEFAULTS, choice) in readers[key][choice]]
    choice = (usual or choices)[0]
    names = readers[key][choice]
    some = names if len(names) <= _MOST_NAMED else [names[0], f"another of {len(names)}"]
    listed = " or ".join(filter(None, (", ".join(some[:-1]), some[-1])))
    return f"{made}; set {choice}={listed} to have it read"


def _value(config: Config, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)
