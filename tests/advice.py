"""Ways out that messages name: commands, options and settings, to check that they exist and to try them."""

import functools
import re
import shlex
from collections.abc import Iterator

import click
from documented_commands import check_command

from mindloc.cli import COMMANDS, mindloc
from mindloc.cli.launch import _OPTIONS
from mindloc.config import Config, load_config
from mindloc.errors import MindlocError
from mindloc.modelarts.arguments import parameters

# a command of this program up to the end of its sentence, spelled as command_line() does
_COMMAND = re.compile(
    r"(?:\S*python\S* -m mindloc|(?<![\w/.-])mindloc) "
    rf"((?:{'|'.join(COMMANDS)})(?![\w-]).*?)(?=[;)]|, |: | for | or | and |$)"
)
_OPTION = re.compile(r"(?<![\w-])--[a-z]\w*")
_SETTING = re.compile(rf"\b(?:{'|'.join(Config.model_fields)})\.\w+(?==)")
_FOREIGN = ("--gpus", "--user", "--install")  # of docker, pip and wsl
_QUOTED = re.compile(r"(?<!\w)'[^']*'")  # what a user wrote


def commands_named(said: str, **known: object) -> list[list[str]]:
    """Arguments of every command of mindloc in what was said; words in capitals are replaced by what is ``known``."""
    found = [shlex.split(match) for match in _COMMAND.findall(said)]
    return [[str(known.get(word.partition(".")[0], word)) for word in words] for words in found]


def wrong_advice(said: str) -> Iterator[str]:
    """What of a message's advice does not exist, as lines."""
    for words in commands_named(said, NAME="world_tiny"):
        try:
            check_command(["mindloc", *words])
        except click.exceptions.Exit:  # --help
            pass
        except (AssertionError, MindlocError) as error:
            yield f"command {shlex.join(words)}: {error}"
    own = _QUOTED.sub("", said)
    for option in _OPTION.findall(own):
        if option.replace("-", "_").replace("__", "--", 1) not in _options() and option not in _FOREIGN:
            yield f"option {option}"
    for key in _SETTING.findall(own):
        section, _, name = key.partition(".")
        if not hasattr(getattr(load_config(), section), name):
            yield f"setting {key}"


@functools.cache
def _options() -> set[str]:
    """Every option of every command."""
    commands: list[click.Command] = [parameters, _OPTIONS]
    for name in COMMANDS:
        command = mindloc.get_command(click.Context(mindloc), name)
        inner = command.commands.values() if isinstance(command, click.Group) else []
        commands += [command, *inner]
    return {"--help", *(option for command in commands for param in command.params for option in param.opts)}
