"""The weights, computed from names, with which timm computed the reference values: reference/README.md."""

import zlib

import numpy as np
from mindspore import Tensor, nn

from mindloc.models.parameters import names_within


def weight_from_name(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    z = np.random.RandomState((zlib.crc32(name.encode()) ^ seed) & 0x7FFFFFFF).standard_normal(shape).astype(np.float32)
    if name.rsplit(".", 1)[-1] == "weight" and "norm" in name:
        return 1 + np.float32(0.1) * z
    if "gamma" in name:
        return np.float32(0.5) + np.float32(0.1) * z
    if len(shape) >= 2 and "token" not in name:
        return z / np.float32(np.sqrt(np.prod(shape[1:])))
    return np.float32(0.02) * z


def with_reference_weights(backbone: nn.Cell, seed: int) -> nn.Cell:
    for name, parameter in names_within(backbone):
        parameter.set_data(Tensor(weight_from_name(name, parameter.shape, seed)))
    return backbone


def written_shapes(backbone: nn.Cell) -> dict[str, str]:
    """timm's name -> shape, as stored in the reference files."""
    return {name: str(list(parameter.shape)) for name, parameter in names_within(backbone)}
