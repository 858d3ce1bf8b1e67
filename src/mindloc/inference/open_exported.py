"""Exported files opened as one engine, once they are seen to belong together."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mindloc.errors import DeviceError, ExportError
from mindloc.inference.agreement import EngineAgreement
from mindloc.inference.exported import ExportedFile
from mindloc.inference.exported_engine import ExportedEngine, RunFile
from mindloc.inference.mindir_file import open_mindir
from mindloc.inference.onnx_file import CPU, Provider, open_onnx
from mindloc.runtime.optional_module import optional_module


def require_one_origin(files: dict[str, ExportedFile], checkpoint_sha256: str | None = None) -> None:
    """Refuse files that can't be one encoder.

    Args:
        checkpoint_sha256: of the checkpoint that the files are said to come from.

    Raises:
        ExportError: the views come from different checkpoints, or from another than that one, or differ in precision
            or in what they make of a picture.
    """
    made_from = {file.checkpoint_sha256 for file in files.values()}
    names = ", ".join(sorted({str(file.path) for file in files.values()}))
    if len(made_from) > 1:
        raise ExportError(f"{names} come from different checkpoints; export both again")
    if len({file.precision for file in files.values()}) > 1:
        raise ExportError(f"{names} compute in different precisions; name one by --precision")
    if len({file.descriptors for file in files.values()}) > 1:
        raise ExportError(f"{names} return different descriptors by their cards; export both again")
    if checkpoint_sha256 is not None and made_from != {checkpoint_sha256}:
        raise ExportError(f"{names}: exported from another checkpoint (sha256 differs); export this one")


def load_mindir_engine(files: dict[str, ExportedFile], batch_size: int, key: bytes | None = None) -> ExportedEngine:
    """The engine of MINDIR files, on the device that was chosen.

    Raises:
        ExportError: a file is not what its card says, needs a key, or another one.
    """
    distinct = {file.path: file for file in files.values()}
    for file in distinct.values():
        file.require_intact()
        if file.encrypted and key is None:
            raise ExportError(f"{file.path} is encrypted; name the file with its key: --dec_key_file FILE")
    (precision,) = {file.precision for file in files.values()}
    opened = {path: open_mindir(path, key if file.encrypted else None) for path, file in distinct.items()}
    return ExportedEngine("mindir", precision, files, _runs(files, opened), batch_size)


def load_onnx_engine(files: dict[str, ExportedFile], provider: Provider, int8: bool = False) -> ExportedEngine:
    """The engine of ONNX files; ``int8`` computes float32 files in 8 bits, on CPUs.

    Raises:
        ExportError, DeviceError: as ``open_onnx``.
    """
    if int8 and provider.name != CPU:
        raise DeviceError(f"int8 is quantized for CPUs and would run on {provider.name}; take --device_target CPU")
    (precision,) = {file.precision for file in files.values()}
    distinct = {file.path: file for file in files.values()}
    opened = {path: open_onnx(file, provider, int8) for path, file in distinct.items()}
    version = f"onnxruntime {optional_module('onnxruntime').__version__}"
    facts = {"provider": provider.name, "runtime": version}
    facts |= {"quantization": "dynamic, weights in 8 bits"} if int8 else {}
    return ExportedEngine("onnx", "int8" if int8 else precision, files, _runs(files, opened), 1, facts)


def compare_with_fp32(engine: ExportedEngine, batches: Iterable[tuple[str, np.ndarray]]) -> EngineAgreement:
    """How far an int8 engine agrees with the files that it was quantized from; its facts say so afterwards."""
    return engine.compare_with(load_onnx_engine(engine.files, Provider(CPU)), batches)


def _runs(files: dict[str, ExportedFile], opened: dict[Path, RunFile]) -> dict[str, RunFile]:
    return {view: opened[file.path] for view, file in files.items()}
