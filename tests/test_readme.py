"""The README's commands, files and the shipped configs are real."""

import re
from pathlib import Path

import pytest
from documented_commands import check_command, commands

from mindloc.config import load_config

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
CONFIGS = sorted((PROJECT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("words", commands(README), ids=" ".join)
def test_every_command_of_the_readme_is_one(words):
    check_command(words)


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
