"""The parameters of a job, as ModelArts' console hands them over: strings, and some that are the platform's own."""

import argparse
import difflib
import re
from collections.abc import Sequence

from mindloc.cli.boundary import OneLineParser
from mindloc.cli.flags import add_config_arguments
from mindloc.errors import ConfigError
from mindloc.modelarts.object_store import is_remote
from mindloc.runtime.whole_numbers import is_number

WAY_OUT = "python modelarts/start.py --help lists the parameters"


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The job's parameters; what nobody knows is named in a warning and left out.

    Raises:
        ConfigError: a value that is not what its parameter takes, or parameters that don't go together.
    """
    args, unknown = parser().parse_known_args(list(argv))
    for words in _grouped(unknown):
        print(f"warning: ignored, mindloc has no such parameter: {' '.join(words)}{_near_miss(words[0])}", flush=True)
    return _checked(args)


def parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        way_out=WAY_OUT,
        prog="modelarts/start.py",
        description="Train or evaluate as a ModelArts job. A url is obs://bucket/folder or a path.",
        allow_abbrev=False,
    )
    parser.add_argument("--data_url", help="the data set; copied once per server, a path is read in place")
    parser.add_argument("--train_url", help="gets the run folder, or the report of an evaluation")
    parser.add_argument(
        "--checkpoint_url", type=_filled, help="weights to begin from or to evaluate, or a run to go on with"
    )
    _add_switch(parser, "--modelarts", True, "False: no job, this machine alone; paths only")
    _add_switch(parser, "--run_distribute", True, "False: one card of those there are")
    _add_switch(
        parser, "--eval", None, "False: no evaluation while training; True: as the config says, each epoch if never"
    )
    _add_switch(parser, "--evaluate_only", False, "True: evaluate checkpoint_url on one card")
    parser.add_argument("--begin_epoch", type=_count, help="refuse unless exactly so many epochs are done")
    parser.add_argument("--scratch", type=_filled, help="disk for copies and results; default: /cache if there is one")
    parser.add_argument("--upload_every_s", type=_seconds, default=15.0, help="seconds between looks for new results")
    add_config_arguments(parser)
    return parser


def _checked(args: argparse.Namespace) -> argparse.Namespace:
    for name in ("data_url", "train_url"):
        if not getattr(args, name):
            raise ConfigError(f"--{name} is missing; the console's recipe gives it, as obs://bucket/folder or a path")
    if args.evaluate_only and not args.checkpoint_url:
        raise ConfigError("--evaluate_only needs --checkpoint_url: weights, or a run that was trained")
    for name in ("data_url", "train_url", "checkpoint_url"):
        url = getattr(args, name)
        if url and is_remote(url) and not args.modelarts:
            raise ConfigError(f"--modelarts is False and --{name} is {url}; give a path, or --modelarts True")
    return args


def _add_switch(parser: argparse.ArgumentParser, name: str, default: bool | None, text: str) -> None:
    parser.add_argument(name, type=_truth, default=default, metavar="True|False", help=text)


def _truth(word: str) -> bool:
    """The console sends "True" and "False"; Python calls both true."""
    if word.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{word!r} is neither True nor False")
    return word.lower() == "true"


def _count(text: str) -> int | None:
    if text and not is_number(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0")
    return int(text) if text else None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def _filled(text: str) -> str | None:
    """A field of the console that was left empty says nothing."""
    return text or None


def _grouped(words: Sequence[str]) -> list[list[str]]:
    """Each unknown flag with the words behind it."""
    groups: list[list[str]] = []
    for word in words:
        if word.startswith("--") or not groups:
            groups.append([])
        groups[-1].append(word)
    return groups


def _near_miss(word: str) -> str:
    flag = word.partition("=")[0]
    near = difflib.get_close_matches(flag, re.findall(r"--\w+", parser().format_usage()), n=1, cutoff=0.8)
    return f" (did you mean {near[0]}?)" if near else ""
