"""Start the engine that a user requests: first read its checkpoint or exported files, once.

A checkpoint contains its config, and so do the cards of exported files. ENGINES of registry.py names the function that
starts each engine: that of checkpoints is here, the others are in ``mindir.py`` and ``onnx.py``.
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

SAMPLES = 8  # images of each side; enough to see a loss by 8 bits, and few enough to read in a moment


@dataclass(frozen=True)
class EngineRequest:
    """What a user requests; at least a checkpoint or the place of exported files."""

    engine: str = "mindspore"  # a name in ENGINES
    checkpoint: Path | None = None
    exported: Path | None = None  # file or directory; None: export/ of the checkpoint's run
    precision: str | None = None  # one of the engine's; None: that of training, for exported files fp32
    key: bytes | None = field(default=None, repr=False)  # of encrypted files
    tensorrt: bool = False
    allow_cpu_provider: bool = False
    pca: Path | None = None  # reduction of the recall descriptors; None: not reduced


@dataclass(frozen=True)
class Source:
    """What the encoder is loaded from, read once."""

    config: Config  # as training left it
    sides: tuple[SideName, ...]  # that will be encoded
    weights: Weights | None  # for the engine of checkpoints
    files: dict[SideName, ExportedFile]  # for the other engines
    reduction: Reduction | None = None  # of the recall descriptors

    @property
    def side(self) -> SideName:
        """The side that will be encoded, if there is only one."""
        (side,) = self.sides
        return side

    @property
    def checkpoint_sha256(self) -> str | None:
        """sha256 of the checkpoint that the weights or files come from."""
        return next(iter(self.files.values())).checkpoint_sha256 if self.files else self.weights.sha256

    def queries(self, count: int) -> Queries:
        """What is known about ``count`` images before the first one is encoded."""
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
        """Check that the files take images of the size and normalization in the config.

        Raises:
            ExportError: a file does not.
        """
        for side, file in self.files.items():
            view = config.view(side)
            if (file.size_px, file.mean, file.std) != (view.size_px, view.mean, view.std):
                raise ExportError(
                    f"{file.path} takes {view.name} images of {list(file.size_px)} px, mean {list(file.mean)} and std "
                    f"{list(file.std)}, but the config has {list(view.size_px)} px, {list(view.mean)} and "
                    f"{list(view.std)}; leave data.{side}_size_px as it was, or export the checkpoint again"
                )


def read_source(request: EngineRequest, sides: Sequence[SideName] = SIDES, view: str | None = None) -> Source:
    """Read the checkpoint, or the cards of the exported files.

    Args:
        sides: whose images will be encoded.
        view: the view that the images show, as a user names it; the side with this view replaces ``sides``.

    Raises:
        ConfigError: the config in them is not valid in this program, or no side of it has the view.
        CheckpointError, ExportError: the checkpoint or a file is missing or damaged, or they don't belong together.
        DataError: the reduction is missing or damaged, or was fitted to a different checkpoint.
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
    """Start the engine on the device of ``config.run``.

    Args:
        config: that of the source, with what the user overrides.
        say: receives a line that names device or engine.

    Raises:
        DeviceError: the device, the library or the precision is not available here.
        CheckpointError, ExportError: the weights do not fit their config, or a file does not fit its card.
    """
    source.require_inputs(config)
    engine = ENGINES[request.engine].build(request, source, config.run, config.eval.batch_size, say)
    return engine if source.reduction is None else ReducedEngine(engine, source.reduction)


def start_mindspore_engine(
    request: EngineRequest, source: Source, run: RunConfig, batch_size: int, say: Callable[[str], None]
) -> MindSporeEngine:
    """Start the engine of a checkpoint; arguments and errors as described in ``start_engine``."""
    device = use_device(run.device_target, run.device_ids[0], run.operator_fusion)
    say(f"device: {device.summary}")
    require_precision(request.precision or source.config.train.precision, device.target)
    return load_engine(source.weights, batch_size, request.precision)[0]


def load_engine(
    checkpoint: str | Path | Weights, batch_size: int | None = None, precision: str | None = None
) -> tuple[MindSporeEngine, Config]:
    """The engine of a checkpoint, on the device in use, and the config in the checkpoint.

    Args:
        checkpoint: a file, or its weights if it was read already.
        batch_size: None takes ``eval.batch_size`` of that config.
        precision: None takes ``train.precision`` of that config.

    Raises:
        CheckpointError: the file is missing or damaged, or its weights are not those of the model in its config.
        ConfigError: the config in the checkpoint is not valid in this program.
    """
    encoder, config, sha256 = load_encoder(checkpoint, precision)
    return MindSporeEngine(encoder, batch_size or config.eval.batch_size, config.train.precision, sha256), config


def load_encoder(
    checkpoint: str | Path | Weights, precision: str | None = None, form: "Form | None" = None
) -> tuple[Any, Config, str]:
    """(encoder in evaluation mode, its config, sha256 of the file); for arguments and errors see ``load_engine``.

    In the config, train.precision is the requested precision and model.pretrained is None.

    Args:
        form: of the layers; None: the form that is fast on the device of this process.
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
        raise CheckpointError(f"checkpoint {path}: {parameter.name} contains NaN or infinity; use an older checkpoint")
    parameter.set_data(ms.Tensor(array, parameter.dtype))


def card_facts(config: Config, side: SideName, place_unit: str | None) -> dict[str, Any]:
    """Facts for the cards of a side's descriptor sets, besides the facts of the engine."""
    view = config.view(side)
    facts = {"view": view.name, "place_unit": place_unit, "input_size_px": list(view.size_px)}
    nodes = {"nodes": config.head.nodes} if "head.nodes" in HEADS[config.head.name].reads else {}
    return {**facts, **nodes, "config": config_to_dict(config)}


def compare_with_exact(
    engine: Engine, config: Config, paths: Mapping[SideName, Sequence[Path]], say: Callable[[str], None] = print
) -> None:
    """Report how far an 8-bit engine agrees with the exact one on a few images of each side.

    Other engines are not compared. A reduction is left out of the comparison. The agreement becomes one of the engine's
    facts.
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
        # unreadable images are reported when all images are read
        for image_B3HW, count in ImageBatches(config.view(side), spread, size, config.data.workers, skip_bad=True):
            yield side, image_B3HW[:count]
