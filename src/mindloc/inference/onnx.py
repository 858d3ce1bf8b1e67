"""ONNX files on ONNX Runtime, on the provider that was requested and on no other.

ONNX Runtime continues with its CPU provider when the CUDA provider can't start, and reports this only in a log. Here it
is an error unless the caller allowed it.

A file may come from anywhere, so it is checked before it is run. mindloc exports one plain graph: all shapes are fixed,
all weights inside, all operators from the ONNX standard. A file with anything else, such as paths to other files,
loops, operators of other libraries or arrays of absurd size, was not exported by mindloc and is rejected.
"""

import logging
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mindloc.config.sections import RunConfig
from mindloc.errors import DeviceError, ExportError, one_line
from mindloc.inference.build import EngineRequest, Source
from mindloc.inference.exported import ExportedEngine, ExportedFile, RunFile, output_name
from mindloc.runtime.packages import ONE_RELU, optional_module, preload_onnx_libraries, why_provider_missing
from mindloc.runtime.process import command_line, native_messages, usable_cores
from mindloc.vocabulary import SideName

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_MOST_ELEMENTS = 1 << 31  # of one array within the graph; 64 images of 384 px stay below a seventh of it
_SMALL_BYTES = 4096  # arrays up to this may be shapes, which the inference of shapes reads
_INPUT_TYPES = {1: "float32", 2: "uint8"}


def start_onnx_engine(
    request: EngineRequest, source: Source, run: RunConfig, batch_size: int, say: Callable[[str], None]
) -> ExportedEngine:
    """Start the engine of ONNX files, whose batch size is fixed.

    Raises:
        ExportError, DeviceError: for the reasons given in ``choose_provider`` and ``open_onnx``.
    """
    int8 = request.precision == "int8"
    target = "CPU" if int8 and run.device_target == "auto" else run.device_target
    provider = choose_provider(target, run.device_ids[0], request.tensorrt, request.allow_cpu_provider)
    if provider.note:
        say(f"note: on the CPU, because {provider.note}")
    engine = load_onnx_engine(source.files, provider, int8)
    say(f"engine: {engine}")
    return engine


def load_onnx_engine(files: dict[SideName, ExportedFile], provider: "Provider", int8: bool = False) -> ExportedEngine:
    """Start the engine of ONNX files on a provider; ``int8`` computes float32 files in 8 bits, on CPUs.

    Raises:
        ExportError, DeviceError: for the reasons given in ``open_onnx``, or because int8 is not for this provider.
    """
    if int8 and provider.name != CPU:
        raise DeviceError(f"int8 is for CPUs, but would run on {provider.name}; use --device_target CPU")
    (precision,) = {file.precision for file in files.values()}
    version = f"onnxruntime {optional_module('onnxruntime').__version__}"
    facts = {"provider": provider.name, "runtime": version}
    exact = None
    if int8:
        facts["quantization"] = "dynamic, weights in 8 bits"
        precision, exact = "int8", lambda: load_onnx_engine(files, provider)
    return ExportedEngine(
        "onnx", precision, files, lambda file: open_onnx(file, provider, int8), facts=facts, exact=exact
    )


@dataclass(frozen=True)
class Provider:
    """A provider of ONNX Runtime: the part that computes a file, on one kind of device."""

    name: str  # as ONNX Runtime calls it
    device_id: int = 0
    note: str | None = None  # why it is not the one that was requested


def choose_provider(
    target: Literal["auto", "CPU", "GPU", "Ascend"], device_id: int, tensorrt: bool = False, allow_cpu: bool = False
) -> Provider:
    """The provider for a device target; "auto" chooses the GPU if this ONNX Runtime supports one.

    Args:
        allow_cpu: continue with the CPU if the GPU's provider is absent or does not start.

    Raises:
        DeviceError: ONNX Runtime is not installed, or has no provider for the target.
    """
    runtime = optional_module("onnxruntime")
    there = runtime.get_available_providers()
    if target == "Ascend":
        raise DeviceError("the onnx engine runs on CPU and GPU; use --device_target CPU or GPU, or a different engine")
    if tensorrt and target != "GPU":
        raise DeviceError(
            f"--tensorrt is for GPUs, but the target is {target}; add --device_target GPU, or leave it out"
        )
    if target == "CPU" or (target == "auto" and CUDA not in there):
        return Provider(CPU)
    wanted = TENSORRT if tensorrt else CUDA
    if wanted in there:
        provider = Provider(wanted, device_id)
        return _started(provider, allow_cpu or target == "auto")
    reason = f"onnxruntime {runtime.__version__} has no {wanted}, only {', '.join(there)}"
    if allow_cpu:
        return Provider(CPU, note=reason)
    raise DeviceError(
        f"{reason}; replace it with the GPU build: pip uninstall -y onnxruntime, then "
        "pip install 'onnxruntime-gpu[cuda,cudnn]'; or continue with the CPU: --allow_cpu_provider"
    )


def open_onnx(file: ExportedFile, provider: Provider, int8: bool = False) -> RunFile:
    """Check and load the graph of an exported file; returns the function that runs it, with ``int8`` in 8 bits.

    Raises:
        ExportError: the file does not fit its card, or was not exported by mindloc.
        DeviceError: ONNX Runtime or the provider can't be used.
    """
    file.require_intact()
    content = file.path.read_bytes()
    require_plain_graph(content, file)
    session = open_session(quantized(content) if int8 else content, file.path, provider, file.precision == "fp16")
    entry, results = session.get_inputs()[0].name, [output_name(descriptor) for descriptor in file.descriptors]
    return lambda images: session.run(results, {entry: images})


def quantized(content: bytes) -> bytes:
    """Quantize a graph dynamically: 8-bit weights, and activations rounded to 8 bits while it runs.

    Weights are scaled by channel: half the error of one scale per matrix, and no slower. Constants other than weights
    are not changed: the coordinates of a feature map's positions, from which centroids are computed.

    Raises:
        DeviceError: the onnx library is missing.
    """
    onnx = optional_module("onnx")
    tools = optional_module("onnxruntime.quantization")
    with tempfile.TemporaryDirectory(prefix="mindloc-int8-") as directory, _quiet_log():
        path = Path(directory) / "int8.onnx"
        model = onnx.load_model_from_string(content)
        if _computes_convolutions(model.graph):
            model = onnx.load_model_from_string(_folded(content, Path(directory) / "folded.onnx"))
        spared = _products_with_stacks(model.graph)
        kind = tools.QuantType.QInt8
        tools.quantize_dynamic(model, str(path), weight_type=kind, per_channel=True, nodes_to_exclude=spared)
        return path.read_bytes()


def _folded(content: bytes, path: Path) -> bytes:
    """Compute all parts of a graph that depend only on constants; its operators are still those of the standard."""
    runtime = optional_module("onnxruntime")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    runtime.InferenceSession(content, options, providers=[CPU])
    return path.read_bytes()


def _computes_convolutions(graph: Any) -> bool:
    """Whether weights of convolutions are computed, as products with scales of norms; the quantizer needs constants."""
    constants = {tensor.name for tensor in graph.initializer}
    return any(node.op_type == "Conv" and node.input[1] not in constants for node in graph.node)


def _products_with_stacks(graph: Any) -> list[str]:
    """Names of products with a constant of more than two dimensions, which the quantizer would treat as a matrix."""
    stacks = {tensor.name for tensor in graph.initializer if len(tensor.dims) > 2}
    return [node.name for node in graph.node if node.op_type == "MatMul" and stacks & set(node.input)]


def open_session(content: bytes, path: Path, provider: Provider, fp16: bool = False) -> Any:
    runtime = optional_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = len(usable_cores())
    options.log_severity_level = 3  # errors: what matters of the rest is checked below
    try:
        session = runtime.InferenceSession(content, options, providers=_provider_list(provider, fp16))
    except Exception as error:  # its classes share no other base
        reason = one_line(error)[:200]
        raise ExportError(f"ONNX Runtime can't open {path} on {provider.name}: {reason}; export again") from error
    _require_provider(session, provider)
    return session


def _provider_list(provider: Provider, fp16: bool) -> list[Any]:
    device = {"device_id": str(provider.device_id)}
    cuda = (CUDA, {**device, "use_tf32": "0"})  # real fp32: products rounded to TF32 would lose three digits
    if provider.name == TENSORRT:
        return [(TENSORRT, {**device, "trt_fp16_enable": str(fp16)}), cuda, CPU]
    return [cuda, CPU] if provider.name == CUDA else [CPU]


def _require_provider(session: Any, provider: Provider) -> None:
    """Check that a session computes on the provider.

    Raises:
        DeviceError: ONNX Runtime silently dropped the provider and would compute on a different one.
    """
    got = session.get_providers()
    if got[0] != provider.name:
        raise DeviceError(
            f"{provider.name} did not start on device {provider.device_id}, only {got[0]} did; "
            f"see {command_line('doctor')}, or use --device_target CPU"
        )


def _started(provider: Provider, allow_cpu: bool) -> Provider:
    """The provider, after it opened a graph of one operator; if it can't and ``allow_cpu``, the CPU's with a note.

    Raises:
        DeviceError: it does not start; the message includes what ONNX Runtime writes only to its log.
    """
    runtime = optional_module("onnxruntime")
    with native_messages() as messages:
        preload_onnx_libraries(runtime)
        try:
            open_session(ONE_RELU, Path("a graph of one operator"), provider)
            return provider
        except (DeviceError, ExportError) as error:
            failure = error
    because = why_provider_missing(f"{failure}\n{messages.text}")
    version = f"onnxruntime {runtime.__version__}"
    reason = f"{provider.name} did not start on device {provider.device_id}: {because} ({version})"
    if allow_cpu:
        return Provider(CPU, note=reason)
    packages = (
        "tensorrt and 'onnxruntime-gpu[cuda,cudnn]'" if provider.name == TENSORRT else "'onnxruntime-gpu[cuda,cudnn]'"
    )
    raise DeviceError(
        f"{reason}; pip install {packages}, see {command_line('doctor')} for the driver, "
        "or continue with the CPU: --allow_cpu_provider"
    ) from failure


@contextmanager
def _quiet_log() -> Iterator[None]:
    """Context without the warnings of the quantizer, which are for users of other tools."""
    logger = logging.getLogger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def require_plain_graph(content: bytes, file: ExportedFile) -> None:
    """Check that a file contains a graph such as mindloc exports, with the input and the outputs that its card states.

    Raises:
        ExportError: the file does not contain such a graph.
        DeviceError: the onnx library is missing.
    """
    onnx = optional_module("onnx")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except (optional_module("google.protobuf.message").DecodeError, UnicodeDecodeError):
        raise ExportError(f"{file.path} is not an ONNX file; export again") from None
    graph = model.graph
    for problem in (
        _foreign_parts(model, onnx),
        _input_problem(graph, file),
        _output_problem(graph, file),
        _size_problem(model, onnx),
    ):
        if problem:
            raise ExportError(f"{file.path} was not exported by mindloc: {problem}; it is not run")


def _foreign_parts(model: Any, onnx: Any) -> str | None:
    graph = model.graph
    if len(model.functions) or len(model.training_info) or len(graph.sparse_initializer):
        return "it contains functions, training information or sparse weights"
    for tensor in graph.initializer:
        if _is_elsewhere(tensor, onnx):
            return f"its weights {tensor.name} are in another file"
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            return f"operator {node.op_type} is from the library {node.domain}"
        for attribute in node.attribute:
            if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
                return f"operator {node.op_type} contains a graph itself"
            if attribute.HasField("sparse_tensor") or len(attribute.sparse_tensors):
                return f"operator {node.op_type} contains a sparse constant"
            if any(_is_elsewhere(tensor, onnx) for tensor in (attribute.t, *attribute.tensors)):
                return f"a constant of {node.op_type} is in another file"
    return None


def _is_elsewhere(tensor: Any, onnx: Any) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL or len(tensor.external_data) > 0


def _input_problem(graph: Any, file: ExportedFile) -> str | None:
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value.type.tensor_type for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        return f"it has {len(inputs)} inputs instead of one"
    shape, dtype = _shape(inputs[0]), _INPUT_TYPES.get(inputs[0].elem_type)
    expected = (file.input_shape, "uint8" if file.takes_pixels else "float32")
    if (shape, dtype) != expected:
        return f"its input is {dtype} {shape}, but its card says {expected[1]} {expected[0]}"
    return None


def _output_problem(graph: Any, file: ExportedFile) -> str | None:
    names, expected = [value.name for value in graph.output], [output_name(name) for name in file.descriptors]
    return None if names == expected else f"it returns {', '.join(names)}, but its card says {', '.join(expected)}"


def _size_problem(model: Any, onnx: Any) -> str | None:
    """The problem if an array of the graph has no fixed size or an absurd one; by inference, without running it."""
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > _SMALL_BYTES:
            tensor.ClearField("raw_data")  # shape inference copies the whole model, but needs only sizes
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (RuntimeError, ValueError, onnx.shape_inference.InferenceError) as error:
        return f"its shapes contradict each other ({one_line(error)[:120]})"
    known = {value.name: _shape(value.type.tensor_type) for value in (*graph.value_info, *graph.output, *graph.input)}
    for node in graph.node:
        for name in filter(None, node.output):
            shape = known.get(name)
            if shape is None or None in shape:
                return f"a result of {node.op_type} has no fixed size"
            if math.prod(shape) > _MOST_ELEMENTS:
                return f"a result of {node.op_type} has {math.prod(shape)} numbers"
    return None


def _shape(tensor_type: Any) -> tuple[int | None, ...] | None:
    if not tensor_type.HasField("shape"):
        return None
    return tuple(side.dim_value if side.HasField("dim_value") else None for side in tensor_type.shape.dim)
