"""The README's commands and links work, and every shipped config states its expected result."""

import re
from pathlib import Path

from documented_commands import commands, wrong_commands

from mindloc.config import load_config
from mindloc.config.loader import SHIPPED
from mindloc.errors import MindlocError

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")


def test_every_command_is_valid():
    assert len(commands(README)) > 5
    assert wrong_commands(README) == []


def test_every_link_has_a_target():
    targets = re.findall(r"\]\(((?!http)[^)#]+)\)", README)
    assert [target for target in targets if not (PROJECT / target).exists()] == []


def test_every_shipped_config_loads_and_states_what_to_expect():
    wrong = []
    for path in SHIPPED.values():
        try:
            load_config(path)
        except MindlocError as error:
            wrong.append(f"{path.name}: {error}")
        header = "".join(line for line in path.read_text(encoding="utf-8").splitlines(True) if line.startswith("#"))
        parts = ("Command:", "Hardware:", "Expected:")
        wrong += [f"{path.name} does not state {part}" for part in parts if part not in header]
    assert wrong == []
