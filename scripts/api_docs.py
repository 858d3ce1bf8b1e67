"""Write docs/api from the docstrings, one page per room: python scripts/api_docs.py

Nothing of mindloc is imported: griffe reads the source and griffe2md lays it out. Public names alone, and of these the
ones that say something: a docstring, or for a field the comment beside it, where units and ranges stand.
"""

import io
import re
import tokenize
from functools import cache
from pathlib import Path

import griffe
from griffe2md import prepare_context, prepare_env
from jinja2 import Template

PROJECT = Path(__file__).resolve().parents[1]
SOURCE, PAGES = PROJECT / "src", PROJECT / "docs" / "api"
DOCSTRINGS = {"warnings": False, "returns_named_value": False}  # "query_BD, gallery_BD: ..." names two at once
LAYOUT = {
    "show_if_no_docstring": False,
    "show_signature_annotations": True,
    "show_object_full_path": False,
    "show_root_members_full_path": False,
    "show_bases": False,
    "inherited_members": False,
    "members_order": "source",
    "show_submodules": False,
    "line_length": 100,
    "summary": False,
}
NOTE = "<!-- Made from the docstrings by scripts/api_docs.py; not edited by hand. -->"


def main() -> None:
    pages = api_pages()
    for name, text in pages.items():
        (PAGES / name).write_text(text, encoding="utf-8")
    for path in PAGES.glob("*.md"):
        if path.name not in pages and path.name != "README.md":
            path.unlink()


def api_pages() -> dict[str, str]:
    """File name -> text of every page but the index, which is written by hand."""
    loader = griffe.GriffeLoader(
        extensions=griffe.load_extensions(HouseStyle),
        search_paths=[SOURCE],
        docstring_parser=griffe.Parser.google,
        docstring_options=DOCSTRINGS,
        allow_inspection=False,
    )
    package = loader.load("mindloc")
    rooms = {name: room for name, room in package.modules.items() if not name.startswith("_")}
    template = prepare_env().get_template("module.md.jinja")
    return {f"{name}.md": _page(room, template) for name, room in sorted(rooms.items())}


def _page(room: griffe.Module, template: Template) -> str:
    modules = [module for _, module in sorted(room.modules.items()) if module.has_docstrings]
    parts = [template.render(prepare_context(module, LAYOUT | {"heading_level": 2})) for module in modules]
    parts.insert(0, template.render(prepare_context(room, LAYOUT | {"heading_level": 1})))
    text = "\n\n".join([NOTE, *(part.strip() for part in parts)])
    return re.sub(r"[ ]+$", "", re.sub(r"\n{3,}", "\n\n", text), flags=re.MULTILINE) + "\n"


class HouseStyle(griffe.Extension):
    """What Markdown and griffe do not know of our docstrings: comments beside fields, and reStructuredText's marks."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.is_attribute and obj.docstring is None and (text := _comment_of(obj)):
            obj.docstring = griffe.Docstring(text, parent=obj)
        if obj.docstring is not None:
            obj.docstring.value = _as_markdown(obj.docstring.value)
            _plain_sections(obj.docstring)


def _comment_of(field: griffe.Attribute) -> str:
    """The comment behind a field, or else the whole lines of comment right above it."""
    siblings = field.parent.members.values()
    if any(not other.is_alias and other.is_function and _within(field.lineno, other) for other in siblings):
        return ""  # set by a method: no field
    comments = _comments(field.filepath)
    behind = comments.get(field.endlineno, ("", False))[0]
    above, line = [], field.lineno - 1
    while comments.get(line, ("", False))[1]:
        above.insert(0, comments[line][0])
        line -= 1
    return behind or (" ".join(above) if field.parent.is_class else "")


def _within(line: int, other: griffe.Object) -> bool:
    return other.lineno is not None and other.lineno <= line <= other.endlineno


@cache
def _comments(path: Path) -> dict[int, tuple[str, bool]]:
    """Line -> (comment, whether it has the line to itself)."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    comments = [token for token in tokens if token.type == tokenize.COMMENT]
    return {t.start[0]: (t.string.lstrip("#: "), not t.line[: t.start[1]].strip()) for t in comments}


def _as_markdown(text: str) -> str:
    """Formulas, names and literal blocks as code hosts show them."""
    text = re.sub(r"(?m)^\.\. math:: (.*(?:\n[ ]+.*)*)", _formula, text)
    text = re.sub(r":math:`([^`]*)`", r"$`\1`$", text)
    text = re.sub(r":\w+:`([^`]*)`", r"`\1`", text)
    text = re.sub(r"(?m)^(Args, Returns):", r"**\1:**", text)
    return re.sub(r"(?m)^(.*?):{2}$", lambda match: match[1] and match[1] + ":", text)


def _formula(match: re.Match) -> str:
    lines = "\n".join(line.strip() for line in match[1].splitlines())
    return f"```math\n{lines}\n```"


def _plain_sections(docstring: griffe.Docstring) -> None:
    """Types without links, which would lead nowhere, and only where the signature does not say them.

    griffe2md begins a line of Returns with the type; most of our numeric code states none.
    """
    sections = docstring.parsed
    for index, section in enumerate(sections):
        if section.kind is griffe.DocstringSectionKind.returns:
            text = " ".join(item.description for item in section.value)
            sections[index] = griffe.DocstringSectionText(f"**Returns:** {text}")
        elif section.kind is griffe.DocstringSectionKind.parameters:
            for item in section.value:
                item.annotation = None
        elif section.kind is griffe.DocstringSectionKind.attributes:
            lines = "\n".join(f"- **{item.name}** – {item.description}" for item in section.value)
            sections[index] = griffe.DocstringSectionText(f"**Attributes:**\n\n{lines}")
        elif section.kind is griffe.DocstringSectionKind.raises:
            for item in section.value:
                item.annotation = str(item.annotation)


if __name__ == "__main__":
    main()
