"""The graph that an exported file computes, and how each format is written and reloaded.

The graph is one side of the encoder; on request it includes the normalization of the images and the division by the
norm. MINDIR is MindSpore's own portable format; it takes any number of images and can be encrypted. ONNX, opset 11,
with a fixed number of images, is for ONNX Runtime, TensorRT and Ascend's converter. AIR is the format of Ascend's own
compiler: it is written on an Ascend, and read by Ascend's tools only.

MindSpore can't export Erf to ONNX, and our own GELU would become 25 small operators there, which take a third of the
time in 8 bits. So MindSpore exports each GELU as a placeholder, an operator that the encoder does not use otherwise.
Then the placeholders are replaced by operators with Erf, in the order that ONNX Runtime and TensorRT recognize as GELU.
The comparison with the live encoder uses the final file.
"""

import math
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindloc.inference.exported import RunFile
from mindloc.inference.mindir import MODE, open_mindir
from mindloc.inference.onnx import CPU, Provider, open_session
from mindloc.models.encoder import PlainOutputs
from mindloc.models.layers import Gelu, unit_rows
from mindloc.runtime.packages import optional_module


class ExportGraph(nn.Cell):
    """Images -> descriptors (B, D), as a tuple in the order of ``outputs``; a single output is a plain tensor.

    Args:
        side_encoder: (B, 3, H, W) float32, normalized -> {output: (B, D)}.
        pixels: (mean, std) of RGB scaled to 0..1: the graph then takes uint8 (B, H, W, 3), as cameras and decoders
            give them, and normalizes itself. None: normalized images come in.
        unit_length: for each output, whether to divide it by its Euclidean norm.
    """

    def __init__(
        self,
        side_encoder: nn.Cell,
        outputs: tuple[str, ...],
        pixels: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
        unit_length: tuple[bool, ...] = (),
    ):
        super().__init__(auto_prefix=False)  # parameters keep their names
        self.encoder = PlainOutputs(side_encoder, *outputs)
        self.alone = len(outputs) == 1
        self.takes_pixels, self.unit_length = pixels is not None, unit_length or (False,) * len(outputs)
        mean, std = np.array(pixels or ((0,) * 3, (1,) * 3), np.float64) * 255.0
        self.shift_3 = Tensor(mean.astype(np.float32))
        self.scale_3 = Tensor((1.0 / std).astype(np.float32))

    def construct(self, images):
        if self.takes_pixels:
            normal_BHW3 = (ops.cast(images, ms.float32) - self.shift_3) * self.scale_3
            images = ops.transpose(normal_BHW3, (0, 3, 1, 2))
        described, outputs = self.encoder(images), ()
        for i, divided in enumerate(self.unit_length):
            outputs += (unit_rows(described[i]) if divided else described[i],)
        return outputs[0] if self.alone else outputs


_EXPORTABLE_PATH = re.compile(r"[0-9a-zA-Z@_.:/\\-]+")


def _export(cell: nn.Cell, example: ms.Tensor, file: Path, file_format: str, **secret: Any) -> None:
    """Call ``ms.export``, with a temporary path if ``file`` has characters that it refuses, such as blanks."""
    if _EXPORTABLE_PATH.fullmatch(str(file)):
        ms.export(cell, example, file_name=str(file), file_format=file_format, **secret)
        return
    with tempfile.TemporaryDirectory(prefix="mindloc-") as directory:
        ms.export(cell, example, file_name=f"{directory}/file{file.suffix}", file_format=file_format, **secret)
        for written in Path(directory).iterdir():
            shutil.move(written, file)


UNCOMPARED = "only Ascend's converter (atc) reads an AIR file; compare a descriptor of the converted file"


def save_air(cell: nn.Cell, example: ms.Tensor, file: Path, key: bytes | None, names: list[str]) -> None:
    _export(cell, example, file, "AIR")


def save_mindir(cell: nn.Cell, example: ms.Tensor, file: Path, key: bytes | None, names: list[str]) -> None:
    secret: dict[str, Any] = {} if key is None else {"enc_key": key, "enc_mode": MODE}
    _export(cell, example, file, "MINDIR", **secret)


_GELU_MARK = "Tanh"


def save_onnx(cell: nn.Cell, example: ms.Tensor, file: Path, key: bytes | None, names: list[str]) -> None:
    """Write an ONNX file with the input "images" and the outputs ``names``."""
    optional_module("onnxruntime")  # the file can't be checked without it: fail before the work
    onnx = optional_module("onnx")
    with _gelu_marked(cell):
        _export(cell, example, file, "ONNX")
    model = onnx.load(str(file))
    _write_out_gelu(model.graph, onnx)
    _name_results(model.graph, names)
    onnx.checker.check_model(model)
    onnx.save(model, str(file))


def reload_onnx(file: Path, key: bytes | None) -> RunFile:
    """Open the file with ONNX Runtime's CPU provider, which every machine has."""
    session = open_session(file.read_bytes(), file, Provider(CPU))
    return lambda images: session.run(None, {"images": np.ascontiguousarray(images)})


class _Mark(nn.Cell):
    """Placeholder of a GELU."""

    def __init__(self):
        super().__init__()
        self.mark = ops.Tanh()

    def construct(self, x):
        return ops.cast(self.mark(ops.cast(x, ms.float32)), x.dtype)


@contextmanager
def _gelu_marked(cell: nn.Cell) -> Iterator[None]:
    """Context in which each GELU of the cell is replaced by a placeholder."""
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
    """Replace each placeholder by the operators of GELU: x / sqrt 2, Erf, + 1, * x, / 2."""
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
    """Rename the outputs to ``names``; MindSpore names them after positions in our source code."""
    names_of = {result.name: name for result, name in zip(graph.output, names, strict=True)}
    for node in graph.node:
        for found in (node.input, node.output):
            for index, name in enumerate(found):
                found[index] = names_of.get(name, name)
    for result in graph.output:
        result.name = names_of[result.name]


@dataclass(frozen=True)
class Writer:
    """How one format is written, and reloaded for the comparison with the live encoder.

    Attributes:
        save: called with (cell, example input, file, key or None, names of the outputs).
        reload: (file, key or None) -> a function of the images; None: no program here runs such a file.
        tolerance: precision -> allowed difference, as a fraction of the largest entry.
    """

    save: Callable[[nn.Cell, ms.Tensor, Path, bytes | None, list[str]], None]
    reload: Callable[[Path, bytes | None], RunFile] | None
    tolerance: dict[str, float]


WRITERS = {
    # measured difference of a reloaded MINDIR file: 0.0
    "MINDIR": Writer(save_mindir, open_mindir, {"fp32": 1e-5, "fp16": 1e-2, "bf16": 5e-2}),
    # measured difference of the base model at 384 px in fp32: 1e-6
    "ONNX": Writer(save_onnx, reload_onnx, {"fp32": 1e-4, "fp16": 2e-2}),
    "AIR": Writer(save_air, None, {}),
}
