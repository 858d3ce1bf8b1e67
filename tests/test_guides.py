"""The commands, files and links of the guides are real, and both languages say the same ones."""

import re
import shlex
from pathlib import Path

import pytest
from documented_commands import check_command, commands

PROJECT = Path(__file__).parents[1]
PAGES = {name: (PROJECT / "docs" / name).read_text(encoding="utf-8") for name in ("ascend.md", "ascend.zh.md")}
ENGLISH, CHINESE = PAGES.values()
OTHERS = [(PROJECT / "docs" / name).read_text(encoding="utf-8") for name in ("gpu.md", "search.md")]


@pytest.mark.parametrize(
    "words", [*commands(ENGLISH), *(words for page in OTHERS for words in commands(page))], ids=" ".join
)
def test_every_command_of_the_guides_is_one(words):
    check_command(words)


def test_both_languages_give_the_same_commands_and_sources():
    assert commands(CHINESE) == commands(ENGLISH) != []
    assert foreign_commands(CHINESE) == foreign_commands(ENGLISH) != []
    links = [sorted(re.findall(r"\]\((http[^)]+)\)", text)) for text in PAGES.values()]
    assert links[0] == links[1] != []


def foreign_commands(text: str) -> list[list[str]]:
    """Words of the lines of other blocks (CANN, the system, tables), comments taken off."""
    blocks = re.findall(r"```(?:sh|json)\n(.*?)```", text, re.DOTALL)
    return [words for block in blocks for line in block.splitlines() if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_the_guide_names_exists(page):
    named = set(re.findall(r"`((?:tests|src|scripts|benchmarks|configs|docs|modelarts)/[\w./-]+)`", PAGES[page]))
    assert len(named) > 10
    assert [name for name in sorted(named) if not (PROJECT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_note_is_used_and_every_used_one_is_there(page):
    text = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)
    sources = [int(number) for number in re.findall(r"^(\d+)\. .*https?://", text, re.MULTILINE)]
    assert sources == list(range(1, len(sources) + 1))
    assert {int(number) for number in re.findall(r"\[(\d+)\](?!\()", text)} == set(sources)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_within_the_guide_leads_somewhere(page):
    headings = [
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"(?m)^#+ (.*)", PAGES[page])
    ]
    for target in re.findall(r"\]\(((?!http)[^)]+)\)", PAGES[page]):
        file, _, heading = target.partition("#")
        assert (PROJECT / "docs" / file).exists()
        assert not heading or heading in headings
