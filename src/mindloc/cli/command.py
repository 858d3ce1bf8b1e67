"""The parts that all commands share: options parsed by click, a user's errors as one line and an exit code.

An option may be written with ``-`` or ``_``. Options that set keys of the config are applied in their order on the
command line, so that the last one wins. A command that is stopped by Ctrl-C or SIGTERM has exit code 130.
"""

import errno
import functools
import os
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
        sets: function from the text on the command line ("" for a flag without a value) to ``key=value`` of every key.
        explained: function that returns (help, placeholder of the value); called only when a help page is printed.
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
    """An option followed by one or more values: ``--zooms 3 4``."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, multiple=True, **kwargs)


class Command(click.Command):
    """A command that keeps the words of its command line in ``context.obj``.

    Args:
        example: arguments that are shown as an example at the end of its help.
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
        """The arguments in the form that click parses: ``--zooms 3 4`` becomes ``--zooms 3 --zooms 4``."""
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
    """Parse a command line without running it: values are in ``params`` of the result, unknown words in ``args``.

    Args:
        way_out: where the options are explained; last part of the message.

    Raises:
        ConfigError: the command line can't be parsed.
    """
    try:
        return of.make_context(name, list(words))
    except click.UsageError as error:
        raise ConfigError(_usage_message(error, way_out)) from None


# exceptions that may end a command; any other is a defect and keeps its traceback
ENDS = (click.exceptions.Exit, click.UsageError, MindlocError, KeyboardInterrupt)
# what the system answers to a path that a user gave, already where one only looks whether it is there
_OF_PATHS = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM)


@contextmanager
def refused_paths() -> Iterator[None]:
    """Context in which a path that the system refuses to look at is an error of the user, not a defect.

    Raises:
        MindlocError: the path is too long, or inside a directory that may not be entered.
    """
    try:
        yield
    except OSError as reason:
        if reason.errno not in _OF_PATHS or reason.filename is None:
            raise
        raise MindlocError(
            f"{os.fsdecode(reason.filename)} can't be used: {reason.strerror}; check the path and its permissions"
        ) from None


def exit_code_of(run: Callable[[], int | None]) -> int:
    """Call ``run`` and return its exit code; an exception of ``ENDS`` is reported on one line."""
    try:
        with terminated_as_interrupted(), refused_paths():
            return run() or 0
    except ENDS as end:
        return reported(end)


def reported(end: BaseException) -> int:
    """Report an exception of ``ENDS`` on one line and return its exit code, 130 for Ctrl-C and SIGTERM."""
    if isinstance(end, click.exceptions.Exit):  # --help, --version
        return end.exit_code
    if isinstance(end, click.exceptions.NoArgsIsHelpError):
        print(end.format_message())
        return 0
    if isinstance(end, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
        return 130
    line = _usage_message(end, f"see {end.ctx.command_path} --help") if isinstance(end, click.UsageError) else str(end)
    print(f"error: {one_error_line(line)}", file=sys.stderr)
    return end.exit_code


def _usage_message(error: click.UsageError, way_out: str) -> str:
    """click's message on one line: what is wrong, perhaps what was meant, the way out."""
    message = " ".join(error.format_message().split()).rstrip(".")
    message = message.replace(". Did you", "; did you").replace(". (Did you", "; did you").replace("?)", "?")
    return f"{message[:1].lower()}{message[1:]}{' ' if message.endswith('?') else '; '}{way_out}"


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Context in which SIGTERM ends a command as Ctrl-C does.

    Once MindSpore reads data, it handles Ctrl-C itself: it sends SIGTERM to this process, which would end it without a
    message and leave the progress bar on the terminal.
    """
    if threading.current_thread() is not threading.main_thread():  # handlers can be set in the main thread only
        yield
        return
    with answered(signal.default_int_handler, signal.SIGTERM):
        yield
