"""The weights with which PyTorch computed the reference values of the convolutional backbones: reference/README.md."""

import zlib

import numpy as np
from mindspore import Tensor, nn


def weight_from_name(name: str, shape: tuple[int, ...]) -> np.ndarray:
    z = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF).standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        return 1 + np.float32(0.1) * np.abs(z)
    if len(shape) > 1:
        return z * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    return 1 + np.float32(0.1) * z if name.endswith("weight") else np.float32(0.02) * z


def with_reference_weights(backbone: nn.Cell) -> nn.Cell:
    for parameter in backbone.get_parameters():
        parameter.set_data(Tensor(weight_from_name(parameter.name, parameter.shape)))
    return backbone
