"""The pages of docs/api say what the docstrings say, and the index leads to every one of them."""

import importlib.util
import re
from pathlib import Path

import pytest
from test_house import FLOOR

griffe = pytest.importorskip("griffe", reason="griffe2md needs Python 3.11")
pytest.importorskip("griffe2md")
pytest.importorskip("black", reason="griffe2md breaks long signatures by it")

PROJECT = Path(__file__).parents[1]
PAGES = PROJECT / "docs" / "api"
INDEX = (PAGES / "README.md").read_text(encoding="utf-8")

spec = importlib.util.spec_from_file_location("api_docs", PROJECT / "scripts" / "api_docs.py")
api_docs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(api_docs)


@pytest.fixture(scope="module")
def pages():
    return api_docs.api_pages()


def test_the_pages_are_up_to_date(pages):
    found = {path.name: path.read_text(encoding="utf-8") for path in PAGES.glob("*.md") if path.name != "README.md"}
    stale = [name for name in sorted(pages | found) if pages.get(name) != found.get(name)]
    assert not stale, f"docs/api/{', '.join(stale)}: docstrings have changed; run: python scripts/api_docs.py"


def test_the_index_has_each_room_on_its_floor(pages):
    rows = re.findall(r"(?m)^\| (\d) \| \[(\w+)\]\((\w+)\.md\) \|", INDEX)
    assert {(name, int(floor)) for floor, name, _ in rows} == set(FLOOR.items())
    assert all(name == target and f"{name}.md" in pages for _, name, target in rows)


def test_the_names_of_the_index_stand_on_the_pages_it_leads_to(pages):
    ways = re.findall(r"((?:`\w+`(?:, )?)+)\s\(\[\w+\]\((\w+\.md)\)\)", INDEX)
    assert len(ways) > 3
    for names, page in ways:
        for name in re.findall(r"\w+", names):
            assert f"# `{name}`" in pages[page]


def test_no_mark_of_another_format_and_no_private_name_is_left(pages):
    for name, text in pages.items():
        prose = re.sub(r"(?s)```.*?```", "", text)
        assert re.findall(r"(?m):\w+:`|^\.\. |::$|\]\(|^#+ `_.*", prose) == [], name


def rendered(source: str) -> str:
    extensions = griffe.load_extensions(api_docs.HouseStyle)
    options = {"docstring_parser": griffe.Parser.google, "docstring_options": api_docs.DOCSTRINGS}
    with griffe.temporary_visited_package(
        "house", {"__init__.py": "", "room.py": source}, extensions=extensions, **options
    ) as package:
        template = api_docs.prepare_env().get_template("module.md.jinja")
        return template.render(api_docs.prepare_context(package["room"], api_docs.LAYOUT))


def test_a_comment_beside_a_field_is_its_text_and_a_bare_field_has_none():
    text = rendered(
        '"""Room."""\n'
        "LIMIT = 8  # meters\n"
        "BARE = 9\n"
        "class Tile:\n"
        '    """A tile."""\n'
        "    side: int  # pixels\n"
        "    # from the left,\n"
        "    # in meters\n"
        "    x: float\n"
        "    def __init__(self):\n"
        "        self.cache = {}  # grows\n"
    )
    parts = dict(re.findall(r"(?s)#+ `(\w+)`\n\n```python\n.*?```\n\n(.*?)\n", text))
    assert parts == {"Tile": "A tile.", "LIMIT": "meters", "side": "pixels", "x": "from the left, in meters"}


def test_formulas_names_and_literal_blocks_become_markdown():
    text = rendered(
        '"""Room.\n\nIt holds::\n\n    a  b\n"""\n'
        "def loss(x):\n"
        '    r"""See :func:`other` and :math:`e^x`.\n\n'
        "    .. math:: a = b, \\\\qquad\n"
        "              c = d\n\n"
        "    Returns:\n"
        "        Scalar, nats.\n"
        '    """\n'
    )
    assert "It holds:\n\n    a  b" in text
    assert "See `other` and $`e^x`$." in text
    assert "```math\na = b, \\\\qquad\nc = d\n```" in text
    assert "**Returns:** Scalar, nats." in text
