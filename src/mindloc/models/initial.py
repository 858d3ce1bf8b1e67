"""The values a backbone's parameters start from: a function of (seed, name, shape) and of nothing else."""

import re
import zlib

import numpy as np
from mindspore import Parameter, Tensor, nn

TOKENS = ("reg_token", "cls_token", "pos_embed")  # added to what the patches say; timm's deviation for them
TOKEN_STD = 0.02
CONVOLUTIONS = re.compile(
    r"(^|\.)(conv\d|downsample\.0|features\.\d+)\.weight$"
)  # of models/resnet.py and models/vgg.py
LAST_GAIN = re.compile(r"^layer\d\.\d+\.bn3\.weight$")


def initial_value(name: str, shape: tuple[int, ...], seed: int, layer_scale: float = 0.1) -> np.ndarray:
    """Start of the parameter `name` of a backbone, float32.

    Weights are normal, cut at two deviations, with variance 2 / (inputs + outputs) (Glorot); timm's fixed deviation of
    .02 is that of width 768 to within a factor of two and far too small for narrow models. Tokens and positions that
    are learned keep timm's. Gains are 1, biases 0, LayerScale is `layer_scale`.

    Convolutions with ReLUs behind them are normal with variance 2 / inputs (He), which keeps the mean square of a map
    from layer to layer. Their norms' stored statistics are mean 0 and variance 1, which stay; the last gain of a
    residual block is 0, so that a fresh block hands its input on and no depth can blow the map up.
    """
    last = name.rsplit(".", 1)[-1]
    if last == "running_var":
        return np.ones(shape, np.float32)
    if LAST_GAIN.search(name):
        return np.zeros(shape, np.float32)
    if last.startswith("gamma"):
        return np.full(shape, layer_scale, np.float32)
    if len(shape) == 1:
        return np.full(shape, 1.0 if last == "weight" else 0.0, np.float32)
    random = np.random.RandomState((zlib.crc32(name.encode()) ^ (seed * 2654435761)) & 0xFFFFFFFF)
    if CONVOLUTIONS.search(name):
        return (np.sqrt(2.0 / np.prod(shape[1:])) * random.standard_normal(shape)).astype(np.float32)
    std = TOKEN_STD if last in TOKENS else glorot_std(shape)
    return (std * truncated_normal(random, shape)).astype(np.float32)


def glorot_std(shape: tuple[int, ...]) -> float:
    """sqrt(2 / (inputs + outputs)); the fused qkv is three square matrices."""
    outputs, inputs = shape[0], int(np.prod(shape[1:]))
    return float(np.sqrt(2.0 / (inputs + (inputs if outputs == 3 * inputs else outputs))))


def truncated_normal(random: np.random.RandomState, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal with everything beyond two deviations drawn again."""
    z = random.standard_normal(shape)
    while (far := np.abs(z) > 2).any():
        z[far] = random.standard_normal(int(far.sum()))
    return z


def initialize(backbone: nn.Cell, seed: int, layer_scale: float = 0.1) -> None:
    """Gives every parameter its start. Names count from the backbone, so two encoders of one seed start alike."""
    for name, parameter in names_within(backbone):
        parameter.set_data(Tensor(initial_value(name, parameter.shape, seed, layer_scale)))


def names_within(backbone: nn.Cell) -> list[tuple[str, Parameter]]:
    """(timm's name, parameter) of a backbone, alone or built into an encoder as `[{view}_]backbone`."""
    return [(parameter.name.rpartition("backbone.")[2], parameter) for parameter in backbone.get_parameters()]
