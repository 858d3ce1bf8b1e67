"""ONNX, opset 11, with a fixed number of pictures: for ONNX Runtime, TensorRT and Ascend's converter.

MindSpore can't export Erf, and our own GELU becomes 25 small operators there, a third of the time in 8 bits. So GELU
leaves MindSpore as one operator that the encoder has no other use for, and is written out with Erf afterwards, in the
order that ONNX Runtime and TensorRT know as GELU. The comparison with the live encoder holds for what comes of it.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindloc.inference.exported_engine import RunFile
from mindloc.inference.onnx_file import CPU, Provider, open_session
from mindloc.models.gelu import Gelu
from mindloc.runtime.optional_module import optional_module

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}  # of the largest entry; in fp32 the base model at 384 px was seen at 1e-6
_GELU_MARK = "Tanh"


def save(cell: nn.Cell, example: ms.Tensor, file: Path, key: bytes | None, names: list[str]) -> None:
    """Write the graph; its input is called "images", its results have the names given."""
    optional_module("onnxruntime")  # the file can't be checked without it: say so before the work
    onnx = optional_module("onnx")
    with _gelu_marked(cell):
        ms.export(cell, example, file_name=str(file), file_format="ONNX")
    model = onnx.load(str(file))
    _write_out_gelu(model.graph, onnx)
    _name_results(model.graph, names)
    onnx.checker.check_model(model)
    onnx.save(model, str(file))


def reload(file: Path, key: bytes | None) -> RunFile:
    """The file on ONNX Runtime's CPU provider, which every machine has."""
    session = open_session(file.read_bytes(), file, Provider(CPU))
    return lambda images: session.run(None, {"images": np.ascontiguousarray(images)})


class _Mark(nn.Cell):
    """Stands where a GELU stands."""

    def __init__(self):
        super().__init__()
        self.mark = ops.Tanh()

    def construct(self, x):
        return ops.cast(self.mark(ops.cast(x, ms.float32)), x.dtype)


@contextmanager
def _gelu_marked(cell: nn.Cell) -> Iterator[None]:
    """The cell with each GELU replaced by a mark; as it was again afterwards."""
    places = [(parent, name, child) for _, parent in cell.cells_and_names() for name, child in _gelus(parent)]
    try:
        for parent, name, _ in places:
            setattr(parent, name, _Mark())
        yield
    finally:
        for parent, name, gelu in places:
            setattr(parent, name, gelu)


def _gelus(parent: nn.Cell) -> list[tuple[str, Gelu]]:
    return [(name, child) for name, child in parent.name_cells().items() if isinstance(child, Gelu)]


def _write_out_gelu(graph: Any, onnx: Any) -> None:
    """x / sqrt 2, Erf, + 1, * x, / 2 in the place of every mark."""
    constants = {"gelu.sqrt2": math.sqrt(2.0), "gelu.one": 1.0, "gelu.half": 0.5}
    nodes = []
    for node in graph.node:
        nodes += _gelu_nodes(node, onnx.helper.make_node) if node.op_type == _GELU_MARK else [node]
    if len(nodes) > len(graph.node):
        arrays = {name: np.array(value, np.float32) for name, value in constants.items()}
        graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def _gelu_nodes(mark: Any, make_node: Any) -> list[Any]:
    (x,), (y,) = mark.input, mark.output
    return [
        make_node("Div", [x, "gelu.sqrt2"], [f"{y}.scaled"]),
        make_node("Erf", [f"{y}.scaled"], [f"{y}.erf"]),
        make_node("Add", [f"{y}.erf", "gelu.one"], [f"{y}.share"]),
        make_node("Mul", [x, f"{y}.share"], [f"{y}.double"]),
        make_node("Mul", [f"{y}.double", "gelu.half"], [y]),
    ]


def _name_results(graph: Any, names: list[str]) -> None:
    """Call the outputs by names of ours; MindSpore calls them after the last operators' places in our code."""
    names_of = {result.name: name for result, name in zip(graph.output, names, strict=True)}
    for node in graph.node:
        for found in (node.input, node.output):
            for index, name in enumerate(found):
                found[index] = names_of.get(name, name)
    for result in graph.output:
        result.name = names_of[result.name]
