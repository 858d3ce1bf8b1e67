"""The inputs of a job: its parameters, as ModelArts' console passes them, and this process's place in the job.

Parameters are strings, and some are the platform's own. The environment states the number of servers and cards, and
which of them this process uses. There are two forms, depending on the platform's age:

- the boot file of a preset Ascend image runs **once per card**, with RANK_ID, RANK_SIZE (older: DEVICE_NUM), DEVICE_ID
  or ASCEND_DEVICE_ID, and RANK_TABLE_FILE;
- a boot command or a custom image runs **once per server**, with MA_NUM_HOSTS, MA_NUM_GPUS (cards per server, of any
  make), VC_TASK_INDEX (index of the server), VC_WORKER_HOSTS (names of the servers, the master first) and a rank table
  at a fixed path.
"""

import difflib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import click

from mindloc.cli.command import command, read_words
from mindloc.cli.options import config_options
from mindloc.errors import ConfigError, LaunchError
from mindloc.launch.host import host_names
from mindloc.launch.rank_table import find_server, read_rank_table
from mindloc.modelarts.stores import is_remote
from mindloc.reading import read_json
from mindloc.runtime.cluster import is_number, number_in

PROGRAM = "python modelarts/start.py"
WAY_OUT = f"{PROGRAM} --help lists the parameters"
JOB_TABLE = Path("/user/config/jobstart_hccl.json")
TABLE_WAIT_S = 600


def _truth(word: str) -> bool:
    """The bool for "True" or "False", which the console sends as text."""
    if word.lower() not in ("true", "false"):
        raise click.BadParameter(f"{word!r} is neither True nor False")
    return word.lower() == "true"


def _count(text: str) -> int | None:
    if text and not is_number(text):
        raise click.BadParameter(f"{text!r} is not an integer from 0")
    return int(text) if text else None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise click.BadParameter(f"{text!r} is not a number of seconds above 0")
    return seconds


def _filled(text: str) -> str | None:
    """The text of a field of the console; None if it was left empty."""
    return text or None


def _switch(name: str, default: bool | None, text: str) -> Callable[[Callable], Callable]:
    return click.option(
        name, type=_truth, default=None if default is None else str(default), metavar="True|False", help=text
    )


@command(
    "start.py",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    example="--data_url obs://bucket/data --train_url obs://bucket/out --config gta_uav_cross",
)
@click.option("--data_url", help="data set; a url is copied once per server, a path is read in place")
@click.option("--train_url", help="destination of the run directory, or of an evaluation's report")
@click.option("--checkpoint_url", type=_filled, help="weights to start from or to evaluate, or a run to continue")
@_switch("--modelarts", True, "False: not a job, run on this machine alone; paths only")
@_switch("--run_distribute", True, "False: use one card only")
@_switch(
    "--eval", None, "False: no evaluation while training; True: as the config says, but every epoch if it says never"
)
@_switch("--evaluate_only", False, "True: evaluate checkpoint_url on one card")
@click.option("--begin_epoch", type=_count, metavar="N", help="fail unless exactly N epochs are done")
@click.option("--scratch", type=_filled, help="disk for copies and results; default: /cache if there is one")
@click.option(
    "--upload_every_s",
    type=_seconds,
    default="15",
    metavar="S",
    help="seconds between searches for new results; default: 15",
)
@config_options()
def parameters(**values) -> None:
    """Train or evaluate as a ModelArts job. A url is obs://bucket/directory or a path."""


def parse_arguments(argv: Sequence[str]) -> SimpleNamespace:
    """Parse the job's parameters; unknown ones are named in a warning and ignored.

    Raises:
        ConfigError: a value is invalid for its parameter, or parameters contradict each other.
    """
    read = read_words(parameters, PROGRAM, argv, WAY_OUT)
    for words in _grouped(read.args):
        print(f"warning: ignored, mindloc has no such parameter: {' '.join(words)}{_near_miss(words[0])}", flush=True)
    return _checked(SimpleNamespace(**read.params))


def _checked(args: SimpleNamespace) -> SimpleNamespace:
    for name in ("data_url", "train_url"):
        if not getattr(args, name):
            raise ConfigError(f"--{name} is missing; give it in the console, as obs://bucket/directory or a path")
    if args.evaluate_only and not args.checkpoint_url:
        raise ConfigError("--evaluate_only needs --checkpoint_url: weights, or a run that was trained")
    for name in ("data_url", "train_url", "checkpoint_url"):
        url = getattr(args, name)
        if url and is_remote(url) and not args.modelarts:
            raise ConfigError(f"--modelarts is False and --{name} is {url}; give a path, or --modelarts True")
    return args


def _grouped(words: Sequence[str]) -> list[list[str]]:
    """Each unknown flag with the words after it."""
    groups: list[list[str]] = []
    for word in words:
        if word.startswith("--") or not groups:
            groups.append([])
        groups[-1].append(word)
    return groups


def _near_miss(word: str) -> str:
    flag = word.partition("=")[0]
    known = [name for param in parameters.params for name in param.opts]
    near = difflib.get_close_matches(flag, known, n=1, cutoff=0.8)
    return f" (did you mean {near[0]}?)" if near else ""


@dataclass(frozen=True, kw_only=True)
class Place:
    """This process's place in a job."""

    per_card: bool = False  # this process is one rank of several, started by the platform
    rank: int = 0
    ranks: int = 1
    device_id: int | None = None  # None: as the config says
    cards: int = 1  # of this server
    server: int = 0
    servers: int = 1
    master: str | None = None  # name of the first server
    table: Path | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process is rank 0 or starts it."""
        return self.rank == 0 and self.server == 0

    def rank_variables(self) -> dict[str, str]:
        """The environment variables of a rank that the platform started, under the names that MindSpore reads."""
        if self.table is None:
            raise LaunchError(
                f"RANK_ID is {self.rank} of {self.ranks}, but there is no rank table: RANK_TABLE_FILE is not set and "
                f"{JOB_TABLE} does not exist; choose an Ascend image, or --run_distribute False"
            )
        return {
            "RANK_TABLE_FILE": str(self.table),
            "RANK_ID": str(self.rank),
            "RANK_SIZE": str(self.ranks),
            "DEVICE_ID": str(self.device_id or 0),
        }


def read_place(environment: Mapping[str, str], job_table: Path = JOB_TABLE) -> Place:
    """The place that the environment states; one server with one card if it states nothing.

    Raises:
        LaunchError: a variable is not a number, or the rank or server is out of range.
    """
    table = _table_of(environment, job_table)
    ranks = number_in(environment, "RANK_SIZE", number_in(environment, "DEVICE_NUM", 1))
    if environment.get("RANK_ID"):
        return _one_card(environment, ranks, table)
    return _one_server(environment, ranks, table if table and table.is_file() else None)


def _one_card(environment: Mapping[str, str], ranks: int, table: Path | None) -> Place:
    rank = number_in(environment, "RANK_ID", 0)
    if rank >= ranks:
        raise LaunchError(f"RANK_ID is {rank}, but RANK_SIZE is {ranks}; ranks are numbered from 0")
    device_id = number_in(environment, "DEVICE_ID", number_in(environment, "ASCEND_DEVICE_ID", 0))
    return Place(per_card=ranks > 1, rank=rank, ranks=ranks, device_id=device_id, table=table)


def _one_server(environment: Mapping[str, str], ranks: int, table: Path | None) -> Place:
    servers = number_in(environment, "MA_NUM_HOSTS", number_in(environment, "VC_WORKER_NUM", 1))
    server = number_in(environment, "VC_TASK_INDEX", 0) if servers > 1 else 0
    if server >= servers:
        raise LaunchError(f"VC_TASK_INDEX is {server}, but MA_NUM_HOSTS is {servers}; servers are numbered from 0")
    cards = max(number_in(environment, "MA_NUM_GPUS", ranks // servers), 1)  # 0 on a server without accelerators
    master = environment.get("VC_WORKER_HOSTS", "").split(",")[0].strip() or None
    return Place(ranks=cards * servers, cards=cards, server=server, servers=servers, master=master, table=table)


def place_by_table(place: Place, environment: Mapping[str, str]) -> Place:
    """The place with servers numbered as in the rank table, if this process is the one that starts the ranks.

    Raises:
        LaunchError: the table is broken, is never completed, or does not list this server.
    """
    if place.per_card or place.ranks == 1 or place.table is None:
        return place
    _wait_until_finished(place.table)
    table = read_rank_table(place.table)
    server = find_server(table, host_names(environment)) if place.servers > 1 else 0
    return replace(place, server=server, ranks=table.size)


def _table_of(environment: Mapping[str, str], job_table: Path) -> Path | None:
    """The path of the rank table, or None. RANK_TABLE_FILE names its directory until the table is complete."""
    named = environment.get("RANK_TABLE_FILE")
    if not named:
        return job_table if job_table.is_file() else None
    return Path(named) / job_table.name if Path(named).is_dir() else Path(named)


def _wait_until_finished(table: Path) -> None:
    """Wait until the rank table is complete: the platform completes it when all containers of the job have started."""
    for waited_s in range(TABLE_WAIT_S):
        with suppress(LaunchError):  # being written; errors in the complete table are reported when it is parsed
            if read_json(table, LaunchError, "rank table", "wait").get("status") == "completed":
                return
        if waited_s == 0:
            print(f"rank table {table}: waiting until the platform has completed it", flush=True)
        time.sleep(1.0)
