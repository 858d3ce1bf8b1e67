"""Write docs/config.md, every option of a config, from the schema and its comments: python scripts/config_docs.py"""

import ast
import dataclasses
import io
import sys
import tokenize
import types
import typing
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

PROJECT = Path(__file__).resolve().parents[1]
PACKAGE = PROJECT / "src" / "mindloc"
PAGE = PROJECT / "docs" / "config.md"

sys.path.insert(0, str(PROJECT / "src"))  # runs from a plain clone

from mindloc.config import config_to_dict  # noqa: E402
from mindloc.config.schema import Config  # noqa: E402

HEAD = """# Every option

<!-- Made from src/mindloc/config/schema.py by scripts/config_docs.py; not edited by hand. -->

A YAML file under `configs/` names what differs from these defaults, and `--set section.key=value` changes one key. A
key that does not exist, a value of another type, and a key that nothing would read are refused by name. In YAML a list
is `[1, 2]`, nothing is `null`, and `off`, `on`, `yes`, `no` are not words but true and false.

The last column names the rooms of docs/architecture.md whose code reads a key; `config` reads some for several of them.
"""
SECTIONS = typing.get_type_hints(Config)  # name -> dataclass


def main() -> None:
    PAGE.write_text(config_page(), encoding="utf-8")


def config_page() -> str:
    """The whole page."""
    comments, readers = field_comments(PACKAGE / "config" / "schema.py"), key_readers()
    defaults = config_to_dict(Config())
    parts = [HEAD]
    for section, cls in SECTIONS.items():
        said = (cls.__doc__ or "").strip() if not (cls.__doc__ or "").startswith(cls.__name__ + "(") else ""
        rows = [f"\n## {section}\n", *([said + "\n"] if said else [])]
        rows += ["| key | type | default | meaning | read by |", "|---|---|---|---|---|"]
        for name, hint in typing.get_type_hints(cls).items():
            key = f"{section}.{name}"
            where = ", ".join(sorted(readers[key]))
            default, meaning = yaml_text(defaults[section][name]), comments[cls.__name__, name].replace("|", "\\|")
            rows.append(f"| `{key}` | {type_text(hint)} | `{default}` | {meaning} | {where} |")
        parts.append("\n".join(rows) + "\n")
    return "".join(parts)


def type_text(hint: Any) -> str:
    """As a person says it: choices by name, sizes of lists."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_text(arg) for arg in args)
    if origin is tuple:
        return f"list of {type_text(args[0])}" if args[-1] is Ellipsis else f"{len(args)} × {type_text(args[0])}"
    if origin is list:
        return f"list of {type_text(args[0])}"
    if origin is dict:
        return f"{type_text(args[0])}: {type_text(args[1])}"
    return {bool: "true, false", int: "whole number", float: "number", str: "text", type(None): "null"}[hint]


def yaml_text(value: Any) -> str:
    """A default as one writes it in YAML."""
    if isinstance(value, list):
        return "[" + ", ".join(map(yaml_text, value)) + "]"
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def field_comments(schema: Path) -> dict[tuple[str, str], str]:
    """(class, field) -> the comment beside it, or the lines of comment above it."""
    text = schema.read_text(encoding="utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    at_line = {token.start[0]: token for token in tokens if token.type == tokenize.COMMENT}
    found = {}
    for cls in (node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)):
        for field in (node for node in cls.body if isinstance(node, ast.AnnAssign)):
            first = field.lineno
            while first - 1 in at_line and not text.splitlines()[first - 2][: at_line[first - 1].start[1]].strip():
                first -= 1
            parts = (range(first, field.lineno), range(field.lineno, field.end_lineno + 1))
            said = (" ".join(at_line[line].string.lstrip("# ") for line in part if line in at_line) for part in parts)
            found[cls.name, field.target.id] = "; ".join(filter(None, said))
    return found


def key_readers() -> dict[str, set[str]]:
    """section.key -> rooms that read it, as ``config.section.key`` or through a name for ``config.section``."""
    readers = defaultdict(set)
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.parent.name == "config" and path.name != "schema.py":
            continue  # they look at every key and use none
        for key in _keys_read(ast.parse(path.read_text(encoding="utf-8"))):
            readers[key].add(path.relative_to(PACKAGE).parts[0])
    return readers


def _keys_read(tree: ast.Module) -> Iterator[str]:
    for function in ast.walk(tree):
        if not isinstance(function, (ast.FunctionDef, ast.ClassDef)):
            continue
        names = dict(_names_of_sections(function))
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute):
                section = _section(node.value, names)
                if section and node.attr in typing.get_type_hints(SECTIONS[section]):
                    yield f"{section}.{node.attr}"
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr":
                section = _section(node.args[0], names)  # one key after the other, by name
                of_section = dataclasses.fields(SECTIONS[section]) if section else ()
                yield from (f"{section}.{field.name}" for field in of_section)


def _names_of_sections(function: ast.AST) -> Iterator[tuple[str, str]]:
    """(local name, section): arguments of a section's class, ``self`` in it, and ``x = config.section``."""
    of_class = {cls.__name__: section for section, cls in SECTIONS.items()}
    if isinstance(function, ast.ClassDef) and function.name in of_class:
        yield "self", of_class[function.name]
    for node in ast.walk(function):
        if isinstance(node, ast.arg) and isinstance(node.annotation, ast.Name) and node.annotation.id in of_class:
            yield node.arg, of_class[node.annotation.id]
        if isinstance(node, ast.Assign):
            targets, values = (getattr(side, "elts", [side]) for side in (node.targets[0], node.value))
            for target, value in zip(targets, values, strict=False):
                if isinstance(target, ast.Name) and (section := _section(value, {})):
                    yield target.id, section


def _section(node: ast.AST, names: dict[str, str]) -> str | None:
    """The section that an expression such as ``config.train`` is, if it is one."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    holder = node.value if isinstance(node, ast.Attribute) else None
    if isinstance(holder, (ast.Name, ast.Attribute)) and node.attr in SECTIONS:
        held = holder.id if isinstance(holder, ast.Name) else holder.attr
        return node.attr if held in ("config", "self", "fresh") else None
    return None


if __name__ == "__main__":
    main()
