"""docs/config.md says what the schema says, and no option is there for nothing."""

import ast
import importlib.util
from pathlib import Path

import pytest

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


ELSEWHERE = """
class Prepared:
    held: Config
    other: dict

def config_from_dict(tree) -> Config: pass
def load_config(path) -> Config: pass
def read(words) -> tuple[list[str], Config]: pass
"""


@pytest.mark.parametrize(
    ("code", "key"),
    [
        ("def f(c: Config): c.train.epochs", "train.epochs"),
        ("def f(c: Config | None): c.train.epochs", "train.epochs"),
        ("def f(tree): stored = config_from_dict(tree); stored.train.epochs", "train.epochs"),
        ("def f(c: Config): d = replace(c, run=1); e = d; e.train.epochs", "train.epochs"),
        ("def f(path): load_config(path).train.epochs", "train.epochs"),
        ("def f(path): data = load_config(path).data; data.root", "data.root"),
        ("def f(c: Config): a, b = c.data, c.train; b.epochs", "train.epochs"),
        ("def f(t: TrainConfig): t.epochs", "train.epochs"),
        ("def f(prepared): prepared.held.train.epochs", "train.epochs"),
        ("def f(words): rest, c = read(words); c.train.epochs", "train.epochs"),
        ("def f(config): config.train.epochs", None),  # nothing says that it is one
        ("def f(prepared): prepared.other.train.epochs", None),
        ("def f(c: Config): c.train.no_key", None),
        ("class A:\n def f(self): self.train.epochs", None),
    ],
)
def test_a_key_is_read_from_whatever_holds_a_config(code, key):
    annotated = config_docs.Annotated([ast.parse(ELSEWHERE)])
    assert set(config_docs._keys_read(ast.parse(code), annotated)) == ({key} if key else set())


def test_export_reads_the_precision_that_a_checkpoint_holds():
    (row,) = [line for line in config_docs.config_page().splitlines() if line.startswith("| `train.precision`")]
    assert "export" in row.rsplit("|", 2)[1].strip().split(", ")


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
