"""The argument lists of scripts/run_*.sh, as their users know them, checked before anything starts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mindloc.errors import LaunchError

_TRAIN_PLACES = "DATASET_PATH TRAIN_OUTPUT_PATH [CHECKPOINT_PATH] [BEGIN_EPOCH] [EVAL_CALLBACK]"
_EVAL_PLACES = "DATASET_PATH CHECKPOINT_PATH"


@dataclass(frozen=True)
class Script:
    """One of the scripts: what its places mean."""

    file: str
    first: str  # what the first place holds
    places: str  # the others
    program: str  # train.py or eval.py
    target: str | None = None  # device target that the script stands for

    @property
    def usage(self) -> str:
        return f"usage: bash scripts/{self.file} {self.first} {self.places} [options of {self.program} ...]"


SCRIPTS = {
    "train": Script("run_distribute_train.sh", "RANK_TABLE_FILE|RANKS", _TRAIN_PLACES, "train.py"),
    "standalone": Script("run_standalone_train.sh", "DEVICE_ID", _TRAIN_PLACES, "train.py"),
    "eval": Script("run_eval.sh", "DEVICE_ID", _EVAL_PLACES, "eval.py"),
    "train-gpu": Script("run_distribute_train_gpu.sh", "GPU_IDS", _TRAIN_PLACES, "train.py", "GPU"),
    "eval-gpu": Script("run_eval_gpu.sh", "DEVICE_ID", _EVAL_PLACES, "eval.py", "GPU"),
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
            raise LaunchError(f"{len(places)} arguments before the options, expected {len(required)} to {len(names)}")
        values = {**_first_place(script, places[0]), "dataset": _folder("DATASET_PATH", places[1]), "options": options}
        if script.program == "eval.py":
            return ScriptArguments(**values, checkpoint=_existing("CHECKPOINT_PATH", places[2]))
        checkpoint = _existing("CHECKPOINT_PATH", places[3]) if "".join(places[3:4]) else None
        return ScriptArguments(**values, output=_output(places[2]), checkpoint=checkpoint, **_last_places(places[4:]))
    except LaunchError as error:
        raise LaunchError(f"{error}\n{script.usage}") from None


def _first_place(script: Script, word: str) -> dict:
    if script.first == "GPU_IDS":
        return {"device_ids": _card_list(word)}
    if script.first == "DEVICE_ID":
        if not _is_number(word):
            raise LaunchError(f"DEVICE_ID is {word!r}, expected a card's number such as 0")
        return {"device_ids": (int(word),)}
    if not _is_number(word):
        return {"table": _file("RANK_TABLE_FILE", word)}
    if int(word) == 0:
        raise LaunchError("RANKS is 0, expected how many ranks this server is to start")
    return {"ranks": int(word)}


def _card_list(word: str) -> tuple[int, ...]:
    cards = word.split(",")
    if not all(map(_is_number, cards)) or len(set(cards)) < len(cards):
        raise LaunchError(f"GPU_IDS is {word!r}, expected different cards' numbers such as 0,1")
    return tuple(map(int, cards))


def _last_places(words: Sequence[str]) -> dict:
    """BEGIN_EPOCH and EVAL_CALLBACK, told apart by what they are."""
    values: dict[str, int | bool] = {}
    for word in words:
        if _is_number(word):
            name, value = "begin_epoch", int(word)
        elif word in ("True", "False", "true", "false"):
            name, value = "eval_callback", word in ("True", "true")
        else:
            raise LaunchError(f"{word!r} is neither a BEGIN_EPOCH, such as 3, nor an EVAL_CALLBACK, True or False")
        if name in values:
            raise LaunchError(f"{name.upper()} is given twice, the second time as {word!r}")
        values[name] = value
    return values


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdecimal()


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
