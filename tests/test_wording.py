"""One word per thing, in code, messages, docs and tests; CONTRIBUTING.md says why."""

import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
KINDS = ("src/**/*.py", "src/**/*.yaml", "scripts/*", "benchmarks/**/*.py", "modelarts/*", "tests/**/*.py")
QUOTED = {Path(__file__).resolve(), PROJECT / "docs/results/architecture.md"}  # they list the words
INSTEAD = {  # pattern -> what the project says
    r"pictures?": "image",
    r"folders?": "directory",
    r"librar(y|ies) of (images|tiles)": "index",
    r"way back": "backward pass",
    r"compan(y|ions?)": "mined pairs",
    r"asks|asked|wish(es|ed)?": "requested",
    r"beforehand": "preflight checks",
    r"(?<!-)stands?(?![-_ ]in)|stood": "is",
    r"lies?": "is",
    r"begins|began|begun|beginning": "starts",
    r"holds": "contains",
    r"(?<!there )(is|are|was|were) no (?!longer|more|less|better|worse|faster|slower|larger|smaller)\w+": "is not a",
    r"told|tells?(?!\()": "is given, is printed",
    r"whoever": "who",
    r"(goes|go|going|went)[ _]on": "continues",
    r"anew": "again",
    r"Letters:|Suffixes:": "Shapes:",
    r"(?<![\w.:!>%{])\.\d+ (%|of|and|to)": "0.5, with the zero",
}
PATTERN = re.compile(
    "|".join(rf"(?P<w{n}>(?<![a-zA-Z])(?:{words})(?![a-zA-Z]))" for n, words in enumerate(INSTEAD)), re.IGNORECASE
)


def found_in(text: str) -> list[str]:
    """``word: replacement`` for each word of the text that should be replaced."""
    return [f"{match[0]}: {list(INSTEAD.values())[int(match.lastgroup[1:])]}" for match in PATTERN.finditer(text)]


def test_the_project_uses_one_word_per_thing():
    files = [path for kind in KINDS for path in PROJECT.glob(kind) if path.is_file() and path.suffix != ".pyc"]
    files += [*PROJECT.glob("docs/**/*.md"), *PROJECT.glob("*.md")]
    wrong = [
        f"{path.relative_to(PROJECT)}:{number}: {words}"
        for path in files
        if path not in QUOTED
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        for words in found_in(line)
    ]
    assert len(files) > 300 and not wrong, "\n".join(wrong)


def test_each_of_the_words_is_found():
    text = "A picture in the folder stands .39 of the way; whoever is told goes on: is no file, the way back."
    assert [words.partition(":")[0] for words in found_in(text)] == [
        *("picture", "folder", "stands", ".39 of", "whoever", "told", "goes on", "is no file", "way back")
    ]
    assert not found_in("The data set contains images; 0.39 of them show stand-ins. It allies and foretells.")
