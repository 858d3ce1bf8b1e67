"""safetensors files, written as a stream and read with every fault turned into one line.

The safetensors library reads them; writing is done here because the library holds a second copy of all tensors in
memory or hides the disk's own error.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from mindloc.errors import CheckpointError, one_line
from mindloc.runtime.atomic import atomic_write
from mindloc.runtime.faults import fault_point
from mindloc.runtime.file_hash import content_hash

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
_ALIGNMENT = 8


def write_tensor_file(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str], what: str) -> str:
    """Write arrays and metadata atomically, names sorted so that equal content gives equal bytes.

    Args:
        what: prefix of the fault points passed.

    Returns:
        sha256 of the file, hexadecimal.

    Raises:
        CheckpointError: the disk is full or refuses; an older file at ``path`` survives.
    """
    names = sorted(arrays)
    digest = hashlib.sha256()
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
        CheckpointError: missing, truncated, no safetensors file, or of a number type that NumPy lacks.
    """
    with _open(path) as file:
        names = file.keys()  # no dict: it can't be iterated itself
        for name in names:
            _require_numpy_type(path, name, file.get_slice(name).get_dtype())
        return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})


def read_metadata(path: Path) -> dict[str, str]:
    """Metadata alone, without reading the arrays.

    Raises:
        CheckpointError: as ``read_tensor_file``.
    """
    with _open(path) as file:
        return dict(file.metadata() or {})


@contextmanager
def _open(path: Path) -> Iterator[safe_open]:
    if path.is_dir():
        raise CheckpointError(f"checkpoint {path} is a folder; name a .safetensors file in it")
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {path} is missing; check the path") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"checkpoint {path} is no complete safetensors file ({one_line(error)}); it may be truncated: "
            "copy it again or take an older one"
        ) from None


def _require_numpy_type(path: Path, name: str, code: str) -> None:
    if code not in _NUMPY_CODES:
        raise CheckpointError(
            f"checkpoint {path}: {name} is stored as {code}, which NumPy lacks (it reads {', '.join(_NUMPY_CODES)}); "
            "convert the file to float32"
        )


def file_sha256(path: Path) -> str:
    """sha256 of a file, hexadecimal.

    Raises:
        CheckpointError: the file is missing or can't be read.
    """
    try:
        return content_hash(path)
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} can't be read: {error.strerror}; check the path") from None


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
