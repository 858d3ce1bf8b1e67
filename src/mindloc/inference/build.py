"""From a checkpoint, which carries its config, or from exported files, whose cards do, to an engine."""

from pathlib import Path
from typing import Any

import numpy as np

from mindloc.config import config_from_dict
from mindloc.config.schema import Config
from mindloc.errors import CheckpointError, DeviceError, ExportError
from mindloc.inference.engine import MindSporeEngine
from mindloc.inference.exported import ExportedFile
from mindloc.inference.exported_engine import ExportedEngine, RunFile
from mindloc.inference.mindir_file import open_mindir
from mindloc.inference.onnx_file import Provider, open_onnx
from mindloc.inference.onnx_graph import optional_module
from mindloc.runtime.checkpoint import Weights, load_weights


def load_engine(
    checkpoint: str | Path | Weights, batch_size: int | None = None, precision: str | None = None
) -> tuple[MindSporeEngine, Config]:
    """The engine of a checkpoint and the config that the checkpoint carries.

    Args:
        checkpoint: a file, or one that was read already.
        batch_size: None takes ``eval.batch_size`` of that config.
        precision: None takes ``train.precision`` of that config.

    Raises:
        CheckpointError: missing, damaged, or not the weights of the model that its config describes.
        ConfigError: the config it carries is not one of this program.
    """
    encoder, config, sha256 = load_encoder(checkpoint, precision)
    return MindSporeEngine(encoder, batch_size or config.eval.batch_size, config.train.precision, sha256), config


def load_encoder(checkpoint: str | Path | Weights, precision: str | None = None) -> tuple[Any, Config, str]:
    """(encoder in evaluation mode, its config, sha256 of the file); arguments and errors as ``load_engine``.

    The config says the precision that was asked for and names no weights to begin from.
    """
    from mindloc.models.build import build_encoder  # here, so that scoring from disk needs no MindSpore

    weights = checkpoint if isinstance(checkpoint, Weights) else load_weights(checkpoint)
    config = config_from_dict(weights.config)
    config.model.pretrained = None  # the checkpoint's own weights replace them
    config.train.precision = precision or config.train.precision
    encoder = build_encoder(config)
    encoder.set_train(False)
    parameters = dict(encoder.parameters_and_names())
    weights.require({name: tuple(parameter.shape) for name, parameter in parameters.items()})
    for name, parameter in parameters.items():
        _fill(parameter, weights.arrays[name], weights.path)
    return encoder, config, weights.sha256


def exported_config(files: dict[str, ExportedFile], checkpoint_sha256: str | None = None) -> Config:
    """The config that the cards of all views carry.

    Args:
        checkpoint_sha256: of the checkpoint that the files are said to come from.

    Raises:
        ExportError: the views come from different checkpoints, or from another than that one, or a file takes
            pictures that do not fit its config.
        ConfigError: the config is not one of this program.
    """
    made_from = {file.checkpoint_sha256 for file in files.values()}
    names = ", ".join(sorted({str(file.path) for file in files.values()}))
    if len(made_from) > 1:
        raise ExportError(f"{names} come from different checkpoints; export both again")
    if len({file.precision for file in files.values()}) > 1:
        raise ExportError(f"{names} compute in different precisions; name one by --precision")
    if checkpoint_sha256 is not None and made_from != {checkpoint_sha256}:
        raise ExportError(f"{names}: exported from another checkpoint (sha256 differs); export this one")
    config = config_from_dict(next(iter(files.values())).config)
    require_inputs(files, config)
    return config


def require_inputs(files: dict[str, ExportedFile], config: Config) -> None:
    """Raises: ExportError: a file takes pictures of another size or normalization than the config asks for."""
    for view, file in files.items():
        size_px, _ = config.view_input(view)
        asked = (tuple(size_px), tuple(config.model.mean), tuple(config.model.std))
        if (file.size_px, file.mean, file.std) != asked:
            raise ExportError(
                f"{file.path} takes {view} pictures of {list(file.size_px)} px, mean {list(file.mean)} and std "
                f"{list(file.std)}, not {list(size_px)} px, {list(config.model.mean)} and {list(config.model.std)}"
            )


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
    if int8 and provider.name != "CPUExecutionProvider":
        raise DeviceError(f"int8 is quantized for CPUs and would run on {provider.name}; take --device_target CPU")
    (precision,) = {file.precision for file in files.values()}
    distinct = {file.path: file for file in files.values()}
    opened = {path: open_onnx(file, provider, int8) for path, file in distinct.items()}
    version = f"onnxruntime {optional_module('onnxruntime').__version__}"
    facts = {"runtime": version, **({"quantization": "dynamic, weights in 8 bits"} if int8 else {})}
    runs = _runs(files, opened)
    return ExportedEngine("onnx", "int8" if int8 else precision, files, runs, 1, provider.name, facts)


def _runs(files: dict[str, ExportedFile], opened: dict[Path, RunFile]) -> dict[str, RunFile]:
    return {view: opened[file.path] for view, file in files.items()}


def require_precision(precision: str, target: str) -> None:
    """Raises: DeviceError: MindSpore can't compute in that precision on that target."""
    if precision == "bf16" and target == "CPU":
        raise DeviceError("MindSpore has no bf16 products on a CPU; take --precision fp32")


def _fill(parameter: Any, array: np.ndarray, path: Path) -> None:
    import mindspore as ms

    if not np.isfinite(array).all():
        raise CheckpointError(f"checkpoint {path}: {parameter.name} holds NaN or infinity; take an older checkpoint")
    parameter.set_data(ms.Tensor(array, parameter.dtype))
