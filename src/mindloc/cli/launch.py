"""Command that starts a training run or an evaluation for scripts/run_*.sh, which pass it their own arguments."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from mindloc.cli.command import Command, command, read_words
from mindloc.cli.train import TrainingCommand, train
from mindloc.errors import LaunchError
from mindloc.launch.plan import (
    Plan,
    cards_of_this_server,
    meeting_place,
    place_of_this_server,
    plan_ranks,
)
from mindloc.launch.processes import alone, own_command, with_source
from mindloc.launch.rank_table import read_rank_table
from mindloc.launch.supervise import new_log_directory, remove_log_directory, run_plan
from mindloc.runtime.cluster import card_numbers, is_number
from mindloc.runtime.process import command_line, variables_for_children

DEFAULT_EXPERIMENT = "gta_uav_cross"
_TRAIN_PLACES = "DATASET_PATH TRAIN_OUTPUT_PATH [CHECKPOINT_PATH] [BEGIN_EPOCH] [EVAL_CALLBACK]"
_EVAL_PLACES = "DATASET_PATH CHECKPOINT_PATH"
MOST_RANKS = 1024  # per server; far more than the cards of any server


@dataclass(frozen=True)
class Script:
    """One of the scripts, with the meaning of its positional arguments."""

    file: str
    first: str  # name of the first argument
    target: str | None = None  # device target of the script
    several: bool = False  # starts several ranks, perhaps on several servers
    evaluates: bool = False

    @property
    def program(self) -> str:
        return "eval" if self.evaluates else "train"

    @property
    def places(self) -> str:
        """Names of the arguments after the first, optional ones in brackets."""
        return _EVAL_PLACES if self.evaluates else _TRAIN_PLACES

    @property
    def usage(self) -> str:
        return f"usage: bash scripts/{self.file} {self.first} {self.places} [options of {self.program} ...]"


SCRIPTS = {
    "train": Script("run_distribute_train.sh", "RANK_TABLE_FILE|RANKS", several=True),
    "standalone": Script("run_standalone_train.sh", "DEVICE_ID"),
    "eval": Script("run_eval.sh", "DEVICE_ID", evaluates=True),
    "train-gpu": Script("run_distribute_train_gpu.sh", "GPU_IDS", "GPU", several=True),
    "eval-gpu": Script("run_eval_gpu.sh", "DEVICE_ID", "GPU", evaluates=True),
}


# the options of train, which a script passes on, and the scripts' own --launcher
_OPTIONS = Command("options", params=[*train.params, click.Option(["--launcher"])], add_help_option=False)


@command(
    "launch",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="\n\n".join(f"{kind} {script.first} {script.places}" for kind, script in SCRIPTS.items()),
)
@click.argument("kind", type=click.Choice(list(SCRIPTS)), metavar="KIND")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="...")
def launch(kind: str, arguments: tuple[str, ...]) -> int:
    """Start a training run or an evaluation as the scripts do: KIND is one of those below, followed by its arguments
    and then by options of train or eval.

    Environment variables, with defaults in parentheses: CONFIG, the experiment (gta_uav_cross). LAUNCHER, rank_table or
    msrun. For several servers: SERVER_ID, the number of this server, from 0 (found by its address in a rank table);
    MASTER_ADDR and MASTER_PORT, where ranks under msrun meet (the first server of a rank table, 8118); SERVER_COUNT,
    the number of servers (that of the rank table).
    """
    script = SCRIPTS[kind]
    if arguments in (("-h",), ("--help",)):
        print(f"{script.usage}\n\n{launch.help}")
        return 0
    given = read_arguments(script, arguments)
    if script.evaluates:
        return become_evaluation(script, given)
    return run_plan(plan_training(script, given, os.environ))


def become_evaluation(script: Script, given: "ScriptArguments") -> int:
    """Replace this process by the evaluation, which has one rank and prints to the console."""
    target = ["--device_target", script.target] if script.target else []
    words = ["--checkpoint", str(given.checkpoint), "--data_root", str(given.dataset)]
    words += ["--device_id", str(given.device_ids[0]), *target, *given.options]
    environment = {**with_source(alone(os.environ)), **variables_for_children()}
    sys.stdout.flush()
    os.execve(sys.executable, own_command("eval", *words), environment)


def plan_training(script: Script, given: "ScriptArguments", environment: Mapping[str, str]) -> Plan:
    """Plan the ranks of a training run on this server, after all checks that are possible before they start.

    Raises:
        LaunchError: an argument, the rank table or the number of ranks is invalid.
        ConfigError: the config or an override is invalid.
        DeviceError, CheckpointError: for the reasons given in ``check_before_start``.
    """
    training, launcher = read_training(script, given, environment)
    table = read_rank_table(given.table) if given.table else None
    server, count = place_of_this_server(environment, table, script.several)
    if table:  # it names the cards
        cards, size, first_card = (), table.size, table.servers[0].cards[0].device_id
    else:
        cards = given.device_ids or cards_of_this_server(given.ranks, training.config.run.device_ids)
        size, first_card = len(cards) * count, cards[0]
    target, words = training.checked(size, first_card, environment)
    master = meeting_place(environment, count)
    log_dir = new_log_directory(given.output)
    try:
        return plan_ranks(
            own_command("train", *words),
            target=target,
            log_dir=log_dir,
            table=table,
            device_ids=cards,
            server_index=server,
            server_count=count,
            master=master,
            launcher=launcher,
            environment=with_source(environment),
        )
    except LaunchError:
        remove_log_directory(log_dir)  # nothing was started
        raise


def read_training(
    script: Script, given: "ScriptArguments", environment: Mapping[str, str]
) -> tuple[TrainingCommand, str | None]:
    """(training command for the arguments, launcher that the user requests or None)."""
    explained = f"{script.file} takes the options of {command_line('train', '--help')} and --launcher"
    options = read_words(_OPTIONS, script.file, given.options, explained).params
    if options["resume"]:
        raise LaunchError("--resume is an option of train only; give the run directory to continue as CHECKPOINT_PATH")
    resumed = given.checkpoint if resumes(given) else None
    training = TrainingCommand(
        experiment=options["config"] or environment.get("CONFIG") or DEFAULT_EXPERIMENT,
        data=given.dataset,
        resumed=resumed,
        run_dir=options["run_dir"],
        work_dir=given.output,
        weights=None if resumed else given.checkpoint,
        target=script.target,
        evaluates=given.eval_callback,
        begin_epoch=options["begin_epoch"] if given.begin_epoch is None else given.begin_epoch,
        own=options["overrides"],
    )
    # the environment's LAUNCHER does not apply to a script that starts one rank
    return training, options["launcher"] or (environment.get("LAUNCHER") if script.several else None) or None


def resumes(given: "ScriptArguments") -> bool:
    """Whether the checkpoint is a run directory to resume.

    Raises:
        LaunchError: it is a directory, but not a run directory.
    """
    if given.checkpoint is None or given.checkpoint.is_file():
        return False
    if not (given.checkpoint / "config.yaml").is_file():
        raise LaunchError(
            f"CHECKPOINT_PATH {given.checkpoint} is a directory without config.yaml; give a run directory "
            "(work_dir/NAME/MMDDhhmmss) to continue it, or a .safetensors file to start from its weights"
        )
    return True


@dataclass(frozen=True)
class ScriptArguments:
    """The checked arguments of a script; paths are absolute."""

    table: Path | None = None  # rank table
    ranks: int | None = None  # number of ranks, given instead of a table
    device_ids: tuple[int, ...] = ()
    dataset: Path = field(default_factory=Path)
    output: Path = field(default_factory=Path)
    checkpoint: Path | None = None  # None: from scratch
    begin_epoch: int | None = None
    eval_callback: bool = False
    options: tuple[str, ...] = ()  # for the program, unchanged


def read_arguments(script: Script, argv: Sequence[str]) -> ScriptArguments:
    """Parse the arguments of a script.

    Raises:
        LaunchError: there are too few or too many arguments, a path does not exist, or a value is not a number. The
            usage is a second line of the message.
    """
    try:
        first_option = next((i for i, word in enumerate(argv) if word.startswith("--")), len(argv))
        places, options = list(argv[:first_option]), tuple(argv[first_option:])
        names = [script.first, *script.places.split()]
        required = [name for name in names if not name.startswith("[")]
        if not len(required) <= len(places) <= len(names):
            most = f" to {len(names)}" if len(names) > len(required) else ""
            raise LaunchError(
                f"{len(places)} arguments before the options, expected {len(required)}{most}; give them in this order"
            )
        values = {"dataset": _directory("DATASET_PATH", places[1]), "options": options}
        values |= _FIRST_PLACES[script.first](places[0])
        if script.evaluates:
            return ScriptArguments(**values, checkpoint=_existing("CHECKPOINT_PATH", places[2]))
        checkpoint = _existing("CHECKPOINT_PATH", places[3]) if "".join(places[3:4]) else None
        return ScriptArguments(**values, output=_output(places[2]), checkpoint=checkpoint, **_last_places(places[4:]))
    except LaunchError as error:
        raise LaunchError(f"{error}\n{script.usage}") from None


def _one_card(word: str) -> dict:
    if not is_number(word):
        raise LaunchError(f"DEVICE_ID is {word!r}, expected a card's number such as 0")
    return {"device_ids": (int(word),)}


def _several_cards(word: str) -> dict:
    return {"device_ids": card_numbers("GPU_IDS", word)}


def _table_or_ranks(word: str) -> dict:
    if not is_number(word):
        return {"table": _file("RANK_TABLE_FILE", word)}
    if int(word) == 0:
        raise LaunchError("RANKS is 0, expected the number of ranks to start on this server; give 1 or more")
    if int(word) > MOST_RANKS:
        raise LaunchError(f"RANKS is {word}, more than the {MOST_RANKS} that one server may start; give fewer")
    return {"ranks": int(word)}


_FIRST_PLACES = {"DEVICE_ID": _one_card, "GPU_IDS": _several_cards, "RANK_TABLE_FILE|RANKS": _table_or_ranks}


def _last_places(words: Sequence[str]) -> dict:
    """The values of BEGIN_EPOCH and EVAL_CALLBACK, which are distinguished by their type."""
    values: dict[str, int | bool] = {}
    for word in words:
        if is_number(word):
            name, value = "begin_epoch", int(word)
        elif word in ("True", "False", "true", "false"):
            name, value = "eval_callback", word in ("True", "true")
        else:
            raise LaunchError(f"{word!r} is neither a BEGIN_EPOCH, such as 3, nor an EVAL_CALLBACK, True or False")
        if name in values:
            raise LaunchError(f"{name.upper()} is given twice, the second time as {word!r}; leave one out")
        values[name] = value
    return values


def _existing(name: str, word: str) -> Path:
    path = Path(word).absolute()
    if not word or not path.exists():
        raise LaunchError(
            f"{name} {word or '(empty)'} does not exist; check the path (current directory: {Path.cwd()})"
        )
    return path


def _directory(name: str, word: str) -> Path:
    path = _existing(name, word)
    if not path.is_dir():
        raise LaunchError(f"{name} {word} is a file, expected a directory; give the directory that contains it")
    return path


def _file(name: str, word: str) -> Path:
    path = _existing(name, word)
    if not path.is_file():
        raise LaunchError(f"{name} {word} is a directory, expected a file or a number of ranks")
    return path


def _output(word: str) -> Path:
    path = Path(word).absolute()
    if not word or (path.exists() and not path.is_dir()):
        raise LaunchError(f"TRAIN_OUTPUT_PATH {word or '(empty)'} is not a directory; name a new or an existing one")
    return path
