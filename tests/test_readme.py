"""The README's commands, files and the shipped configs are real."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from mindloc.config import load_config

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
CONFIGS = sorted((PROJECT / "configs").glob("*.yaml"))


def commands(text: str) -> list[list[str]]:
    """Words of every command in the text's bash blocks, comments taken off."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    return [words for block in blocks for line in block.splitlines() if (words := shlex.split(line, comments=True))]


def parse(words: list[str]) -> None:
    """Let the command's own parser read its arguments; it exits on what it does not know."""
    if words[:3] == ["python", "-m", "mindloc"]:
        name, arguments = words[3].replace("-", "_"), words[4:]
    else:
        name, arguments = Path(words[1]).stem, words[2:]
    args = importlib.import_module(f"mindloc.cli.{name}").parser().parse_args(arguments)
    if getattr(args, "config", None):
        load_config(PROJECT / args.config, args.overrides)


@pytest.mark.parametrize("words", commands(README), ids=" ".join)
def test_every_command_of_the_readme_is_one(words):
    if words[0] == "bash":
        assert (PROJECT / words[1]).is_file()
    else:
        parse(words)


def test_there_are_commands():
    assert len(commands(README)) > 5


@pytest.mark.parametrize("target", re.findall(r"\]\(((?!http)[^)#]+)\)", README))
def test_every_link_of_the_readme_leads_somewhere(target):
    assert (PROJECT / target).exists()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_loads_and_says_what_to_expect(path):
    load_config(path)
    header = "".join(line for line in path.read_text(encoding="utf-8").splitlines(True) if line.startswith("#"))
    for part in ("Command:", "Hardware:", "Expected:"):
        assert part in header, f"{path.name} does not state {part}"
