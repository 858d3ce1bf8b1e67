"""Parameters of a network and the values that they start from, a function of (seed, name, shape) alone."""

import zlib
from typing import Literal

import numpy as np
from mindspore import Parameter, Tensor, nn

Start = Literal["glorot", "he", "token"]
TOKEN_STD = 0.02  # timm's, for what is added to the patches: tokens and positions


def parameter(name: str, *shape: int, start: Start | None = None, fill: float = 0.0, decay: bool = True) -> Parameter:
    """A float32 parameter full of one value, which it keeps as its start if it has no other.

    Args:
        start: what ``initialize`` draws its start from, see ``initial_value``.
        decay: False goes with the norms and biases where optimizer.decay_norm_and_bias is off; see the optimizer.
    """
    made = Parameter(Tensor(np.full(shape, fill, np.float32)), name=name)
    made.start, made.decay = start, decay
    return made


def initialize(cell: nn.Cell, seed: int) -> None:
    """Draws every start that is random. Names count from the backbone, so two encoders of one seed start alike."""
    for name, found in names_within(cell):
        if getattr(found, "start", None):
            found.set_data(Tensor(initial_value(name, found.shape, found.start, seed)))


def names_within(backbone: nn.Cell) -> list[tuple[str, Parameter]]:
    """(timm's name, parameter) of a backbone, alone or built into an encoder as `[{side}_]backbone`."""
    return [(found.name.rpartition("backbone.")[2], found) for found in backbone.get_parameters()]


def initial_value(name: str, shape: tuple[int, ...], start: Start, seed: int) -> np.ndarray:
    """Random start of the parameter `name`, float32.

    ``glorot``: normal, cut at two deviations, of variance 2 / (inputs + outputs); timm's fixed deviation of 0.02 is
    that of width 768 to within a factor of two and far too small for narrow models. ``token``: the same with timm's
    deviation. ``he``, for convolutions with a ReLU behind them: normal of variance 2 / inputs, which keeps the mean
    square of a map from layer to layer.
    """
    random = np.random.RandomState((zlib.crc32(name.encode()) ^ (seed * 2654435761)) & 0xFFFFFFFF)
    if start == "he":
        return (np.sqrt(2.0 / np.prod(shape[1:])) * random.standard_normal(shape)).astype(np.float32)
    std = TOKEN_STD if start == "token" else glorot_std(shape)
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
