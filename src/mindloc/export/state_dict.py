"""A checkpoint as a PyTorch file: the state dict that Game4Loc's model class loads, written without PyTorch.

In that class the parameters of one encoder for both sides are named ``model.*``, and those of two encoders ``model1.*``
(query) and ``model2.*`` (reference). After the prefix come timm's names, which our ViTs have too. ``logit_scale`` is a
scalar, the logarithm of the multiplier.
"""

import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mindloc.config import config_from_dict
from mindloc.errors import CheckpointError, ConfigError, ExportError
from mindloc.models.pth_reader import read_state_dict
from mindloc.registry import BACKBONES, HEADS
from mindloc.runtime.checkpoint import load_weights
from mindloc.runtime.files import remove_leftovers, replacing
from mindloc.runtime.lock import locked
from mindloc.vocabulary import GLOBAL

SUFFIX = ".pth"
_PREFIXES = {"backbone.": "model.", "query_backbone.": "model1.", "reference_backbone.": "model2."}
_LOGIT_SCALE = "log_logit_scale"
_ARCHIVE = "archive"  # the one directory of the zip file


def export_state_dict(checkpoint: str | Path, directory: str | Path, file_name: str | None = None) -> str:
    """Write the weights of a checkpoint as a state dict of float32 tensors; no device is needed.

    Args:
        file_name: without suffix; None: "encoder".

    Returns:
        One line with the path of the file and the normalization of its input images.

    Raises:
        ConfigError: Game4Loc's class can't load the encoder, which has a head or parameters without timm's names.
        CheckpointError: the checkpoint is missing or damaged.
        ExportError: the disk is full or not writable, or the file's content differs when it is read back.
    """
    weights = load_weights(checkpoint)
    config = config_from_dict(weights.config)
    if tuple(HEADS[config.head.name].losses) != (GLOBAL,) or BACKBONES[config.model.backbone].convolutional:
        raise ConfigError(
            f"PTH is for ViTs without a head, but {weights.path} has model.backbone={config.model.backbone}, "
            f"head.name={config.head.name}; export it as MINDIR or ONNX"
        )
    arrays = state_dict_of(weights.arrays)
    path = Path(directory) / f"{(file_name or 'encoder').removesuffix(SUFFIX)}{SUFFIX}"
    owned = locked(path, "exported file", ExportError)
    with owned, replacing(path, "export", ExportError) as temporary:
        remove_leftovers(path)
        write_state_dict(temporary, arrays)
        read = read_state_dict(temporary)
        if read.keys() != arrays.keys() or any(not _are_same(read[name], arrays[name]) for name in arrays):
            raise ExportError(f"{path} differs when it is read back; nothing was kept: check the disk")
    mean, std = (list(values) for values in (config.model.mean, config.model.std))
    return f"{path}: {len(arrays)} tensors; its images are scaled to 0..1 and normalized with mean {mean}, std {std}"


def _are_same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two float32 arrays have the same bits, NaN included."""
    return one.shape == other.shape and one.tobytes() == other.tobytes()


def state_dict_of(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our parameters under the names of Game4Loc's class, float32.

    Raises:
        CheckpointError: a parameter is none of an encoder.
    """
    named = {}
    for name, array in weights.items():
        if name == _LOGIT_SCALE and array.size == 1:
            named["logit_scale"] = array.reshape(())
            continue
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            raise CheckpointError(
                f"the checkpoint has a parameter {name} of shape {array.shape}, which no encoder for PTH has; export "
                "another checkpoint"
            )
        named[_PREFIXES[prefix] + name.removeprefix(prefix)] = array
    return {name: np.ascontiguousarray(array, "<f4").reshape(array.shape) for name, array in named.items()}


def write_state_dict(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the format of PyTorch 1.6 and newer: a zip archive with a pickle that refers to one file per storage."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{_ARCHIVE}/data.pkl", _pickled(arrays))
        archive.writestr(f"{_ARCHIVE}/byteorder", "little")
        for number, array in enumerate(arrays.values()):
            archive.writestr(f"{_ARCHIVE}/data/{number}", array.tobytes())
        archive.writestr(f"{_ARCHIVE}/version", "3\n")


def _pickled(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The pickle that ``torch.save`` writes for an OrderedDict of tensors, built without PyTorch's classes."""
    empty = _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    program = [pickle.PROTO, b"\x02", empty, pickle.MARK]
    for number, (name, array) in enumerate(arrays.items()):
        strides = [stride // array.itemsize for stride in array.strides]
        storage = [_text("storage"), _global("torch", "FloatStorage"), _text(str(number)), _text("cpu")]
        program += [_text(name), _global("torch._utils", "_rebuild_tensor_v2"), pickle.MARK]
        program += [_tuple(*storage, _integer(array.size)), pickle.BINPERSID, _integer(0)]
        program += [_tuple(*map(_integer, array.shape)), _tuple(*map(_integer, strides))]
        program += [pickle.NEWFALSE, empty, pickle.TUPLE, pickle.REDUCE]
    return b"".join([*program, pickle.SETITEMS, pickle.STOP])


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _text(value: str) -> bytes:
    data = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def _integer(value: int) -> bytes:
    return pickle.BININT + struct.pack("<i", value)


def _tuple(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE
