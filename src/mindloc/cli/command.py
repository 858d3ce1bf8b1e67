"""What every command is made of: options read by click, errors of the user as one line and an exit code.

An option may be written with ``-`` or ``_``. One that sets a key of the config keeps its place among the others, so
that the last on the command line wins. A request to stop, Ctrl-C or SIGTERM, is exit code 130.
"""

import functools
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from mindloc.errors import ConfigError, MindlocError
from mindloc.runtime.console import one_error_line
from mindloc.runtime.process import answered

SETTINGS = {
    "token_normalize_func": lambda word: word.replace("-", "_"),
    "help_option_names": ["-h", "--help"],
}
PATH = click.Path(path_type=Path)
_NEGATIVE = re.compile(r"-\d")


class KeyOption(click.Option):
    """An option that sets keys of the config; a command gets all of them as ``overrides``, in their order.

    Args:
        sets: the text on the command line -> ``key=value`` of every key; of a flag without a value it gets "".
        explained: makes its help and the word for its value, only when a page of help is printed.
    """

    def __init__(
        self, *args: Any, sets: Callable[[str], list[str]], explained: Callable[[], tuple[str, str]], **kwargs: Any
    ):
        super().__init__(*args, expose_value=False, multiple=not kwargs.get("is_flag"), **kwargs)
        self.sets, self.explained = sets, explained

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        self.help, self.metavar = self.explained()
        return super().get_help_record(ctx)


class SeveralOption(click.Option):
    """An option with one value or more behind it: ``--zooms 3 4``."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, multiple=True, **kwargs)


class Command(click.Command):
    """A command, with the words of its command line in ``context.obj``.

    Args:
        example: arguments for the end of its help.
    """

    def __init__(self, *args: Any, example: str | None = None, **kwargs: Any):
        kwargs["context_settings"] = {**SETTINGS, **kwargs.get("context_settings", {})}
        super().__init__(*args, **kwargs)
        self.example = example

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.obj = tuple(args)
        args = self._spread(ctx, args)
        if not any(isinstance(param, KeyOption) for param in self.params):
            return super().parse_args(ctx, args)
        values, _, order = self.make_parser(ctx).parse_args(list(args))
        waiting = {name: iter(value if isinstance(value, list) else []) for name, value in values.items()}
        given = [param for param in order if isinstance(param, KeyOption)]
        ctx.params["overrides"] = tuple(
            override for param in given for override in param.sets(next(waiting[param.name], ""))
        )
        return super().parse_args(ctx, args)

    def _spread(self, ctx: click.Context, args: Sequence[str]) -> list[str]:
        """``--zooms 3 4`` as click reads it: ``--zooms 3 --zooms 4``."""
        several = {name for param in self.params if isinstance(param, SeveralOption) for name in param.opts}
        words: list[str] = []
        option = None
        for word in args:
            if option and words[-1] != option and (not word.startswith("-") or _NEGATIVE.match(word)):
                words.append(option)
            elif word.startswith("--"):
                option = word if word.replace("-", "_").replace("__", "--", 1) in several else None
            words.append(word)
        return words

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        if self.example is not None:
            with formatter.section("Example"):
                formatter.write(f"{'':{formatter.current_indent}}{ctx.command_path} {self.example}\n")


command = functools.partial(click.command, cls=Command)


def read_words(of: click.Command, name: str, words: Sequence[str], way_out: str) -> click.Context:
    """A command line that is read and not run, in ``params``; what is left over in ``args``.

    Args:
        way_out: where its options are explained.

    Raises:
        ConfigError: it can't be read.
    """
    try:
        return of.make_context(name, list(words))
    except click.UsageError as error:
        raise ConfigError(_said(error, way_out)) from None


# how a command may end, besides its return; anything else is a defect and keeps its traceback
ENDS = (click.exceptions.Exit, click.UsageError, MindlocError, KeyboardInterrupt)


def exit_code_of(run: Callable[[], int | None]) -> int:
    """Run it; an end other than its return is reported in one line."""
    try:
        with terminated_as_interrupted():
            return run() or 0
    except ENDS as end:
        return reported(end)


def reported(end: BaseException) -> int:
    """The exit code of one of ``ENDS``, after its one line; Ctrl-C and SIGTERM give 130."""
    if isinstance(end, click.exceptions.Exit):  # --help, --version
        return end.exit_code
    if isinstance(end, click.exceptions.NoArgsIsHelpError):
        print(end.format_message())
        return 0
    if isinstance(end, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
        return 130
    line = _said(end, f"see {end.ctx.command_path} --help") if isinstance(end, click.UsageError) else str(end)
    print(f"error: {one_error_line(line)}", file=sys.stderr)
    return end.exit_code


def _said(error: click.UsageError, way_out: str) -> str:
    """click's sentences as one of ours: what is wrong, perhaps what was meant, the way out."""
    message = " ".join(error.format_message().split()).rstrip(".")
    message = message.replace(". Did you", "; did you").replace(". (Did you", "; did you").replace("?)", "?")
    return f"{message[:1].lower()}{message[1:]}{' ' if message.endswith('?') else '; '}{way_out}"


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does.

    Once MindSpore reads data it answers Ctrl-C itself, by a SIGTERM to this process: without a word, and with the
    terminal's progress bar left as it was.
    """
    if threading.current_thread() is not threading.main_thread():  # only there can a handler be set
        yield
        return
    with answered(signal.default_int_handler, signal.SIGTERM):
        yield
