"""Commands as the documents print them, each held against the parser that would read it."""

import contextlib
import importlib
import io
import re
import shlex
from pathlib import Path

from mindloc.cli import train
from mindloc.cli.launch import SCRIPTS
from mindloc.config import load_config
from mindloc.errors import MindlocError
from mindloc.modelarts.arguments import parser as modelarts_parser

PROJECT = Path(__file__).parents[1]


def commands(text: str) -> list[list[str]]:
    """Words of every command in the text's bash blocks; comments and variables set in front are taken off."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    found = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [words[_variables(words) :] for words in found if words]


def wrong_commands(text: str) -> list[str]:
    """The text's commands that would not be taken, each with the reason."""
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
    """Let the command's own parser read its arguments; it exits on what it does not know."""
    program = Path(words[1]).name
    if words[0] == "pip":
        assert all((PROJECT / file).is_file() for option, file in zip(words, words[1:], strict=False) if option == "-r")
    elif words[0] == "source":
        assert words[1] in (".venv/bin/activate", ".venv/gpu.env")  # what the scripts make
    elif words[0] == "bash":
        assert (PROJECT / words[1]).is_file()
        if program in [script.file for script in SCRIPTS.values()]:
            _check_script(program, words[2:])
    elif words[1] == "modelarts/start.py":
        _, unknown = modelarts_parser().parse_known_args(words[2:])
        assert unknown == []
    else:
        _check_program(words)


def _variables(words: list[str]) -> int:
    """How many ``NAME=value`` stand before the command."""
    return next((i for i, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)), len(words))


def _check_script(file: str, words: list[str]) -> None:
    """Count the places of a script and let the program's parser read its options."""
    script = next(script for script in SCRIPTS.values() if script.file == file)
    places = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    names = [script.first, *script.places.split()]
    assert len([name for name in names if not name.startswith("[")]) <= places <= len(names)
    assert all(word.isdecimal() or word in ("True", "False") for word in words[4:places]), "no BEGIN_EPOCH"
    if script.program == "train.py":
        train.parser().parse_args(["--config", "any.yaml", *words[places:]])


def _check_program(words: list[str]) -> None:
    if words[:3] == ["python", "-m", "mindloc"]:
        name, arguments = words[3].replace("-", "_"), words[4:]
    else:
        name, arguments = Path(words[1]).stem, words[2:]
    args = importlib.import_module(f"mindloc.cli.{name}").parser().parse_args(arguments)
    if getattr(args, "config", None):
        load_config(PROJECT / args.config, args.overrides)
