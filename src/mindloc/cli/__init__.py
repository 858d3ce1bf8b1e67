"""The command line: arguments in, exit code out. A module of commands is imported when one of them is called."""

import os
import sys

try:
    import click
except ModuleNotFoundError:
    raise SystemExit("error: the package click is not installed: pip install -r requirements.txt") from None

from mindloc import __version__
from mindloc.cli.command import ENDS, SETTINGS, refused_paths, reported, terminated_as_interrupted
from mindloc.errors import MindlocError
from mindloc.registry import imported
from mindloc.runtime.console import safe_console
from mindloc.runtime.process import command_line

# name -> (module:function, help)
COMMANDS = {
    "world": ("data:world", "make a data set: a generated map, its tiles and drone images"),
    "check-data": ("data:check", "read a data set and report on one page what is there and what is wrong"),
    "train": ("train:train", "train an encoder (as train.py)"),
    "eval": ("eval:evaluate_encoder", "evaluate a checkpoint (as eval.py)"),
    "score": ("eval:score", "recompute an evaluation from its descriptor sets, without a device"),
    "extract": ("extract:extract_directory", "write the descriptors of a directory of images"),
    "pca": ("index:pca", "fit the reduction of descriptors on those of many tiles"),
    "index": ("index:index", "build, change or describe an index of tiles that can be searched"),
    "search": ("search:search", "search an index of tiles for drone images"),
    "export": ("export:export", "write a trained encoder for a device (as export.py)"),
    "launch": ("launch:launch", "start the ranks of a training run, as the scripts do"),
    "rank-table": ("rank_table:rank_table", "write or check the table of an Ascend cluster's ranks"),
    "doctor": ("doctor:doctor", "report what this machine has and lacks for each device target"),
}


class _Commands(click.Group):
    """The group of all commands; listing them imports none of their modules."""

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        place, _ = COMMANDS.get(name.replace("_", "-"), (None, None))
        return place and imported(f"mindloc.cli.{place}")

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def resolve_command(self, ctx: click.Context, args: list[str]):
        name, *_ = args
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            raise click.exceptions.NoSuchCommand(name, possibilities=COMMANDS, ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=_Commands, context_settings=SETTINGS)
@click.version_option(__version__, message="%(version)s")
def mindloc() -> None:
    """Find a drone image in an index of satellite tiles."""


def main(argv: list[str] | None = None, command: str | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        argv: the arguments, after the name of the command if ``command`` is None; None: those of this process.
        command: name of the command if the program has only this one, as train.py has.
    """
    with safe_console() as output:
        code = _run(argv, command)
    if output.failure is not None:
        print(f"error: standard output can't be written: {output.failure.strerror}", file=sys.stderr)
    return code or int(output.failure is not None)


def _run(argv: list[str] | None, command: str | None) -> int:
    try:
        if os.name == "nt":
            raise MindlocError("mindloc does not run on Windows itself; run it in WSL, its Linux: wsl --install")
        chosen = mindloc if command is None else mindloc.get_command(None, command)
        words = sys.argv[1:] if argv is None else argv
        program = command_line(*filter(None, [command]))
        with terminated_as_interrupted(), refused_paths(), chosen.make_context(program, list(words)) as context:
            return chosen.invoke(context) or 0
    except ENDS as end:
        return reported(end)
