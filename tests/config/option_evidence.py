"""Which options tests and shipped configs set, and to what: read from their sources, nothing is run.

That an option is written down somewhere with such a value is all that this can show; whether it has its effect is for
the test that sets it.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mindloc.cli.arguments import KNOWN_FLAGS
from mindloc.config import config_to_dict
from mindloc.config.schema import Config

PROJECT = Path(__file__).parents[2]
DEFAULTS = {
    f"{section}.{key}": value for section, keys in config_to_dict(Config()).items() for key, value in keys.items()
}
UNKNOWN = object()  # a value that only running the test would tell

# here keys are read, compared and refused, and none has its effect
ABOUT_KEYS = ("tests/config/", "tests/training/test_graph_facts.py", "tests/cli/test_flags.py")


def settings() -> Iterator[tuple[str, Any, set[str]]]:
    """(section.key, the value or UNKNOWN, words that an unknown value may be) for every setting that is written down.

    The words are the text constants of the function that sets the key, parameters of a test included, of the module's
    constants that it names, and of the functions of that file that name it.
    """
    for path in sorted((PROJECT / "configs").glob("*.yaml")):
        for key, value in _of_yaml(path.read_text(encoding="utf-8")):
            yield key, value, set()
    for path in _test_files():
        parts = [_Part(node) for node in ast.parse(path.read_text(encoding="utf-8")).body]
        for part in parts:
            words = _words_around(part, parts)
            for key, value in _of_code(part.node):
                yield key, value, words


class _Part:
    """A statement of a module: a function, a class, a constant."""

    def __init__(self, node: ast.stmt):
        self.node, self.names, self.words, self.defines = node, set(), set(), set()
        for inner in ast.walk(node):
            if _is_text(inner):
                self.words.add(inner.value)
            elif isinstance(inner, (ast.Name, ast.arg)):
                self.names.add(inner.id if isinstance(inner, ast.Name) else inner.arg)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            self.defines = {node.name}
        elif isinstance(node, ast.Assign):
            self.defines = {target.id for target in node.targets if isinstance(target, ast.Name)}


def _words_around(part: _Part, parts: list[_Part]) -> set[str]:
    constants = (other for other in parts if isinstance(other.node, ast.Assign) and other.defines & part.names)
    callers = (other for other in parts if other.names & part.defines)
    return part.words.union(*(other.words for other in (*constants, *callers)))


def _test_files() -> list[Path]:
    files = sorted((PROJECT / "tests").rglob("*.py"))
    return [path for path in files if not path.relative_to(PROJECT).as_posix().startswith(ABOUT_KEYS)]


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _of_code(part: ast.stmt) -> Iterator[tuple[str, Any]]:
    for node in ast.walk(part):
        if _is_text(node):
            yield from _of_words(node.value)
        elif isinstance(node, ast.JoinedStr):
            yield from _of_f_string(node)
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value in DEFAULTS:
                    yield key.value, _value(value)
        elif isinstance(node, (ast.List, ast.Tuple, ast.Call)):
            yield from _of_flags(node.args if isinstance(node, ast.Call) else node.elts)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                yield from _of_assignment(target, node.value)


def _of_words(text: str) -> Iterator[tuple[str, Any]]:
    """``section.key=value`` as a whole, ``--flag value`` within words, or a YAML file of sections."""
    key, separator, value = text.partition("=")
    if separator and key in DEFAULTS:
        yield key, _yaml(value)
    elif "--" in text and " " in text:
        words = text.split()
        for flag, value in zip(words, [*words[1:], ""], strict=True):
            yield from _of_flag(flag, _yaml(value))
    elif ":" in text and re.match(rf"({'|'.join(config_to_dict(Config()))}):", text):
        yield from _of_yaml(text)


def _of_f_string(node: ast.JoinedStr) -> Iterator[tuple[str, Any]]:
    first = node.values[0]
    if isinstance(first, ast.Constant):
        key, separator, _ = first.value.partition("=")
        if separator and key in DEFAULTS:
            yield key, UNKNOWN


def _of_flags(nodes: list[ast.expr]) -> Iterator[tuple[str, Any]]:
    for node, following in zip(nodes, [*nodes[1:], ast.Constant("")], strict=False):
        if _is_text(node):
            value = _value(following)
            yield from _of_flag(node.value, _yaml(value) if isinstance(value, str) else value)


def _of_flag(word: str, value: Any) -> Iterator[tuple[str, Any]]:
    if word in KNOWN_FLAGS:
        key, constant = KNOWN_FLAGS[word]
        yield key, value if constant is None else _yaml(constant)


def _of_assignment(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, Any]]:
    if isinstance(target, ast.Tuple):
        values = value.elts if isinstance(value, ast.Tuple) else [None] * len(target.elts)
        for part, of_part in zip(target.elts, values, strict=True):
            yield from _of_assignment(part, of_part)
    elif isinstance(target, ast.Subscript):
        if isinstance(target.slice, ast.Constant) and target.slice.value in DEFAULTS:
            yield target.slice.value, _value(value)
    elif isinstance(target, ast.Attribute) and isinstance(target.value, (ast.Attribute, ast.Name)):
        holder = target.value.attr if isinstance(target.value, ast.Attribute) else target.value.id
        if f"{holder}.{target.attr}" in DEFAULTS:
            yield f"{holder}.{target.attr}", _value(value)


def _of_yaml(text: str) -> Iterator[tuple[str, Any]]:
    tree = _yaml(text)
    for section, keys in tree.items() if isinstance(tree, dict) else ():
        for key, value in keys.items() if isinstance(keys, dict) else ():
            if f"{section}.{key}" in DEFAULTS:
                yield f"{section}.{key}", value


def _value(node: ast.expr | None) -> Any:
    try:
        return UNKNOWN if node is None else ast.literal_eval(node)
    except ValueError:
        return UNKNOWN


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return UNKNOWN
