"""The commands, files, links and keys of the guides are real, and both languages of a page say the same ones."""

import calendar
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from documented_commands import check_command, commands

from mindloc.cli import eval as evaluation
from mindloc.cli import train
from mindloc.cli.arguments import KNOWN_FLAGS
from mindloc.config import Config

PROJECT = Path(__file__).parents[1]
DOCS = PROJECT / "docs"
GUIDES = {path.name: path for path in (*sorted(DOCS.glob("*.md")), PROJECT / "README_CN.md") if path.exists()}
PAIRS = {name: DOCS / name.replace(".zh.md", ".md") for name in GUIDES if name.endswith(".zh.md")}
PAIRS |= {name: PROJECT / "README.md" for name in GUIDES if name == "README_CN.md"}
TEXT = {name: path.read_text(encoding="utf-8") for name, path in GUIDES.items()}
GAME4LOC = [name for name in TEXT if name.startswith("coming_from_game4loc")]
FOLDERS = ("tests", "src", "benchmarks", "configs", "docs", "scripts", "modelarts")
PACKAGE = PROJECT / "src" / "mindloc"
ROOMS = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def both(name: str) -> tuple[str, str]:
    return TEXT[name], PAIRS[name].read_text(encoding="utf-8")


def without_blocks(text: str) -> str:
    return re.sub(r"(?ms)^ *```.*?^ *```", "", text)


def blocks(text: str) -> list[tuple[str, list[str]]]:
    """(language, lines) of each code block, without comments and without what explains a line after a wide gap."""
    found = re.findall(r"(?ms)^ *```(\w*)\n(.*?)^ *```", text)
    cut = [
        (language, [re.split(r"(?:^|\s)#\s|\s{2,}", line.strip())[0] for line in body.splitlines()])
        for language, body in found
    ]
    return [(language, [line for line in lines if line]) for language, lines in cut]


def tables(text: str) -> Iterator[list[list[str]]]:
    """Cells of each table, row by row."""
    for table in re.findall(r"(?m)(?:^ *\|.*\n)+", without_blocks(text) + "\n"):
        yield [re.split(r"(?<!\\)\|", row.strip().strip("|")) for row in table.splitlines()]


def numbers(cell: str) -> list[str]:
    """Every number of a cell in one spelling, in any order; a month by name is one, as 11 月 is."""
    for number, month in enumerate(calendar.month_name[1:], 1):
        cell = cell.replace(month, str(number))
    found = re.findall(r"\d*(?:\.\d+)+|\d+", re.sub(r"\]\([^)]*\)", "]", cell))
    return sorted(f"0{number}" if number.startswith(".") else number for number in found)


@pytest.mark.parametrize("words", [words for text in TEXT.values() for words in commands(text)], ids=" ".join)
def test_every_command_of_the_guides_is_one(words):
    check_command(words)


def named_files(name: str) -> set[str]:
    """Files and folders of ours that a page names; the first column of a table about Game4Loc holds that one's.

    Modules go by the names of their rooms too: ``data/sampler.py``.
    """
    text = re.sub(r"(?m)^ *\|[^|]*", "", TEXT[name]) if name in GAME4LOC else TEXT[name]
    return set(re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*|(?:{'|'.join(ROOMS)})/\w+\.py)`", text))


def test_names_of_files_are_found():
    assert sum(len(named_files(name)) for name in TEXT) > 100


@pytest.mark.parametrize("name", TEXT)
def test_every_file_that_a_guide_names_exists(name):
    places = (PROJECT, PACKAGE)
    missing = [file for file in sorted(named_files(name)) if not any((place / file).exists() for place in places)]
    assert missing == []


@pytest.mark.parametrize("name", TEXT)
def test_every_note_is_used_and_every_used_one_is_there(name):
    text = re.sub(r"`[^`\n]*`", "", without_blocks(TEXT[name]))
    sources = [int(number) for number in re.findall(r"^(\d+)\. .*https?://", text, re.MULTILINE)]
    assert sources == list(range(1, len(sources) + 1))
    assert {int(number) for number in re.findall(r"\[(\d+)\](?!\()", text)} == set(sources)


@pytest.mark.parametrize("name", TEXT)
def test_every_link_within_the_guides_leads_somewhere(name):
    for target in re.findall(r"\]\(((?!http)[^)]+)\)", without_blocks(TEXT[name])):
        file, _, heading = target.partition("#")
        page = GUIDES[name].parent / file if file else GUIDES[name]
        assert page.exists(), target
        assert not heading or heading in anchors(page.read_text(encoding="utf-8")), target


def anchors(text: str) -> list[str]:
    """What a link writes behind # for each heading."""
    titles = re.findall(r"(?m)^#+ (.*)", without_blocks(text))
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]


def test_anchors_are_headings_in_small_letters_and_dashes():
    assert anchors("# Tested here, never run\n\n```bash\n# a comment\n```\n## `b` of C\n") == [
        "tested-here-never-run",
        "b-of-c",
    ]


@pytest.mark.parametrize("name", PAIRS)
def test_both_languages_give_the_same_blocks(name):
    translation, original = map(blocks, both(name))
    assert translation == original != []


@pytest.mark.parametrize("name", PAIRS)
def test_both_languages_have_the_same_sections(name):
    levels = [re.findall(r"(?m)^(#+) ", without_blocks(text)) for text in both(name)]
    assert levels[0] == levels[1] != []


@pytest.mark.parametrize("name", PAIRS)
def test_both_languages_have_the_same_tables(name):
    for table, original in zip(*map(tables, both(name)), strict=True):
        assert [len(row) for row in table] == [len(row) for row in original], original[0]
        for row, original_row in zip(table, original, strict=True):
            assert list(map(numbers, row)) == list(map(numbers, original_row)), original_row


@pytest.mark.parametrize("name", PAIRS)
def test_both_languages_link_to_the_same_places(name):
    """A page's own headings have other names in each language, so that only their number is compared."""
    links = [re.findall(r"\]\(([^)\s]+)", without_blocks(text)) for text in both(name)]
    own = {GUIDES[name].name, PAIRS[name].name}
    pages = [
        sorted(re.sub(r"^#.*", "#", same_page(link)) for link in found if Path(link).name not in own) for found in links
    ]
    assert pages[0] == pages[1]


def same_page(link: str) -> str:
    return link if link.startswith("http") else link.replace(".zh.md", ".md").replace("README_CN.md", "README.md")


@pytest.mark.parametrize("name", PAIRS)
def test_both_languages_name_the_same_keys_files_and_options(name):
    """A span with Chinese or with a blank in it is prose set in type; the rest is what a reader types or looks for."""
    spans = [set(re.findall(r"`([^`\n]+)`", without_blocks(text))) for text in both(name)]
    typed = [{same_page(span) for span in found if not CHINESE.search(span) and " " not in span} for found in spans]
    assert typed[0] == typed[1]


@pytest.mark.parametrize("name", PAIRS)
def test_a_chinese_page_is_chinese(name):
    assert not re.search(r"[\u4e00-\u9fff][,;:?!](?=[\u4e00-\u9fff\s])", without_blocks(TEXT[name])), "halfwidth marks"
    prose = [
        line for line in without_blocks(TEXT[name]).splitlines() if len(line) > 60 and not re.search(r"https?://", line)
    ]
    assert sum(bool(CHINESE.search(line)) for line in prose) > 0.8 * len(prose)


def flag_rows(name: str, program: str) -> dict[str, str]:
    """Flag -> what becomes of it, of the table under the heading that names the program."""
    section = re.split(r"(?m)^## ", TEXT[name])
    table = next(tables(next(part for part in section if program in part.partition("\n")[0])))
    return {flag: row[1].strip() for row in table[2:] for flag in re.findall(r"--\w+", row[0])}


def accepted(parser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings}


STATE = {"the same": True, "renamed": False, "a key": False, "none": False}
STATE |= {"相同": True, "改名": False, "配置键": False, "无": False}


@pytest.mark.parametrize("name", GAME4LOC)
@pytest.mark.parametrize(
    ("program", "parser"),
    [("train_gta.py", train.parser()), ("eval_gta.py", evaluation.parser())],
    ids=["train", "eval"],
)
def test_the_flags_called_the_same_are_accepted_and_no_other(name, program, parser):
    rows = flag_rows(name, program)
    assert {flag for flag, state in rows.items() if STATE[state]} == set(rows) & accepted(parser)


@pytest.mark.parametrize("name", GAME4LOC)
def test_every_flag_of_train_py_stands_on_the_page(name):
    rows = flag_rows(name, "train_gta.py")
    besides = re.search(r"(?m)^`train\.py` .*", TEXT[name])[0]
    assert accepted(train.parser()) - {"-h", "--help"} == {flag for flag, state in rows.items() if STATE[state]} | set(
        re.findall(r"`(--\w+)`", besides)
    )
    assert set(KNOWN_FLAGS) <= accepted(train.parser())


@pytest.mark.parametrize("name", GAME4LOC)
def test_every_key_of_the_page_exists(name):
    sections = {
        field.name: {key.name for key in dataclasses.fields(field.default_factory)}
        for field in dataclasses.fields(Config)
    }
    named = re.findall(rf"`(?:--set )?({'|'.join(sections)})\.(?!(?:py|sh)`)(\w+)(?:=\w+|: \w+)?`", TEXT[name])
    assert len(named) > 20
    assert [f"{section}.{key}" for section, key in named if key not in sections[section]] == []
