"""An ONNX file looked at before anything runs it: it may come from anywhere.

What mindloc exports is one plain graph: every shape fixed, all weights inside, the standard's own operators. Whatever
else a file holds, paths to other files, loops, operators of somebody's library, arrays of absurd size, was not
exported by mindloc and is refused.
"""

import math
from typing import Any

from mindloc.errors import ExportError, one_line
from mindloc.inference.exported import ExportedFile, output_name
from mindloc.runtime.optional_module import optional_module

_MOST_ELEMENTS = 1 << 31  # of one array within the graph; 64 pictures of 384 px stay below a seventh of it
_SMALL_BYTES = 4096  # arrays up to this may be shapes, which the inference of shapes reads
_INPUT_TYPES = {1: "float32", 2: "uint8"}


def require_plain_graph(content: bytes, file: ExportedFile) -> None:
    """Check that a file holds a graph such as mindloc exports, with the input and the outputs that its card states.

    Raises:
        ExportError: it does not.
        DeviceError: the onnx library is missing.
    """
    onnx = optional_module("onnx")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except optional_module("google.protobuf.message").DecodeError:
        raise ExportError(f"{file.path} is no ONNX file; export again") from None
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
        return "it holds functions, a training or sparse weights"
    for tensor in graph.initializer:
        if _lies_elsewhere(tensor, onnx):
            return f"its weights {tensor.name} lie in another file"
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            return f"operator {node.op_type} is of the library {node.domain}"
        for attribute in node.attribute:
            if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
                return f"operator {node.op_type} holds a graph of its own"
            if attribute.HasField("sparse_tensor") or len(attribute.sparse_tensors):
                return f"operator {node.op_type} holds a sparse constant"
            if any(_lies_elsewhere(tensor, onnx) for tensor in (attribute.t, *attribute.tensors)):
                return f"a constant of {node.op_type} lies in another file"
    return None


def _lies_elsewhere(tensor: Any, onnx: Any) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL or len(tensor.external_data) > 0


def _input_problem(graph: Any, file: ExportedFile) -> str | None:
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value.type.tensor_type for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        return f"it has {len(inputs)} inputs instead of one"
    shape, dtype = _shape(inputs[0]), _INPUT_TYPES.get(inputs[0].elem_type)
    expected = (file.input_shape, "uint8" if file.takes_pixels else "float32")
    if (shape, dtype) != expected:
        return f"its input is {dtype} {shape}, its card says {expected[1]} {expected[0]}"
    return None


def _output_problem(graph: Any, file: ExportedFile) -> str | None:
    names, expected = [value.name for value in graph.output], [output_name(name) for name in file.descriptors]
    return None if names == expected else f"it returns {', '.join(names)}, its card says {', '.join(expected)}"


def _size_problem(model: Any, onnx: Any) -> str | None:
    """Whether some array of the graph has no fixed size, or one beyond reason; by inference, without running it."""
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > _SMALL_BYTES:
            tensor.ClearField("raw_data")  # the sizes are enough, and inference copies the whole model
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
