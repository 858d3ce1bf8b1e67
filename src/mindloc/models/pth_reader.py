"""Read PyTorch checkpoint files with NumPy alone, without running anything that they contain.

Two containers: a zip archive (PyTorch 1.6 and newer), or five pickles followed by the storages (older). A pickle is a
small program that may call any function of the machine; ``StateDictUnpickler`` executes only the instructions that
state dicts need, and calls only the entries of REBUILDERS. No value from the file is printed, hashed or compared before
its type is known: with nested tuples that can take years.
"""

import io
import mmap
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mindloc.errors import CheckpointError
from mindloc.reading import regular_file

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
_DICT_WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_ema",
    "model",
    "module",
    "net",
)  # keys of checkpoints that contain the state dict as one entry
STORAGE_DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",  # NumPy has no bfloat16: read as bits, widened to float32
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
MAX_AXES = 16
KEY_TYPES = (str, int, float, type(None))


class Refused(Exception):
    """The file contains something that no state dict needs; the message becomes the end of an error line."""


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a .pth file by name; the state dict may be an entry of a dict, such as "state_dict" or "model".

    Raises:
        CheckpointError: the file is missing, damaged, not a PyTorch file, without tensors, or contains more than data.
    """
    path = Path(path)
    try:
        with regular_file(path, CheckpointError, "check the path") as file:
            read = _read_zip if zipfile.is_zipfile(file) else _read_legacy
            file.seek(0)
            return read(file)
    except Refused as refusal:
        raise CheckpointError(f"{path}: {refusal}") from None
    except (
        ValueError, TypeError, LookupError, AttributeError, EOFError, OverflowError, NotImplementedError, RuntimeError,
        struct.error, zipfile.BadZipFile, pickle.UnpicklingError,
    ) as error:  # what the parsers raise for broken files  # fmt: skip
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        raise CheckpointError(
            f"{path} is not a complete PyTorch checkpoint ({reason}); copy it again, or convert it to .safetensors"
        ) from None


# Containers ---------------------------------------------------------------------------------------------------------


def _read_zip(file: BinaryIO) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        inside = {name.split("/", 1)[-1]: name for name in archive.namelist()}
        if "data.pkl" not in inside:
            raise Refused(
                "a zip archive without data.pkl, so it is not a PyTorch checkpoint; give the .pth file itself"
            )
        if "byteorder" in inside and _zip_entry(archive, inside["byteorder"]) != b"little":
            raise Refused("it was written on a big-endian machine; convert it to .safetensors there")
        tree, _ = run_pickle(io.BytesIO(_zip_entry(archive, inside["data.pkl"])))
        tensors = find_tensors(tree)
        data = {}
        for storage in {tensor.storage for tensor in tensors.values()}:
            data[storage] = _zip_entry(archive, inside[f"data/{storage.key}"])
            _require_length(storage, data[storage])
    return {name: tensor.array(data[tensor.storage]) for name, tensor in tensors.items()}


def _zip_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:  # PyTorch never compresses; a zip bomb does
        raise Refused(f"entry {name!a:.60} is compressed, which PyTorch never does; convert the file to .safetensors")
    return archive.read(name)


def _read_legacy(file: BinaryIO) -> dict[str, np.ndarray]:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:  # a false length can't read beyond the end
        if view[:1] != b"\x80" or run_pickle(view)[0] != LEGACY_MAGIC:
            raise Refused("it is neither a zip archive nor an old PyTorch checkpoint; give a .pth or .safetensors file")
        if run_pickle(view)[0] != LEGACY_PROTOCOL:
            raise Refused(f"its protocol differs from {LEGACY_PROTOCOL}, that of old checkpoints; save it again")
        if run_pickle(view)[0]["little_endian"] is not True:
            raise Refused("it was written on a big-endian machine; convert it to .safetensors there")
        tree, storages = run_pickle(view)
        tensors = find_tensors(tree)
        data = _legacy_storages(view, run_pickle(view)[0], storages)
    return {name: tensor.array(data[tensor.storage.key]) for name, tensor in tensors.items()}


def _legacy_storages(view: mmap.mmap, keys: Any, storages: dict[str, "Storage"]) -> dict[str, bytes]:
    """The bytes of the storages by key; the file has them in the order of ``keys``, each after its element count."""
    data = {}
    for key in keys:
        if not isinstance(key, str) or key not in storages:
            raise Refused("it contains a storage that it never describes, so it is damaged; copy it again")
        storage = storages[key]
        (count,) = struct.unpack("<q", view.read(8))
        if count != storage.count:
            raise Refused(f"storage {key!a:.40} has {count} numbers instead of {storage.count}; copy the file again")
        data[key] = view.read(storage.nbytes)
        _require_length(storage, data[key])
    return data


def _require_length(storage: "Storage", data: bytes) -> None:
    if len(data) != storage.nbytes:
        raise Refused(
            f"storage {storage.key!a:.40} has {len(data)} bytes instead of {storage.nbytes}; copy the file again"
        )


def find_tensors(tree: Any) -> dict[str, "StoredTensor"]:
    """The tensors of the state dict, which may be nested in other dicts; entries that are not tensors are left out."""
    for _ in range(len(_DICT_WRAPPERS)):
        if not isinstance(tree, dict):
            break
        tensors = {name: value for name, value in tree.items() if isinstance(value, StoredTensor)}
        inner = next((tree[key] for key in _DICT_WRAPPERS if isinstance(tree.get(key), dict)), None)
        if inner is None and tensors:
            if not all(isinstance(name, str) for name in tensors):
                break
            return tensors
        tree = inner
    raise Refused("it has no state dict (a dict of tensors by name); save one: torch.save(model.state_dict(), ...)")


# What a pickle may build: dicts, lists, tuples, texts, numbers, and the following ------------------------------------


@dataclass(frozen=True)
class Name:
    """A function or class that the file names; the name is never looked up, only compared."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class Storage:
    """A flat array of numbers in the file, of which tensors are parts."""

    kind: str
    key: str
    count: int

    @property
    def nbytes(self) -> int:
        return self.count * np.dtype(STORAGE_DTYPES[self.kind]).itemsize


@dataclass(frozen=True)
class StoredTensor:
    """Layout of a tensor in its storage; offset and stride count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self, data: bytes) -> np.ndarray:
        """The tensor as an array in NumPy's order of elements; bfloat16 becomes float32."""
        flat = np.frombuffer(data, STORAGE_DTYPES[self.storage.kind], self.storage.count)
        strides = tuple(step * flat.itemsize for step in self.stride)
        view = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides, writeable=False)
        if self.storage.kind == "BFloat16Storage":
            return (view.astype(np.uint32) << 16).view(np.float32)
        return np.ascontiguousarray(view).reshape(self.shape)


def _storage(reference: Any) -> Storage:
    """A storage from its persistent id ("storage", kind, key, device, count[, view])."""
    if not isinstance(reference, tuple) or not 5 <= len(reference) <= 6:
        raise Refused("it refers to something other than a storage; save the state dict alone")
    tag, kind, key, _device, count, *view = reference
    if tag != "storage" or not isinstance(kind, Name) or kind not in STORAGE_NAMES or not isinstance(key, str):
        raise Refused("it refers to an unknown storage; save the state dict alone")
    if any(part is not None for part in view):
        raise Refused(f"storage {key!a:.40} is a view of another one; save the file again with a current PyTorch")
    return Storage(kind.name, key, _natural(count, "a storage length"))


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> StoredTensor:
    """The layout of a tensor, after a check that all its elements are in its storage and that none overlap."""
    if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
        raise Refused("it has a tensor without storage, shape or stride; the file is damaged or hostile: don't use it")
    if len(shape) != len(stride) or len(shape) > MAX_AXES:
        raise Refused(f"a tensor has {len(shape)} sizes and {len(stride)} strides; the file is damaged: don't use it")
    offset = _natural(offset, "a storage offset")
    shape = tuple(_natural(size, "a size") for size in shape)
    stride = tuple(_natural(step, "a stride") for step in stride)
    reach = 0  # largest offset of an element within the axes so far, from the finest to the coarsest
    for step, size in sorted((step, size) for step, size in zip(stride, shape, strict=True) if size > 1):
        if step <= reach:
            raise Refused(f"a tensor of shape {shape} and stride {stride} overlaps itself; save a contiguous copy")
        reach += step * (size - 1)
    if 0 not in shape and offset + reach >= storage.count or offset > storage.count:
        raise Refused(
            f"a tensor of shape {shape} and stride {stride} at {offset} reaches beyond its storage of {storage.count} "
            "numbers; the file is damaged or hostile: don't use it"
        )
    return StoredTensor(storage, offset, shape, stride)


def _natural(value: Any, what: str) -> int:
    if type(value) is not int or value < 0:
        shown = value if type(value) is int else type(value).__name__
        raise Refused(f"it has {what} of {shown}, as no tensor has; the file is damaged or hostile: don't use it")
    return value


def _rebuild_parameter(tensor: Any, *_: Any) -> StoredTensor:
    if not isinstance(tensor, StoredTensor):
        raise Refused("it has a parameter that is not a tensor; the file is damaged or hostile: don't use it")
    return tensor


def _ordered_dict(*arguments: Any) -> dict:
    if arguments:  # PyTorch writes the items after the call
        raise Refused("an OrderedDict is created with items; save the state dict alone with a current PyTorch")
    return {}


def _size(items: Any = ()) -> tuple:
    if not isinstance(items, tuple):
        raise Refused("a torch.Size is created from something other than a tuple; the file is damaged: don't use it")
    return items


REBUILDERS: dict[Name, Callable] = {
    Name("collections", "OrderedDict"): _ordered_dict,
    Name("torch", "Size"): _size,
    Name("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    Name("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    Name("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
}
STORAGE_NAMES = {Name("torch", kind) for kind in STORAGE_DTYPES}

# The pickle itself ---------------------------------------------------------------------------------------------------


def run_pickle(file: BinaryIO) -> tuple[Any, dict[str, Storage]]:
    """(value, storages by key) of the pickle at the position of ``file``, which is moved to the end of the pickle.

    Raises:
        Refused: the pickle has an instruction, name or value that no state dict has.
        UnpicklingError, ValueError, LookupError, TypeError, AttributeError, EOFError, struct.error: the pickle is
            broken, or the file is not a pickle.
    """
    unpickler = StateDictUnpickler(file, encoding="latin-1")
    value = unpickler.load()
    if unpickler.stack or unpickler.metastack:
        raise Refused("a pickle has more than one value; the file is damaged: don't use it")
    return value, unpickler.storages


class _Instructions(dict):
    """Code of an instruction -> the method that executes it."""

    def __missing__(self, code: int) -> Any:
        raise Refused(f"it has pickle instruction {bytes([code])!a}, as no state dict has; save the state dict alone")


class StateDictUnpickler(pickle._Unpickler):
    """Python's own unpickler, restricted to state dicts.

    It extends the implementation in Python. The one in C can't be changed where a dict gets a key (and hashes it),
    where an object gets its state, or where a memo slot of any number is filled; see docs/decisions.md, 2026-11-30.
    """

    dispatch = _Instructions(
        {
            code[0]: pickle._Unpickler.dispatch[code[0]]
            for code in (
                pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE,
                pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.BINFLOAT,
                pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINSTRING, pickle.SHORT_BINSTRING,
                pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3,
                pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT,
                pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.BINGET, pickle.LONG_BINGET,
                pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.BINPERSID,
            )
        }
    )  # fmt: skip

    def __init__(self, file: BinaryIO, **options: Any):
        super().__init__(file, **options)
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Name:
        named = Name(module, name)
        if named not in REBUILDERS and named not in STORAGE_NAMES:
            raise Refused(
                f"it names {str(named)!a:.80}, which no state dict needs, so nothing was read or run; if you "
                "trust its source, save the state dict alone there"
            )
        return named

    def persistent_load(self, reference: Any) -> Storage:
        storage = _storage(reference)
        if self.storages.setdefault(storage.key, storage) != storage:
            raise Refused(f"storage {storage.key!a:.40} is described in two ways; the file is damaged: don't use it")
        return storage

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Name) or function not in REBUILDERS or not isinstance(arguments, tuple):
            raise Refused("it contains a call that no state dict makes; save the state dict alone")
        self.append(REBUILDERS[function](*arguments))

    def load_build(self) -> None:
        """Drop the attributes of an OrderedDict, which are PyTorch's version notes."""
        self.stack.pop()
        if not isinstance(self.stack[-1], dict):
            raise Refused("it sets attributes of something other than a dict; save the state dict alone")

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    def _set_items(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict) or len(items) % 2:
            raise Refused("it adds items to something other than a dict; the file is damaged: don't use it")
        if not all(isinstance(key, KEY_TYPES) for key in items[::2]):
            raise Refused("a dict key is neither text nor number; save the state dict alone")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
