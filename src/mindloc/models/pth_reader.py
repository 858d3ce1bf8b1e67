"""PyTorch checkpoint files read with NumPy alone, and without letting anything in them run.

Two containers: a zip archive (PyTorch 1.6 and newer), or five pickles followed by the storages (older). The pickles go
through models/tensor_pickle.py, never through Python's own pickle.
"""

import io
import mmap
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mindloc.errors import CheckpointError
from mindloc.models.tensor_pickle import Refused, Storage, StoredTensor, run_pickle

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
WRAPPERS = ("state_dict", "model_state_dict", "model_ema", "model", "module", "net")  # keys a state dict hides under


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a .pth file by name; a state dict under "state_dict", "model" and the like is found there.

    Raises:
        CheckpointError: no such file, not a PyTorch file, damaged, without tensors, or holding anything but data.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            read = _read_zip if zipfile.is_zipfile(file) else _read_legacy
            file.seek(0)
            return read(file)
    except Refused as refusal:
        raise CheckpointError(f"{path}: {refusal}") from None
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror or error}; check the path") from None
    except (
        ValueError, TypeError, LookupError, AttributeError, EOFError, OverflowError, NotImplementedError, RuntimeError,
        struct.error, zipfile.BadZipFile,
    ) as error:  # whatever a broken file makes the parsers say  # fmt: skip
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        raise CheckpointError(
            f"{path} is no complete PyTorch checkpoint ({reason}); copy it again, or convert it to .safetensors"
        ) from None


def _read_zip(file: BinaryIO) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        inside = {name.split("/", 1)[-1]: name for name in archive.namelist()}
        if "data.pkl" not in inside:
            raise Refused("a zip archive without data.pkl, so no PyTorch checkpoint; name the .pth file itself")
        if "byteorder" in inside and _zip_entry(archive, inside["byteorder"]) != b"little":
            raise Refused("written on a big-endian machine; convert it to .safetensors there")
        tree, _ = run_pickle(io.BytesIO(_zip_entry(archive, inside["data.pkl"])))
        tensors = find_tensors(tree)
        data = {}
        for storage in {tensor.storage for tensor in tensors.values()}:
            data[storage] = _zip_entry(archive, inside[f"data/{storage.key}"])
            _require_length(storage, data[storage])
    return {name: tensor.array(data[tensor.storage]) for name, tensor in tensors.items()}


def _zip_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:  # PyTorch never compresses; a bomb would
        raise Refused(f"entry {name!a:.60} is compressed, which PyTorch never does; convert the file to .safetensors")
    return archive.read(name)


def _read_legacy(file: BinaryIO) -> dict[str, np.ndarray]:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:  # a length that lies reads no more than there is
        if view[:1] != b"\x80" or run_pickle(view)[0] != LEGACY_MAGIC:
            raise Refused("neither a zip archive nor an old PyTorch checkpoint; name a .pth or .safetensors file")
        if run_pickle(view)[0] != LEGACY_PROTOCOL:
            raise Refused(f"an old PyTorch checkpoint of another protocol than {LEGACY_PROTOCOL}; save it anew")
        if run_pickle(view)[0]["little_endian"] is not True:
            raise Refused("written on a big-endian machine; convert it to .safetensors there")
        tree, storages = run_pickle(view)
        tensors = find_tensors(tree)
        data = _legacy_storages(view, run_pickle(view)[0], storages)
    return {name: tensor.array(data[tensor.storage.key]) for name, tensor in tensors.items()}


def _legacy_storages(view: mmap.mmap, keys: Any, storages: dict[str, Storage]) -> dict[str, bytes]:
    """Bytes by key: the storages follow each other in the order of the keys, each behind its element count."""
    data = {}
    for key in keys:
        if not isinstance(key, str) or key not in storages:
            raise Refused("a storage that the file never describes; it is damaged: copy it again")
        storage = storages[key]
        (count,) = struct.unpack("<q", view.read(8))
        if count != storage.count:
            raise Refused(f"storage {key!a:.40} holds {count} numbers instead of {storage.count}; copy the file again")
        data[key] = view.read(storage.nbytes)
        _require_length(storage, data[key])
    return data


def _require_length(storage: Storage, data: bytes) -> None:
    if len(data) != storage.nbytes:
        raise Refused(
            f"storage {storage.key!a:.40} is {len(data)} bytes instead of {storage.nbytes}: a cut file, copy it anew"
        )


def find_tensors(tree: Any) -> dict[str, StoredTensor]:
    """The state dict itself, wherever it is wrapped; entries that are no tensors are left out."""
    for _ in range(len(WRAPPERS)):
        if not isinstance(tree, dict):
            break
        tensors = {name: value for name, value in tree.items() if isinstance(value, StoredTensor)}
        inner = next((tree[key] for key in WRAPPERS if isinstance(tree.get(key), dict)), None)
        if inner is None and tensors:
            if not all(isinstance(name, str) for name in tensors):
                break
            return tensors
        tree = inner
    raise Refused("no state dict inside (a dict of tensors by name); save one with torch.save(model.state_dict(), ...)")
