"""Checkpoints: weights with their config, and the training state that belongs to them.

Two files per checkpoint. ``X.safetensors`` contains the encoder's weights and, as metadata, its config, scores and code
version. ``X.state.safetensors`` contains what else a resume needs, and the sha256 of the weights it belongs to. The
state is written last: a checkpoint is complete when its state exists.

The safetensors library reads the files. Writing is done here, as a stream, because the library either needs a second
copy of all tensors in memory or hides the operating system's error.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from mindloc.errors import CheckpointError, one_line
from mindloc.reading import checksum, file_sha256, json_checksum, regular_file
from mindloc.runtime.files import atomic_write, followed
from mindloc.runtime.process import command_line, fault_point

WEIGHTS_VERSION = 2
STATE_VERSION = 2
WEIGHTS_SUFFIX = ".safetensors"
STATE_SUFFIX = ".state.safetensors"
BEST_WEIGHTS, END_WEIGHTS = "weights_best", "weights_end"  # file names without the suffix
_WEIGHTS_FORMAT = "mindloc.weights"
_STATE_FORMAT = "mindloc.state"
_TYPE_CODES = {
    "float32": "F32",
    "float64": "F64",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "uint8": "U8",
    "bool": "BOOL",
}
_NUMPY_CODES = (*_TYPE_CODES.values(), "I16", "I8", "U16", "U32", "U64")
_OF_OTHERS = (".ckpt", ".pth", ".pt", ".bin", ".onnx", ".mindir")  # files of other programs
_ALIGNMENT = 8
_CHECKSUM = "mindloc.checksum"  # key of the metadata


@dataclass(frozen=True)
class Weights:
    """A loaded checkpoint."""

    path: Path
    arrays: dict[str, np.ndarray]  # by parameter name
    config: dict[str, Any]  # of the run, complete; input of config_from_dict
    sha256: str  # of the file
    facts: dict[str, Any] = field(default_factory=dict)  # epoch, step, score, code, ...

    def require(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Check that the weights match a model's parameters by name and shape.

        Raises:
            CheckpointError: a parameter is missing or unexpected, or its shape differs.
        """
        missing = sorted(set(shapes) - set(self.arrays))
        unexpected = sorted(set(self.arrays) - set(shapes))
        differing = [
            f"{name} {self.arrays[name].shape} instead of {tuple(shapes[name])}"
            for name in sorted(set(shapes) & set(self.arrays))
            if self.arrays[name].shape != tuple(shapes[name])
        ]
        problems = [
            *_first("missing", missing),
            *_first("unexpected", unexpected),
            *_first("of other shape", differing),
        ]
        if problems:
            raise CheckpointError(
                f"checkpoint {self.path} belongs to another model: {'; '.join(problems)}; "
                "use the model section of the checkpoint's config"
            )


@dataclass(frozen=True)
class State:
    """What a resume needs besides the weights: arrays by name, and plain facts."""

    path: Path
    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]  # epoch, step, best score, seeds, number of ranks, ...; readers ignore unknown ones


def save_weights(path: str | Path, arrays: Mapping[str, np.ndarray], config: dict[str, Any], **facts: Any) -> str:
    """Write weights with their config.

    Args:
        path: ends in ``.safetensors``.
        arrays: every parameter of the encoder by name.
        config: nested plain dict, see ``config_to_dict``.
        **facts: JSON values, e.g. epoch, step, score, code.

    Returns:
        sha256 of the file.

    Raises:
        CheckpointError: the disk is full or not writable; an older file at ``path`` is kept.
    """
    metadata = {
        "format": _WEIGHTS_FORMAT,
        "version": str(WEIGHTS_VERSION),
        "config": json.dumps(config),
        "facts": json.dumps(facts),
    }
    return write_tensor_file(Path(path), arrays, metadata, "weights")


def load_weights(path: str | Path) -> Weights:
    """Read weights and their config.

    Raises:
        CheckpointError: the file is missing, truncated, not a safetensors file, not written by mindloc, or of a
            different version.
    """
    path = Path(path)
    # first, as the checksum may be computed differently in another version
    _require_format(path, read_metadata(path), _WEIGHTS_FORMAT, WEIGHTS_VERSION)
    arrays, metadata = read_tensor_file(path)
    config, facts = (_json_section(path, metadata, key) for key in ("config", "facts"))
    return Weights(path, arrays, config, file_sha256(path, CheckpointError, "checkpoint"), facts)


def is_own_checkpoint(path: str | Path) -> bool:
    """Whether a file is a weights file of mindloc, of any version; models/import_weights.py reads the other files.

    Raises:
        CheckpointError: the name ends in .safetensors, but the file is missing or damaged.
    """
    path = Path(path)
    return path.suffix == WEIGHTS_SUFFIX and read_metadata(path).get("format") == _WEIGHTS_FORMAT


def save_state(weights_path: str | Path, weights_sha256: str, arrays: Mapping[str, np.ndarray], facts: dict) -> Path:
    """Write the training state beside its weights; this completes the checkpoint.

    Raises:
        CheckpointError: the disk is full or not writable; an older state is kept.
    """
    path = state_path(weights_path)
    metadata = {
        "format": _STATE_FORMAT,
        "version": str(STATE_VERSION),
        "weights_sha256": weights_sha256,
        "facts": json.dumps(facts),
    }
    write_tensor_file(path, arrays, metadata, "state")
    return path


def load_state(weights: Weights) -> State:
    """The training state that belongs to loaded weights.

    Raises:
        CheckpointError: the state is missing, damaged, of a different version, or was written for other weights.
    """
    path = state_path(weights.path)
    if not path.exists():
        raise CheckpointError(
            f"training state {path} is missing, so {weights.path.name} can't be resumed; {new_run_from(weights.path)}"
        )
    _require_format(path, read_metadata(path), _STATE_FORMAT, STATE_VERSION)
    arrays, metadata = read_tensor_file(path)
    if metadata.get("weights_sha256") != weights.sha256:
        raise CheckpointError(
            f"training state {path} does not belong to {weights.path.name} (sha256 differs): the weights were changed "
            "or damaged; use an older checkpoint"
        )
    return State(path, arrays, _json_section(path, metadata, "facts"))


def new_run_from(weights_path: Path) -> str:
    """Way out where a training can't be resumed, as the end of a message."""
    return f"start a new run from its weights: {_training_from(weights_path)}"


def _training_from(path: Path) -> str:
    return command_line("train", "--config", "NAME", "--checkpoint_start", path)


def state_path(weights_path: str | Path) -> Path:
    """The path of the training state that belongs to a weights file."""
    path = Path(weights_path)
    return path.with_name(path.name.removesuffix(WEIGHTS_SUFFIX) + STATE_SUFFIX)


def resolve_checkpoint(path: str | Path, say: Callable[[str], None] = lambda line: None) -> Path:
    """Weights file of a path: the file itself; in a run directory the best weights, else the last, else the newest.

    Args:
        say: called with one line that names the weights found in a directory.

    Raises:
        CheckpointError: the directory contains no complete checkpoint.
    """
    path = followed(Path(path))
    if not path.is_dir():
        return path
    directory = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    named = [directory / f"{stem}{WEIGHTS_SUFFIX}" for stem in (BEST_WEIGHTS, END_WEIGHTS)]
    found = [weights for weights in named if weights.is_file()] or complete_checkpoints(directory)[-1:]
    if not found:
        raise CheckpointError(
            f"{path} is a directory that contains no complete checkpoint; give a run directory such as "
            f"work_dir/NAME/MMDDhhmmss, or a {WEIGHTS_SUFFIX} file"
        )
    say(f"checkpoint: {found[0].name} of {path}")
    return found[0]


def complete_checkpoints(directory: str | Path) -> list[Path]:
    """Weights files in ``directory`` that have a state, oldest first (by the step in the state).

    Raises:
        CheckpointError: the newest state file is damaged.
    """
    found, damaged, newest = [], [], 0.0
    for path in Path(directory).glob(f"*{STATE_SUFFIX}"):
        try:
            written = path.lstat().st_mtime
            metadata = read_metadata(path)
            _require_format(path, metadata, _STATE_FORMAT, STATE_VERSION)
            step = _json_section(path, metadata, "facts").get("step", 0)
            if not isinstance(step, int):
                raise CheckpointError(f"training state {path} has step {str(step)[:60]!r}, expected a whole number")
        except FileNotFoundError:
            continue  # a training process that writes here has removed it
        except CheckpointError as problem:
            if path.exists():
                damaged.append((written, problem))
        else:
            newest = max(newest, written)
            found.append((step, path.name.removesuffix(STATE_SUFFIX) + WEIGHTS_SUFFIX))
    for moment, reason in damaged:
        if moment >= newest:  # it may be the checkpoint to continue from; a damaged older file does no harm
            raise reason
    return [Path(directory) / name for _, name in sorted(found)]


def _require_format(path: Path, metadata: dict[str, str], wanted: str, newest: int) -> None:
    if wanted == _WEIGHTS_FORMAT and metadata.get("format") == _STATE_FORMAT:
        raise CheckpointError(f"checkpoint {path} is a training state; give the weights file beside it")
    if metadata.get("format") != wanted:
        raise CheckpointError(
            f"checkpoint {path} was not written by mindloc (format {metadata.get('format')!r}, expected {wanted!r}); "
            f"a training can start from its weights: {_training_from(path)}"
        )
    version = metadata.get("version", "")
    if version != str(newest):
        way_out = "update mindloc" if version.isdigit() and int(version) > newest else "train it again"
        raise CheckpointError(f"checkpoint {path} has version {version!r}, but this mindloc reads {newest}; {way_out}")


def _json_section(path: Path, metadata: dict[str, str], key: str) -> dict[str, Any]:
    try:
        section = json.loads(metadata.get(key, ""))
    except (ValueError, RecursionError):
        section = None
    if not isinstance(section, dict):
        raise CheckpointError(f"checkpoint {path} has no readable {key}; its header is damaged: use another checkpoint")
    return section


def _first(label: str, names: list[str], limit: int = 3) -> list[str]:
    """A phrase with the number of names and the first few, in a list; an empty list without names."""
    if not names:
        return []
    return [f"{len(names)} {label} ({', '.join(names[:limit])}{', ...' if len(names) > limit else ''})"]


def write_tensor_file(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str], what: str) -> str:
    """Write arrays and metadata atomically, sorted by name: equal content gives equal bytes.

    Args:
        what: prefix of the names of the fault points.

    Returns:
        sha256 of the file, hexadecimal.

    Raises:
        CheckpointError: the disk is full or not writable; an older file at ``path`` is kept.
    """
    names = sorted(arrays)
    digest = hashlib.sha256()
    whole = json_checksum([dict(metadata), {name: _part(array) for name, array in arrays.items()}])
    metadata = {**metadata, _CHECKSUM: whole}
    with atomic_write(path, what, CheckpointError) as file:
        header = _header(arrays, names, metadata)
        file.write(header)
        digest.update(header)
        for i, name in enumerate(names):
            if i == len(names) // 2:
                file.flush()
                fault_point(f"{what}.mid_write")
            data = _little_endian(arrays[name])
            file.write(data)
            digest.update(data)
    return digest.hexdigest()


def read_tensor_file(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and metadata of a safetensors file.

    Raises:
        CheckpointError: the file is missing, damaged or not a safetensors file, or NumPy lacks its data type.
    """
    with _open(path) as file:
        names = file.keys()  # ``file`` is not a dict and can't be iterated
        for name in names:
            _require_numpy_type(path, name, file.get_slice(name).get_dtype())
        arrays, parts, metadata = {}, {}, dict(file.metadata() or {})
        for name in names:
            arrays[name] = file.get_tensor(name)
            parts[name] = _part(arrays[name])  # here, while the array is in the processor's cache
    stated = metadata.pop(_CHECKSUM, None)  # files of other programs have none
    if stated is None and _is_own(metadata):
        raise CheckpointError(f"{path} has no checksum, although mindloc writes one into every file; write it again")
    if stated is not None and stated != json_checksum([metadata, parts]):
        raise CheckpointError(
            f"{path} was changed or damaged since it was written (its checksum differs): copy it again, or use an "
            "older one"
        )
    return arrays, metadata


def _is_own(metadata: Mapping[str, str]) -> bool:
    return metadata.get("format", "").startswith("mindloc.")


def _part(array: np.ndarray) -> list[Any]:
    """The part of a file's checksum that covers one array: its type, shape and checksum."""
    return [array.dtype.name, list(array.shape), checksum(_little_endian(array)).hexdigest()]


def read_metadata(path: Path) -> dict[str, str]:
    """Metadata of a safetensors file, without reading the arrays.

    Raises:
        CheckpointError: the file is missing, truncated or not a safetensors file.
    """
    with _open(path) as file:
        return dict(file.metadata() or {})


@contextmanager
def _open(path: Path) -> Iterator[safe_open]:
    if path.is_dir():
        raise CheckpointError(f"checkpoint {path} is a directory; give a .safetensors file in it")
    if path.suffix in _OF_OTHERS and path.exists():
        raise CheckpointError(
            f"checkpoint {path} is a file of another program, which does not say what encoder it belongs to; a "
            f"training can start from it: {_training_from(path)}"
        )
    if path.exists():
        with regular_file(path, CheckpointError, "give a .safetensors file", "checkpoint"):
            pass
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {path} is missing; check the path") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"checkpoint {path} is not a complete safetensors file ({one_line(error)}); it may be truncated: "
            "copy it again or use an older one"
        ) from None


def _require_numpy_type(path: Path, name: str, code: str) -> None:
    if code not in _NUMPY_CODES:
        raise CheckpointError(
            f"checkpoint {path}: {name} has data type {code}, which NumPy lacks (it has {', '.join(_NUMPY_CODES)}); "
            "convert the file to float32"
        )


def _header(arrays: Mapping[str, np.ndarray], names: list[str], metadata: Mapping[str, str]) -> bytes:
    tree: dict[str, dict] = {"__metadata__": dict(metadata)}
    offset = 0
    for name in names:
        array = arrays[name]
        end = offset + array.nbytes
        tree[name] = {"dtype": _TYPE_CODES[array.dtype.name], "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(tree, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _little_endian(array: np.ndarray) -> bytes | memoryview:
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return array.reshape(-1).view(np.uint8).data
