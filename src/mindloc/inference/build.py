"""From a checkpoint, which carries its config, or from exported files, whose cards do, to an engine.

An engine whose recall descriptors leave in fewer numbers: projected by a reduction that was fitted beforehand.

Suffixes: N rows, B pictures of a batch, D dimension as encoded, E dimension afterwards.

Exported files opened as one engine, once they are seen to belong together.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mindloc.config import config_from_dict, config_to_dict
from mindloc.config.schema import Config
from mindloc.data.loader import ImageBatches
from mindloc.descriptors.reduction import Reduction, load_reduction, require_origin
from mindloc.descriptors.sets import RECALL_DESCRIPTORS
from mindloc.errors import CheckpointError, DeviceError, ExportError
from mindloc.inference.engine import Engine, EngineAgreement, MindSporeEngine
from mindloc.inference.exported import AbsentError, ExportedEngine, ExportedFile, RunFile, find_exported
from mindloc.inference.mindir import open_mindir
from mindloc.inference.onnx import CPU, Provider, choose_provider, open_onnx
from mindloc.runtime.checkpoint import Weights, load_weights
from mindloc.runtime.device import require_precision, use_device
from mindloc.runtime.packages import optional_module
from mindloc.runtime.run_folder import export_folder
from mindloc.vocabulary import SideName

if TYPE_CHECKING:  # it imports MindSpore
    from mindloc.models.layers import Form


class ReducedEngine:
    """Any engine, with ``omega`` (or ``global``) reduced; its other descriptors are left as they are.

    Args:
        reduction: from its file, fitted to descriptors of the engine's checkpoint.

    Raises:
        TileIndexError: the reduction was fitted to descriptors of another checkpoint.
    """

    def __init__(self, engine: Engine, reduction: Reduction):
        require_origin(reduction, engine.facts["checkpoint_sha256"])
        self._engine, self._reduction = engine, reduction
        self.batch_size, self.descriptors = engine.batch_size, engine.descriptors

    @property
    def facts(self) -> dict[str, Any]:
        """As ``Engine.facts``, and reduction_sha256, which is of the recall descriptor alone."""
        return {**self._engine.facts, "reduction_sha256": self._reduction.sha256}

    @property
    def files(self) -> dict[str, ExportedFile]:
        """Those of an engine of exported files."""
        return self._engine.files

    def compare_with(self, exact: Engine, batches: Iterable[tuple[str, np.ndarray]]) -> EngineAgreement:
        """As ``ExportedEngine.compare_with``, before the reduction."""
        return self._engine.compare_with(exact, batches)

    def encode(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """As ``Engine.encode``.

        Raises:
            TileIndexError: moreover, descriptors of another dimension than the reduction was fitted to.
        """
        descriptors = self._engine.encode(batch)
        for view in batch:
            for name in RECALL_DESCRIPTORS:
                if f"{view}.{name}" in descriptors:
                    descriptors[f"{view}.{name}"] = self._reduction.project(descriptors[f"{view}.{name}"])
        return descriptors


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


FORMATS = {"mindir": "MINDIR", "onnx": "ONNX"}
SAMPLES = 8  # of each view; enough to see whether int8 lost something, and read in a moment


@dataclass(frozen=True)
class EngineWish:
    """What a user asks for; a checkpoint or a place of exported files at least."""

    engine: Literal["mindspore", "mindir", "onnx"] = "mindspore"
    checkpoint: Path | None = None
    exported: Path | None = None  # file or folder; None: export/ of the checkpoint's run
    precision: Literal["fp32", "fp16", "bf16", "int8"] | None = None  # None: the training's, of exported files fp32
    key: bytes | None = field(default=None, repr=False)  # of encrypted files
    tensorrt: bool = False
    allow_cpu_provider: bool = False
    pca: Path | None = None  # reduction of the recall descriptors; None: they stay as encoded


@dataclass
class Source:
    """What the encoder comes from, read once."""

    config: Config  # as training left it
    weights: Weights | None  # of the mindspore engine
    files: dict[str, ExportedFile]  # of the others, by view
    reduction: Reduction | None = None  # of the recall descriptors

    @property
    def checkpoint_sha256(self) -> str | None:
        """Of the checkpoint that all of it comes from."""
        return next(iter(self.files.values())).checkpoint_sha256 if self.files else self.weights.sha256


def read_source(wish: EngineWish, views: Sequence[str]) -> Source:
    """Read the checkpoint, or the cards of the exported files that encode ``views``.

    Raises:
        ConfigError: the config that they carry is not one of this program.
        CheckpointError, ExportError: what the wish names is missing or damaged, or does not belong together.
        TileIndexError: so is the reduction.
    """
    source = _read_encoder(wish, views)
    if wish.pca is not None:
        source.reduction = load_reduction(wish.pca)
        require_origin(source.reduction, source.checkpoint_sha256)
    return source


def _read_encoder(wish: EngineWish, views: Sequence[str]) -> Source:
    weights = None if wish.checkpoint is None else load_weights(wish.checkpoint)
    if wish.engine == "mindspore":
        return Source(config_from_dict(weights.config), weights, {})
    files = _find(wish, views)
    require_one_origin(files, weights and weights.sha256)
    return Source(config_from_dict(files[views[0]].config), None, files)


def start_engine(wish: EngineWish, source: Source, config: Config, say: Callable[[str], None] = print) -> Engine:
    """The engine, on the device of ``config.run``.

    Args:
        say: gets a line on what computes where, before the work of loading.

    Raises:
        DeviceError: the device, the library or the precision is not to be had here.
        CheckpointError, ExportError: weights or files that are not what they say.
    """
    engine = _start_encoder(wish, source, config, say)
    return engine if source.reduction is None else ReducedEngine(engine, source.reduction)


def _start_encoder(wish: EngineWish, source: Source, config: Config, say: Callable[[str], None]) -> Engine:
    require_inputs(source.files, config)
    if wish.engine == "onnx":
        use_device("CPU")  # MindSpore only reads the pictures
        return _start_onnx(wish, source.files, config, say)
    device = use_device(config.run.device_target, config.run.device_ids[0], config.run.operator_fusion)
    say(f"device: {device.description}")
    if wish.engine == "mindspore":
        require_precision(wish.precision or config.train.precision, device.target)
        return load_engine(source.weights, config.eval.batch_size, wish.precision)[0]
    for file in source.files.values():
        require_precision(file.precision, device.target)
    engine = load_mindir_engine(source.files, config.eval.batch_size, wish.key)
    say(f"engine: {engine}")
    return engine


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


def load_encoder(
    checkpoint: str | Path | Weights, precision: str | None = None, form: "Form | None" = None
) -> tuple[Any, Config, str]:
    """(encoder in evaluation mode, its config, sha256 of the file); arguments and errors as ``load_engine``.

    The config says the precision that was asked for and names no weights to begin from.

    Args:
        form: of the layers; None: the one that this process's device is fast in.
    """
    from mindloc.models.build import build_encoder  # here, so that scoring from disk needs no MindSpore

    weights = checkpoint if isinstance(checkpoint, Weights) else load_weights(checkpoint)
    config = config_from_dict(weights.config)
    precision = precision or config.train.precision
    config = config.with_values({"model.pretrained": None, "train.precision": precision})  # its own weights follow
    encoder = build_encoder(config, form=form)
    encoder.set_train(False)
    parameters = dict(encoder.parameters_and_names())
    weights.require({name: tuple(parameter.shape) for name, parameter in parameters.items()})
    for name, parameter in parameters.items():
        _fill(parameter, weights.arrays[name], weights.path)
    return encoder, config, weights.sha256


def require_inputs(files: dict[str, ExportedFile], config: Config) -> None:
    """Raises: ExportError: a file takes pictures of another size or normalization than the config asks for."""
    for side, file in files.items():
        view = config.view(side)
        if (file.size_px, file.mean, file.std) != (view.size_px, view.mean, view.std):
            raise ExportError(
                f"{file.path} takes {view.name} images of {list(file.size_px)} px, mean {list(file.mean)} and std "
                f"{list(file.std)}, not {list(view.size_px)} px, {list(view.mean)} and {list(view.std)}; "
                f"leave data.{side}_size_px as it was, or export the checkpoint again"
            )


def card_facts(config: Config, side: SideName, place_unit: str | None) -> dict[str, Any]:
    """What the cards of a side's descriptor sets say beside what the engine says of itself."""
    view = config.view(side)
    facts = {"view": view.name, "place_unit": place_unit, "input_size_px": list(view.size_px)}
    nodes = {"nodes": config.head.nodes} if config.head.name == "two_stage" else {}
    return {**facts, **nodes, "config": config_to_dict(config)}


def sample_batches(
    config: Config, paths: Mapping[str, Sequence[Path]], batch_size: int
) -> Iterator[tuple[str, np.ndarray]]:
    """(view, normalized pictures) of a few real pictures of each view, spread evenly over its list."""
    for view, of_view in paths.items():
        spread = list(of_view)[:: max(1, len(of_view) // SAMPLES)][:SAMPLES]
        size = min(batch_size, len(spread))
        for image_B3HW, count in ImageBatches(config.view(view), spread, size, config.data.workers):
            yield view, image_B3HW[:count]


def _find(wish: EngineWish, views: Sequence[str]) -> dict[str, ExportedFile]:
    file_format = FORMATS[wish.engine]
    precision = "fp32" if wish.precision == "int8" else wish.precision
    try:
        return find_exported(wish.exported or export_folder(wish.checkpoint), file_format, precision, views)
    except AbsentError as error:
        line = f"python export.py --checkpoint {wish.checkpoint or 'FILE'} --file_format {file_format}"
        line += "" if precision in (None, "fp32") else f" --precision {precision}"
        line += f" --out {wish.exported}" if wish.exported is not None and not wish.exported.is_file() else ""
        raise ExportError(f"{error}; write it with: {line}") from None


def _start_onnx(wish: EngineWish, files: dict[str, ExportedFile], config: Config, say: Callable[[str], None]) -> Engine:
    int8 = wish.precision == "int8"
    target = "CPU" if int8 and config.run.device_target == "auto" else config.run.device_target
    provider = choose_provider(target, config.run.device_ids[0], wish.tensorrt, wish.allow_cpu_provider)
    if provider.note:
        say(f"note: on the CPU, because {provider.note}")
    engine = load_onnx_engine(files, provider, int8)
    say(f"engine: {engine}")
    return engine


def _fill(parameter: Any, array: np.ndarray, path: Path) -> None:
    import mindspore as ms

    if not np.isfinite(array).all():
        raise CheckpointError(f"checkpoint {path}: {parameter.name} holds NaN or infinity; take an older checkpoint")
    parameter.set_data(ms.Tensor(array, parameter.dtype))
