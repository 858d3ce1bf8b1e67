"""docs/config.md says what the schema says, and no option is there for nothing."""

import importlib.util
from pathlib import Path

from mindloc.config import config_to_dict
from mindloc.config.schema import Config

PROJECT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("config_docs", PROJECT / "scripts" / "config_docs.py")
config_docs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(config_docs)

KEYS = [f"{section}.{key}" for section, values in config_to_dict(Config()).items() for key in values]


def test_the_page_is_the_schema():
    page = (PROJECT / "docs" / "config.md").read_text(encoding="utf-8")
    assert page == config_docs.config_page(), "the schema has changed; run: python scripts/config_docs.py"


def test_every_key_has_a_row_a_meaning_and_a_reader():
    readers = config_docs.key_readers()
    rows = [line for line in config_docs.config_page().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == KEYS
    assert [key for key in KEYS if not readers[key]] == []
    comments = config_docs.field_comments(PROJECT / "src" / "mindloc" / "config" / "schema.py")
    assert [field for field, comment in comments.items() if not comment and field[0] != "Config"] == []


def test_comments_beside_above_and_over_several_lines_are_found(tmp_path):
    schema = tmp_path / "schema.py"
    schema.write_text(
        "class A:\n"
        "    x: int = 1  # beside, m\n"
        "    # above,\n"
        "    # twice\n"
        "    y: int = 2\n"
        "    z: str = '# no comment'\n"
    )
    found = config_docs.field_comments(schema)
    assert found == {("A", "x"): "beside, m", ("A", "y"): "above, twice", ("A", "z"): ""}
