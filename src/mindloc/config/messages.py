"""Error messages of the config, one line each: key, value, expectation."""

import difflib
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from mindloc.errors import ConfigError

_UNKNOWN = ("extra_forbidden", "invalid_key")


def require(fits: bool, key: str, value: Any, expected: str) -> None:
    """Raise ConfigError with key, value and expectation unless ``fits``."""
    if not fits:
        raise ConfigError(f"config key {key} is {shown(value)}; expected {expected}")


def first_problem(error: ValidationError, tree: Any, model: type[BaseModel]) -> ConfigError:
    """The first problem that pydantic found in ``tree``; unknown names come before wrong values."""
    problem = min(error.errors(include_url=False), key=lambda problem: problem["type"] not in _UNKNOWN)
    loc = problem["loc"]
    if not loc:
        return ConfigError(f"config is {shown(tree)}; expected sections such as 'train:'")
    if problem["type"] in _UNKNOWN:
        return _unknown_key(loc, model)
    if problem["type"] == "model_type":
        return ConfigError(f"config section {loc[0]} is {shown(problem['input'])}; expected key: value lines")
    names = [part for part in loc if isinstance(part, str) and part != "[key]"]
    if len(names) < 2:  # pydantic can't name a key that is not Unicode
        where = " ".join(["section", *names])
        return ConfigError(f"config {where} has a key that is not text; expected key: value lines")
    field, value = _field_at(model, names), _value_at(tree, names)
    key = f"config key {'.'.join(names)} is {shown(value)}"
    if "enum" in field:
        return ConfigError(f"{key}; {_choices(value, field['enum'])}")
    if problem["type"] == "finite_number":
        return ConfigError(f"{key}; expected finite numbers, no inf and no nan")
    hint = _yaml_trap(names, field, value) if isinstance(problem["input"], bool) and "string" in str(field) else ""
    return ConfigError(f"{key}; expected {described(field)}{hint}")


def shown(value: Any) -> str:
    """A value in YAML notation, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{shown(key)}: {shown(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(shown, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    plain = not isinstance(value, str) or (value.isprintable() and value == value.strip() != "")
    return str(value) if plain else repr(value)


def fields_of(model: type[BaseModel], section: str) -> dict[str, dict[str, Any]]:
    """Each key of a section -> its allowed values as a JSON schema, including the text ``field_types.Note.says``."""
    return section_class(model, section).model_json_schema()["properties"]


def section_class(model: type[BaseModel], section: str) -> type[BaseModel]:
    """The class of a section of ``model``."""
    cls: Any = model.model_fields[section].annotation
    return cls


def described(field: dict[str, Any]) -> str:
    """The allowed values of a field in words, such as "a whole number above 0"."""
    if "anyOf" in field:
        words = " or ".join("null" if part.get("type") == "null" else described(part) for part in field["anyOf"])
    elif field["type"] == "array":
        items, length = field.get("prefixItems"), field.get("minItems")
        count = f"{len(items)} " if items else "one or more " if length else ""
        words = f"a list of {count}{_one(items[0] if items else field['items'], plural=True)}"
    elif field["type"] == "object":
        words = f"lines of key: {_one(field['additionalProperties'])}"
    else:
        words = _one(field)
    return f"{words}, {field['says']}" if "says" in field else words


def _one(field: dict[str, Any], plural: bool = False) -> str:
    kind = field["type"]
    if kind not in ("integer", "number"):
        return {"string": "text", "boolean": "true or false"}[kind]
    noun = "whole number" if kind == "integer" else "number"
    return (f"{noun}s" if plural else f"a {noun}") + _limits(field)


def _limits(field: dict[str, Any]) -> str:
    above, least = field.get("exclusiveMinimum"), field.get("minimum")
    below, most = field.get("exclusiveMaximum"), field.get("maximum")
    if least is not None and (below, most) != (None, None):
        return f" from {least:g} to {f'below {below:g}' if most is None else f'{most:g}'}"
    lower = f" of {least:g} or more" if least is not None else f" above {above:g}" if above is not None else ""
    upper = f"at most {most:g}" if most is not None else f"below {below:g}" if below is not None else ""
    return f"{lower}, {upper}" if upper else lower


def _unknown_key(loc: Sequence[Any], model: type[BaseModel]) -> ConfigError:
    *section, name = map(str, loc)
    known = fields_of(model, section[0]) if section else model.model_fields
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {'.'.join([*section, near[0]])}?" if near else f"known here: {', '.join(known)}"
    return ConfigError(f"unknown config key {'.'.join([*section, name])}; {hint}")


def _choices(value: Any, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(value), names, n=1)
    return (f"did you mean {near[0]}? " if near else "") + f"choose from {', '.join(names)}"


def _yaml_trap(names: Sequence[str], field: dict[str, Any], value: Any) -> str:
    off = f", or set {'.'.join(names)}=null to switch it off" if "anyOf" in field and value is False else ""
    return f"; YAML reads on, off, yes and no as true and false: put the word in quotes{off}"


def _field_at(model: type[BaseModel], names: Sequence[str]) -> dict[str, Any]:
    section, key, *inner = names
    field = fields_of(model, section)[key]
    return field["additionalProperties"] if inner else field


def _value_at(tree: Any, names: Sequence[str]) -> Any:
    for name in names:
        tree = tree[name] if isinstance(tree, dict) else getattr(tree, name)
    return tree
