"""Commands in the documentation, each checked with the parser of its program."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import click

from mindloc.cli import mindloc
from mindloc.cli.command import read_words
from mindloc.cli.launch import SCRIPTS
from mindloc.cli.train import train
from mindloc.config import load_config
from mindloc.errors import MindlocError
from mindloc.modelarts.arguments import parameters

PROJECT = Path(__file__).parents[1]


def commands(text: str) -> list[list[str]]:
    """Words of every command in the text's bash blocks, without comments and leading variable assignments."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    found = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [words[_variables(words) :] for words in found if words]


def wrong_commands(text: str) -> list[str]:
    """The text's commands that would be rejected, each with the reason."""
    wrong = []
    for words in commands(text):
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                check_command(words)
        except (AssertionError, ImportError, MindlocError, SystemExit) as error:
            wrong.append(f"{' '.join(words)}: {error} {said.getvalue()[-300:]}")
    return wrong


def check_command(words: list[str]) -> None:
    """Parse the arguments with the command's own parser, which exits on an unknown one."""
    program = Path(words[1]).name if words[1:] else ""
    if words[0] == "pip":
        assert all((PROJECT / file).is_file() for option, file in zip(words, words[1:], strict=False) if option == "-r")
    elif words[0] == "source":
        assert words[1] in (".venv/bin/activate", ".venv/gpu.env")  # files that the scripts create
    elif words[0] == "bash":
        assert (PROJECT / words[1]).is_file()
        if program in [script.file for script in SCRIPTS.values()]:
            _check_script(program, words[2:])
    elif words[1] == "modelarts/start.py":
        assert read_words(parameters, program, words[2:], "").args == []
    else:
        _check_program(words)


def _variables(words: list[str]) -> int:
    """Number of ``NAME=value`` assignments before the command."""
    return next((i for i, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)), len(words))


def _check_script(file: str, words: list[str]) -> None:
    """Check the number of positional arguments of a script, and its options with the program's parser."""
    script = next(script for script in SCRIPTS.values() if script.file == file)
    places = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    names = [script.first, *script.places.split()]
    assert len([name for name in names if not name.startswith("[")]) <= places <= len(names)
    assert all(word.isdecimal() or word in ("True", "False") for word in words[4:places]), "not a BEGIN_EPOCH"
    if script.program == "train":
        read_words(train, "train", words[places:], "")


def _check_program(words: list[str]) -> None:
    if words[0] == "mindloc":
        name, *arguments = words[1:]
    elif words[:3] == ["python", "-m", "mindloc"]:
        name, *arguments = words[3:]
    else:
        name, arguments = Path(words[1]).stem, words[2:]
    command = mindloc.get_command(None, name)
    assert command, f"there is no command {name}"
    if isinstance(command, click.Group):
        name, *arguments = arguments
        command = command.get_command(None, name)
    params = read_words(command, name, arguments, "").params
    if "config" in params:
        load_config(params["config"], params["overrides"])
