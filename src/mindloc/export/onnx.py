"""ONNX, opset 11, with a fixed number of pictures: for ONNX Runtime, TensorRT and Ascend's converter."""

from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn

from mindloc.inference.onnx_file import CPU, Provider, open_session
from mindloc.inference.onnx_graph import optional_module

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}  # of the largest entry; in fp32 the base model at 384 px was seen at 7e-7


def save(cell: nn.Cell, example: ms.Tensor, file: Path, key: bytes | None) -> None:
    """Write the graph; its input is called "images", its result "descriptor"."""
    optional_module("onnxruntime")  # the file can't be checked without it: say so before the work
    onnx = optional_module("onnx")
    ms.export(cell, example, file_name=str(file), file_format="ONNX")
    model = onnx.load(str(file))
    _name_result(model.graph, "descriptor")
    onnx.checker.check_model(model)
    onnx.save(model, str(file))


def reload(file: Path, key: bytes | None):
    """The file on ONNX Runtime's CPU provider, which every machine has."""
    session = open_session(file.read_bytes(), file, Provider(CPU))
    return lambda images: session.run(["descriptor"], {"images": np.ascontiguousarray(images)})[0]


def _name_result(graph, name: str) -> None:
    """Call the only output by a name of ours; MindSpore calls it after the last operator's place in our code."""
    (result,) = graph.output
    for node in graph.node:
        for names in (node.input, node.output):
            for index, found in enumerate(names):
                if found == result.name:
                    names[index] = name
    result.name = name
