"""Write docs/config.md, every option of a config, from the schema and its comments: python scripts/config_docs.py"""

import ast
import dataclasses
import io
import sys
import tokenize
import types
import typing
from collections import defaultdict
from collections.abc import Iterable, Iterator
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

A YAML file under `configs/` names what differs from these defaults, and `--set section.key=value` changes one key.
Refused by name are a key that does not exist, a value of another type or out of its range, and a value that nothing
reads as the backbone, the head, the loss, the schedule, the precision or the source of hard negatives was chosen. What
an older run or checkpoint holds is taken even if nothing reads it. In YAML a list is `[1, 2]`, nothing is `null`, and
`off`, `on`, `yes`, `no` are not words but true and false: where text is expected they need quotes. A number there is
taken as text.

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
    """section.key -> rooms that read it, from whatever holds a Config or one of its sections."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
    annotated = Annotated(trees.values())
    readers = defaultdict(set)
    for path, tree in trees.items():
        if path.parent.name == "config" and path.name != "schema.py":
            continue  # they look at every key and use none
        for key in _keys_read(tree, annotated):
            readers[key].add(path.relative_to(PACKAGE).parts[0])
    return readers


class Annotated:
    """What annotations say of names that other files use.

    ``fields``: fields, of any class, that hold a Config. ``results``: function -> the classes that it gives, several
    where it gives a tuple.
    """

    def __init__(self, trees: Iterable[ast.Module]):
        self.fields: set[str] = set()
        self.results: dict[str, list[str | None]] = {"Config": ["Config"]}
        for node in (node for tree in trees for node in ast.walk(tree)):
            if isinstance(node, ast.ClassDef):
                fields = (field for field in node.body if isinstance(field, ast.AnnAssign))
                self.fields |= {field.target.id for field in fields if _class_of(field.annotation) == "Config"}
            elif isinstance(node, ast.FunctionDef) and "Config" in (classes := _classes_of(node.returns)):
                self.results[node.name] = classes


def _keys_read(tree: ast.Module, annotated: Annotated) -> Iterator[str]:
    for function in ast.walk(tree):
        if not isinstance(function, (ast.FunctionDef, ast.ClassDef)):
            continue
        names = _Names(annotated, function)
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute):
                section = names.section(node.value)
                if section and node.attr in typing.get_type_hints(SECTIONS[section]):
                    yield f"{section}.{node.attr}"
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr":
                section = names.section(node.args[0])  # one key after the other, by name
                of_section = dataclasses.fields(SECTIONS[section]) if section else ()
                yield from (f"{section}.{field.name}" for field in of_section)


class _Names:
    """What the names within a function or class hold: by annotation, or by what was assigned to them."""

    def __init__(self, annotated: Annotated, scope: ast.FunctionDef | ast.ClassDef):
        self.annotated = annotated
        self.classes: dict[str, str] = {"self": scope.name} if isinstance(scope, ast.ClassDef) else {}
        nodes = list(ast.walk(scope))
        for node in nodes:
            if isinstance(node, ast.arg) and (name := _class_of(node.annotation)):
                self.classes[node.arg] = name
        for node in sorted((n for n in nodes if isinstance(n, ast.Assign)), key=lambda n: n.lineno):
            targets = getattr(node.targets[0], "elts", node.targets)
            for target, name in zip(targets, self._classes_of_value(node.value), strict=False):
                if isinstance(target, ast.Name) and name:
                    self.classes[target.id] = name

    def section(self, node: ast.expr) -> str | None:
        """The section that an expression such as ``config.train`` is, if it is one."""
        return next((name for name, cls in SECTIONS.items() if cls.__name__ == self._class_of_value(node)), None)

    def _classes_of_value(self, node: ast.expr) -> list[str | None]:
        if isinstance(node, ast.Tuple):
            return [self._class_of_value(part) for part in node.elts]
        if isinstance(node, ast.Call):
            called = getattr(node.func, "id", getattr(node.func, "attr", None))
            if called == "replace" and node.args:
                return self._classes_of_value(node.args[0])
            return self.annotated.results.get(called, [None])
        return [self._class_of_value(node)]

    def _class_of_value(self, node: ast.expr) -> str | None:
        if isinstance(node, ast.Name):
            return self.classes.get(node.id)
        if isinstance(node, ast.Attribute):
            if node.attr in SECTIONS and self._class_of_value(node.value) == "Config":
                return SECTIONS[node.attr].__name__
            return "Config" if node.attr in self.annotated.fields else None
        classes = self._classes_of_value(node) if isinstance(node, ast.Call) else ()
        return classes[0] if len(classes) == 1 else None


def _classes_of(annotation: ast.expr | None) -> list[str | None]:
    """Of ``tuple[A, B]`` both, else the one of ``_class_of``."""
    if isinstance(annotation, ast.Subscript) and isinstance(annotation.slice, ast.Tuple):
        is_tuple = _class_of(annotation.value) == "tuple"
        return [_class_of(part) for part in annotation.slice.elts] if is_tuple else [None]
    return [_class_of(annotation)]


def _class_of(annotation: ast.expr | None) -> str | None:
    """Name of the class that an annotation such as ``Config`` or ``Config | None`` states."""
    if isinstance(annotation, ast.BinOp):
        return _class_of(annotation.left)
    return annotation.id if isinstance(annotation, ast.Name) else None


if __name__ == "__main__":
    main()
