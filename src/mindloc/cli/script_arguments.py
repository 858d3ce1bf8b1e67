"""The argument lists of scripts/run_*.sh, as their users know them, checked before anything starts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mindloc.errors import LaunchError
from mindloc.runtime.whole_numbers import card_numbers, is_number

_TRAIN_PLACES = "DATASET_PATH TRAIN_OUTPUT_PATH [CHECKPOINT_PATH] [BEGIN_EPOCH] [EVAL_CALLBACK]"
_EVAL_PLACES = "DATASET_PATH CHECKPOINT_PATH"
MOST_RANKS = 1024  # on one server: far more than any has cards


@dataclass(frozen=True)
class Script:
    """One of the scripts: what its places mean."""

    file: str
    first: str  # what the first place holds
    target: str | None = None  # device target that the script stands for
    several: bool = False  # ranks, perhaps on several servers
    evaluates: bool = False

    @property
    def program(self) -> str:
        return "eval.py" if self.evaluates else "train.py"

    @property
    def places(self) -> str:
        """Those after the first, optional ones in brackets."""
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


@dataclass(frozen=True)
class ScriptArguments:
    """A checked argument list; paths are absolute."""

    table: Path | None = None  # rank table
    ranks: int | None = None  # a number in its place
    device_ids: tuple[int, ...] = ()
    dataset: Path = field(default_factory=Path)
    output: Path = field(default_factory=Path)
    checkpoint: Path | None = None  # None: from scratch
    begin_epoch: int | None = None
    eval_callback: bool = False
    options: tuple[str, ...] = ()  # for the program, unchanged


def read_arguments(script: Script, argv: Sequence[str]) -> ScriptArguments:
    """The argument list of a script.

    Raises:
        LaunchError: too few or too many places, a path that is not there, no number where one belongs. The usage
            follows on a line of its own.
    """
    try:
        first_option = next((i for i, word in enumerate(argv) if word.startswith("--")), len(argv))
        places, options = list(argv[:first_option]), tuple(argv[first_option:])
        names = [script.first, *script.places.split()]
        required = [name for name in names if not name.startswith("[")]
        if not len(required) <= len(places) <= len(names):
            most = f" to {len(names)}" if len(names) > len(required) else ""
            raise LaunchError(f"{len(places)} arguments before the options, expected {len(required)}{most}")
        values = {"dataset": _folder("DATASET_PATH", places[1]), "options": options}
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
        raise LaunchError("RANKS is 0, expected how many ranks this server is to start")
    if int(word) > MOST_RANKS:
        raise LaunchError(f"RANKS is {word}, more than the {MOST_RANKS} that one server may start; give fewer")
    return {"ranks": int(word)}


_FIRST_PLACES = {"DEVICE_ID": _one_card, "GPU_IDS": _several_cards, "RANK_TABLE_FILE|RANKS": _table_or_ranks}


def _last_places(words: Sequence[str]) -> dict:
    """BEGIN_EPOCH and EVAL_CALLBACK, told apart by what they are."""
    values: dict[str, int | bool] = {}
    for word in words:
        if is_number(word):
            name, value = "begin_epoch", int(word)
        elif word in ("True", "False", "true", "false"):
            name, value = "eval_callback", word in ("True", "true")
        else:
            raise LaunchError(f"{word!r} is neither a BEGIN_EPOCH, such as 3, nor an EVAL_CALLBACK, True or False")
        if name in values:
            raise LaunchError(f"{name.upper()} is given twice, the second time as {word!r}")
        values[name] = value
    return values


def _existing(name: str, word: str) -> Path:
    path = Path(word).absolute()
    if not word or not path.exists():
        raise LaunchError(f"{name} {word or '(empty)'} is not there; check the path (from here: {Path.cwd()})")
    return path


def _folder(name: str, word: str) -> Path:
    path = _existing(name, word)
    if not path.is_dir():
        raise LaunchError(f"{name} {word} is a file, expected a folder")
    return path


def _file(name: str, word: str) -> Path:
    path = _existing(name, word)
    if not path.is_file():
        raise LaunchError(f"{name} {word} is a folder, expected a file or a number of ranks")
    return path


def _output(word: str) -> Path:
    path = Path(word).absolute()
    if not word or (path.exists() and not path.is_dir()):
        raise LaunchError(f"TRAIN_OUTPUT_PATH {word or '(empty)'} is no folder; name a new or an existing one")
    return path
