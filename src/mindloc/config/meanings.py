"""Meaning of each setting, from the comments in ``sections.py``, for help pages and the documentation."""

import ast
import functools
import io
import tokenize
from pathlib import Path

from mindloc.config.messages import fields_of, section_class, shown
from mindloc.config.schema import Config

SECTIONS = Path(__file__).with_name("sections.py")


def meaning(key: str) -> str:
    """The comment in ``sections.py`` on a setting, ``section.key``."""
    section, name = key.split(".")
    return field_comments(SECTIONS)[section_class(Config, section).__name__, name]


def default(key: str) -> str:
    """The default value of a setting, as in YAML."""
    section, name = key.split(".")
    return shown(getattr(getattr(Config(), section), name))


def placeholder(key: str) -> str:
    """What a usage line shows for the value of a setting: N (whole number), X (any number), TEXT, or the choices."""
    section, name = key.split(".")
    field = fields_of(Config, section)[name]
    kinds = {"integer": "N", "number": "X", "array": "N,N"}
    choices = "|".join(map(str, field.get("enum", ())))
    return choices if 0 < len(choices) < 30 else kinds.get(field.get("type", ""), "TEXT")


@functools.cache
def field_comments(path: Path) -> dict[tuple[str, str], str]:
    """(class, field) -> the comment lines above the field and the comment beside it."""
    text = path.read_text(encoding="utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    at_line = {token.start[0]: token for token in tokens if token.type == tokenize.COMMENT}
    found = {}
    for cls in (node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)):
        for field in (node for node in cls.body if isinstance(node, ast.AnnAssign)):
            first = field.lineno
            while first - 1 in at_line and not text.splitlines()[first - 2][: at_line[first - 1].start[1]].strip():
                first -= 1
            parts = (range(first, field.lineno), range(field.lineno, (field.end_lineno or field.lineno) + 1))
            texts = (" ".join(at_line[line].string.lstrip("# ") for line in part if line in at_line) for part in parts)
            found[cls.name, getattr(field.target, "id", "")] = "; ".join(filter(None, texts))
    return found
