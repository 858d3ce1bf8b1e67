"""The tables of settings match the schema, and every option is read by some code."""

import importlib.util
import re
from pathlib import Path

from mindloc.config import Config

PROJECT = Path(__file__).parents[2]
PACKAGE = PROJECT / "src" / "mindloc"
spec = importlib.util.spec_from_file_location("config_docs", PROJECT / "scripts" / "config_docs.py")
config_docs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(config_docs)

SECTIONS = {section: field.annotation for section, field in Config.model_fields.items()}


def test_both_pages_have_the_tables_and_the_sections_in_order():
    for page in ("settings.md", "settings.zh.md"):
        assert (PROJECT / "docs" / page).read_text(encoding="utf-8").count("<!-- settings -->") == 1
    assert re.findall(r"(?m)^## (.*)", config_docs.settings_tables()) == list(SECTIONS)


def test_a_row_has_values_default_meaning_and_the_choice_that_reads_the_key():
    rows = config_docs.settings_tables().splitlines()
    assert (
        "| `data.reader` | `gta_uav`, `visloc`, `vigor` | `gta_uav` | layout of the data set; see docs/data.md |  |"
        in rows
    )
    assert next(row for row in rows if "`schedule.power`" in row).endswith("| schedule.name=polynomial |")


def test_every_key_has_a_row_and_a_meaning():
    rows = [line for line in config_docs.settings_tables().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [
        f"{name}.{key}" for name, cls in SECTIONS.items() for key in cls.model_fields
    ]
    assert [field for field, comment in config_docs.field_comments(config_docs.SECTIONS).items() if not comment] == []


def test_every_key_is_read_by_some_code():
    """The code is in a file that reads the section or gets it as an argument; in config itself only methods count."""
    texts = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py") if path.parent.name != "config"]
    texts.append((PACKAGE / "config" / "schema.py").read_text(encoding="utf-8"))  # Config.view
    unread = []
    for section, cls in SECTIONS.items():
        of_section = [text for text in texts if re.search(rf"\.{section}\b|\b{cls.__name__}\b", text)]
        own = re.findall(r"self\.(\w+)", config_docs.SECTIONS.read_text(encoding="utf-8"))  # DataConfig.source
        read = {name for text in of_section for name in re.findall(r"\.(\w+)", text)} | set(own)
        unread += [f"{section}.{key}" for key in cls.model_fields if key not in read]
    assert not unread


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
