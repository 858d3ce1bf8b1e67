"""From what a user requests to an engine: a checkpoint or exported files, read once; then the engine, by the table.

A checkpoint carries its config, and so do the cards of exported files. ENGINES of registry.py names the function that
starts each engine; the one of checkpoints is here, the others in ``mindir.py`` and ``onnx.py``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mindloc.config import Config, config_from_dict, config_to_dict
from mindloc.config.sections import RunConfig
from mindloc.data.loader import ImageBatches
from mindloc.descriptors.reduction import Reduction, load_reduction, require_origin
from mindloc.errors import CheckpointError, ExportError
from mindloc.inference.engine import Engine, MindSporeEngine, ReducedEngine, compare_engines
from mindloc.inference.exported import (
    AbsentError,
    ExportedEngine,
    ExportedFile,
    choose_file,
    find_exported,
    require_one_origin,
)
from mindloc.registry import ENGINES, HEADS
from mindloc.runtime.checkpoint import Weights, load_weights
from mindloc.runtime.device import require_precision, use_device
from mindloc.runtime.process import command_line
from mindloc.runtime.run_directory import export_directory
from mindloc.search.extraction import Queries
from mindloc.vocabulary import PHI, SIDES, SideName

if TYPE_CHECKING:  # it imports MindSpore
    from mindloc.models.layers import Form

SAMPLES = 8  # of each side; enough to see whether 8 bits lost something, and read in a moment


@dataclass(frozen=True)
class EngineRequest:
    """What a user requests; a checkpoint or a place of exported files at least."""

    engine: str = "mindspore"  # a name in ENGINES
    checkpoint: Path | None = None
    exported: Path | None = None  # file or directory; None: export/ of the checkpoint's run
    precision: str | None = None  # one of the engine's; None: the training's, of exported files fp32
    key: bytes | None = field(default=None, repr=False)  # of encrypted files
    tensorrt: bool = False
    allow_cpu_provider: bool = False
    pca: Path | None = None  # reduction of the recall descriptors; None: they stay as encoded


@dataclass(frozen=True)
class Source:
    """What the encoder comes from, read once."""

    config: Config  # as training left it
    sides: tuple[SideName, ...]  # that will be encoded
    weights: Weights | None  # of a checkpoint's engine
    files: dict[SideName, ExportedFile]  # of the others
    reduction: Reduction | None = None  # of the recall descriptors

    @property
    def side(self) -> SideName:
        """The one that will be encoded, where it is one."""
        (side,) = self.sides
        return side

    @property
    def checkpoint_sha256(self) -> str | None:
        """Of the checkpoint that all of it comes from."""
        return next(iter(self.files.values())).checkpoint_sha256 if self.files else self.weights.sha256

    def queries(self, count: int) -> Queries:
        """What is known of ``count`` images before the first one is encoded."""
        file = next(iter(self.files.values()), None)
        if self.reduction:
            dimension = self.reduction.dimension
        else:
            dimension = next(iter(file.dimensions.values())) if file else None
        return Queries(
            count=count,
            checkpoint_sha256=self.checkpoint_sha256,
            reduction_sha256=self.reduction.sha256 if self.reduction else None,
            dimension=dimension,
            has_rerank=PHI in (file.descriptors if file else HEADS[self.config.head.name].losses),
        )

    def require_inputs(self, config: Config) -> None:
        """Raises: ExportError: a file takes images of another size or normalization than the config has."""
        for side, file in self.files.items():
            view = config.view(side)
            if (file.size_px, file.mean, file.std) != (view.size_px, view.mean, view.std):
                raise ExportError(
                    f"{file.path} takes {view.name} images of {list(file.size_px)} px, mean {list(file.mean)} and std "
                    f"{list(file.std)}, not {list(view.size_px)} px, {list(view.mean)} and {list(view.std)}; "
                    f"leave data.{side}_size_px as it was, or export the checkpoint again"
                )


def read_source(request: EngineRequest, sides: Sequence[SideName] = SIDES, view: str | None = None) -> Source:
    """Read the checkpoint, or the cards of the exported files.

    Args:
        sides: whose images will be encoded.
        view: what the images show, as a user calls it; the side that shows it takes the place of ``sides``.

    Raises:
        ConfigError: the config that they carry is not one of this program, or no side of it shows the view.
        CheckpointError, ExportError: what the request names is missing or damaged, or does not belong together.
        DataError: so is the reduction.
    """
    weights = None if request.checkpoint is None else load_weights(request.checkpoint)
    file_format = ENGINES[request.engine].file_format
    if file_format is None:
        config = config_from_dict(weights.config)
        source = Source(config, _sides(config, sides, view), weights, {})
    else:
        source = _read_exported(request, weights, file_format, sides, view)
    if request.pca is None:
        return source
    reduction = load_reduction(request.pca)
    require_origin(reduction, source.checkpoint_sha256)
    return Source(source.config, source.sides, source.weights, source.files, reduction)


def _read_exported(
    request: EngineRequest, weights: Weights | None, file_format: str, sides: Sequence[SideName], view: str | None
) -> Source:
    precision = "fp32" if request.precision == "int8" else request.precision
    try:
        found = find_exported(request.exported or export_directory(request.checkpoint), file_format)
        config = config_from_dict(weights.config if weights else found[0].config)
        files = {side: choose_file(found, side, precision) for side in _sides(config, sides, view)}
    except AbsentError as error:
        words = ["--checkpoint", request.checkpoint or "RUN", "--file_format", file_format]
        words += [] if precision in (None, "fp32") else ["--precision", precision]
        is_directory = request.exported is not None and not request.exported.is_file()
        words += ["--out", request.exported] if is_directory else []
        raise ExportError(f"{error}; write it with: {command_line('export', *words)}") from None
    require_one_origin(files, weights and weights.sha256)
    if not weights:
        config = config_from_dict(next(iter(files.values())).config)
    return Source(config, tuple(files), None, files)


def _sides(config: Config, sides: Sequence[SideName], view: str | None) -> tuple[SideName, ...]:
    return tuple(sides) if view is None else (config.side_of(view),)


def start_engine(request: EngineRequest, source: Source, config: Config, say: Callable[[str], None] = print) -> Engine:
    """The engine, on the device of ``config.run``.

    Args:
        config: that of the source, with what the user overrides.
        say: gets a line on what computes where, before the work of loading.

    Raises:
        DeviceError: the device, the library or the precision is not to be had here.
        CheckpointError, ExportError: weights or files that are not what they say.
    """
    source.require_inputs(config)
    engine = ENGINES[request.engine].build(request, source, config.run, config.eval.batch_size, say)
    return engine if source.reduction is None else ReducedEngine(engine, source.reduction)


def start_mindspore_engine(
    request: EngineRequest, source: Source, run: RunConfig, batch_size: int, say: Callable[[str], None]
) -> MindSporeEngine:
    """The engine of a checkpoint."""
    device = use_device(run.device_target, run.device_ids[0], run.operator_fusion)
    say(f"device: {device.summary}")
    require_precision(request.precision or source.config.train.precision, device.target)
    return load_engine(source.weights, batch_size, request.precision)[0]


def load_engine(
    checkpoint: str | Path | Weights, batch_size: int | None = None, precision: str | None = None
) -> tuple[MindSporeEngine, Config]:
    """The engine of a checkpoint, on the device that was chosen, and the config that the checkpoint carries.

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

    The config says the precision that was requested and names no weights to start from.

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


def _fill(parameter: Any, array: np.ndarray, path: Path) -> None:
    import mindspore as ms

    if not np.isfinite(array).all():
        raise CheckpointError(f"checkpoint {path}: {parameter.name} contains NaN or infinity; take an older checkpoint")
    parameter.set_data(ms.Tensor(array, parameter.dtype))


def card_facts(config: Config, side: SideName, place_unit: str | None) -> dict[str, Any]:
    """What the cards of a side's descriptor sets say beside what the engine says of itself."""
    view = config.view(side)
    facts = {"view": view.name, "place_unit": place_unit, "input_size_px": list(view.size_px)}
    nodes = {"nodes": config.head.nodes} if "head.nodes" in HEADS[config.head.name].reads else {}
    return {**facts, **nodes, "config": config_to_dict(config)}


def compare_with_exact(
    engine: Engine, config: Config, paths: Mapping[SideName, Sequence[Path]], say: Callable[[str], None] = print
) -> None:
    """Say how far an engine in 8 bits agrees with the exact one on a few images of each side; of others nothing.

    Both are compared before a reduction. The agreement is one of the engine's facts from then on.
    """
    engine = engine.unreduced if isinstance(engine, ReducedEngine) else engine
    if not isinstance(engine, ExportedEngine) or engine.exact is None:
        return
    exact = engine.exact()
    agreement = compare_engines(exact, engine, sample_batches(config, paths, engine.batch_size))
    engine.agreement = {"with": exact.facts["precision"], **agreement.facts}
    say(f"agreement of {engine.precision} with {exact.facts['precision']}: {agreement}")


def sample_batches(
    config: Config, paths: Mapping[SideName, Sequence[Path]], batch_size: int
) -> Iterator[tuple[SideName, np.ndarray]]:
    """(side, normalized images) of a few real images of each side, spread evenly over its list."""
    for side, of_side in paths.items():
        spread = list(of_side)[:: max(1, len(of_side) // SAMPLES)][:SAMPLES]
        size = min(batch_size, len(spread))
        # an unreadable one is reported where all are read
        for image_B3HW, count in ImageBatches(config.view(side), spread, size, config.data.workers, skip_bad=True):
            yield side, image_B3HW[:count]
