"""The commands, files, links and keys of the guides exist and are the same in both languages of a page."""

import calendar
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from documented_commands import wrong_commands

from mindloc.cli.eval import evaluate_encoder
from mindloc.cli.options import KNOWN_FLAGS
from mindloc.cli.train import train
from mindloc.config import Config, config_to_dict

PROJECT = Path(__file__).parents[1]
DOCS = PROJECT / "docs"
GUIDES = {path.name: path for path in (*sorted(DOCS.glob("*.md")), PROJECT / "README_CN.md") if path.exists()}
PAIRS = {name: DOCS / name.replace(".zh.md", ".md") for name in GUIDES if name.endswith(".zh.md")}
PAIRS |= {name: PROJECT / "README.md" for name in GUIDES if name == "README_CN.md"}
TEXT = {name: path.read_text(encoding="utf-8") for name, path in GUIDES.items()}
GAME4LOC = [name for name in TEXT if name.startswith("coming_from_game4loc")]
DIRECTORIES = ("tests", "src", "benchmarks", "configs", "docs", "scripts", "modelarts")
PACKAGE = PROJECT / "src" / "mindloc"
PACKAGES = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def both(name: str) -> tuple[str, str]:
    return TEXT[name], PAIRS[name].read_text(encoding="utf-8")


def without_blocks(text: str) -> str:
    return re.sub(r"(?ms)^ *```.*?^ *```", "", text)


def blocks(text: str) -> list[tuple[str, list[str]]]:
    """(language, lines) of each code block, without comments and without explanations after a wide gap."""
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
    """Sorted numbers of a cell in one spelling; the name of a month counts as its number, as in 11 月."""
    for number, month in enumerate(calendar.month_name[1:], 1):
        cell = cell.replace(month, str(number))
    found = re.findall(r"\d*(?:\.\d+)+|\d+", re.sub(r"\]\([^)]*\)", "]", cell))
    return sorted(f"0{number}" if number.startswith(".") else number for number in found)


def test_every_command_is_valid():
    assert {name: wrong for name, text in TEXT.items() if (wrong := wrong_commands(text))} == {}


def named_files(name: str) -> set[str]:
    """Files and directories of mindloc that a page names, without the first column of the table about Game4Loc.

    Modules may be named from their package: ``data/sampler.py``.
    """
    text = re.sub(r"(?m)^ *\|[^|]*", "", TEXT[name]) if name in GAME4LOC else TEXT[name]
    return set(re.findall(rf"`((?:{'|'.join(DIRECTORIES)})/[\w./-]*|(?:{'|'.join(PACKAGES)})/\w+\.py)`", text))


def test_every_file_that_a_guide_names_exists():
    named = [(name, file) for name in TEXT for file in sorted(named_files(name))]
    assert len(named) > 100
    assert [(name, file) for name, file in named if not any((at / file).exists() for at in (PROJECT, PACKAGE))] == []


def test_footnotes_are_defined_and_used():
    wrong = []
    for name in TEXT:
        text = re.sub(r"`[^`\n]*`", "", without_blocks(TEXT[name]))
        sources = [int(number) for number in re.findall(r"^(\d+)\. .*https?://", text, re.MULTILINE)]
        used = {int(number) for number in re.findall(r"\[(\d+)\](?!\()", text)}
        if sources != list(range(1, len(sources) + 1)) or used != set(sources):
            wrong.append((name, sources, sorted(used)))
    assert wrong == []


def test_every_link_has_a_target():
    wrong = []
    for name in TEXT:
        for target in re.findall(r"\]\(((?!http)[^)]+)\)", without_blocks(TEXT[name])):
            file, _, heading = target.partition("#")
            page = GUIDES[name].parent / file if file else GUIDES[name]
            if not page.exists() or (heading and heading not in anchors(page.read_text(encoding="utf-8"))):
                wrong.append((name, target))
    assert wrong == []


def anchors(text: str) -> list[str]:
    """The link anchor of each heading."""
    titles = re.findall(r"(?m)^#+ (.*)", without_blocks(text))
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]


def test_anchors_are_lower_case_headings_with_dashes():
    assert anchors("# Tested here, never run\n\n```bash\n# a comment\n```\n## `b` of C\n") == [
        "tested-here-never-run",
        "b-of-c",
    ]


# ---- both languages of a page


def test_both_languages_have_the_same_code_blocks():
    wrong = []
    for name in PAIRS:
        translation, original = map(blocks, both(name))
        if not original or translation != original:
            wrong.append((name, [block for block in original if block not in translation]))
    assert wrong == []


def test_both_languages_have_the_same_sections():
    wrong = []
    for name in PAIRS:
        levels = [re.findall(r"(?m)^(#+) ", without_blocks(text)) for text in both(name)]
        if not levels[0] or levels[0] != levels[1]:
            wrong.append((name, *map(len, levels)))
    assert wrong == []


def test_both_languages_have_the_same_tables():
    wrong = []
    for name in PAIRS:
        translated, original = (list(tables(text)) for text in both(name))
        if len(translated) != len(original):
            wrong.append((name, f"{len(translated)} tables of {len(original)}"))
        for table, other in zip(translated, original, strict=False):
            if [len(row) for row in table] != [len(row) for row in other]:
                wrong.append((name, "another shape", other[0]))
                continue
            wrong += [
                (name, other_row)
                for row, other_row in zip(table, other, strict=True)
                if list(map(numbers, row)) != list(map(numbers, other_row))
            ]
    assert wrong == []


def test_both_languages_link_to_the_same_places():
    """Of links to headings of the page itself, whose names differ, only the number is compared."""
    wrong = []
    for name in PAIRS:
        links = [re.findall(r"\]\(([^)\s]+)", without_blocks(text)) for text in both(name)]
        own = {GUIDES[name].name, PAIRS[name].name}
        pages = [
            sorted(re.sub(r"^#.*", "#", same_page(link)) for link in found if Path(link).name not in own)
            for found in links
        ]
        if pages[0] != pages[1]:
            wrong.append((name, sorted(set(pages[0]) ^ set(pages[1]))))
    assert wrong == []


def same_page(link: str) -> str:
    return link if link.startswith("http") else link.replace(".zh.md", ".md").replace("README_CN.md", "README.md")


def test_both_languages_name_the_same_keys_files_and_options():
    """Code spans with Chinese or a blank are prose; all others are keys, files or options."""
    wrong = []
    for name in PAIRS:
        spans = [set(re.findall(r"`([^`\n]+)`", without_blocks(text))) for text in both(name)]
        typed = [{same_page(span) for span in found if not CHINESE.search(span) and " " not in span} for found in spans]
        if typed[0] != typed[1]:
            wrong.append((name, sorted(typed[0] ^ typed[1])))
    assert wrong == []


def test_a_chinese_page_is_chinese():
    wrong = []
    for name in PAIRS:
        text = without_blocks(TEXT[name])
        if found := re.search(r"[\u4e00-\u9fff][,;:?!](?=[\u4e00-\u9fff\s])", text):
            wrong.append((name, "halfwidth mark", found[0]))
        prose = [line for line in text.splitlines() if len(line) > 60 and not re.search(r"https?://", line)]
        if sum(bool(CHINESE.search(line)) for line in prose) <= 0.8 * len(prose):
            wrong.append((name, "little Chinese"))
    assert wrong == []


# ---- the page for users of Game4Loc


def flag_rows(name: str, program: str) -> dict[str, str]:
    """Flag -> its state, from the table under the heading that names the program."""
    section = re.split(r"(?m)^## ", TEXT[name])
    table = next(tables(next(part for part in section if program in part.partition("\n")[0])))
    return {flag: row[1].strip() for row in table[2:] for flag in re.findall(r"--\w+", row[0])}


def accepted(command) -> set[str]:
    return {option for param in command.params for option in param.opts}


STATE = {"the same": True, "renamed": False, "a key": False, "none": False}
STATE |= {"相同": True, "改名": False, "配置键": False, "无": False}


@pytest.mark.parametrize("name", GAME4LOC)
def test_exactly_the_flags_listed_as_same_are_accepted(name):
    for program, command in (("train_gta.py", train), ("eval_gta.py", evaluate_encoder)):
        rows = flag_rows(name, program)
        same = {flag for flag, state in rows.items() if STATE[state]}
        assert same == set(rows) & accepted(command), program


@pytest.mark.parametrize("name", GAME4LOC)
def test_every_flag_of_train_py_is_on_the_page(name):
    rows = flag_rows(name, "train_gta.py")
    besides = re.search(r"(?m)^`train\.py` .*", TEXT[name])[0]
    assert accepted(train) == {flag for flag, state in rows.items() if STATE[state]} | set(
        re.findall(r"`(--\w+)`", besides)
    )
    assert set(KNOWN_FLAGS) <= accepted(train)


@pytest.mark.parametrize("name", GAME4LOC)
def test_every_key_on_the_page_exists(name):
    sections = config_to_dict(Config())
    named = re.findall(rf"`(?:--set )?({'|'.join(sections)})\.(?!(?:py|sh)`)(\w+)(?:=\w+|: \w+)?`", TEXT[name])
    assert len(named) > 20
    assert [f"{section}.{key}" for section, key in named if key not in sections[section]] == []
