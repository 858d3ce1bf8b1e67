"""Parameters of a network and their initial values, which depend on (seed, name, shape) alone."""

import zlib
from typing import Literal

import numpy as np
from mindspore import Parameter, Tensor, nn

Start = Literal["glorot", "he", "token"]
TOKEN_STD = 0.02  # timm's deviation of tokens and positions


def parameter(name: str, *shape: int, start: Start | None = None, fill: float = 0.0, decay: bool = True) -> Parameter:
    """A float32 parameter filled with one value.

    Args:
        start: distribution from which ``initialize`` draws the initial value, see ``initial_value``; None: ``fill`` is
            the initial value.
        decay: False: no weight decay if optimizer.decay_norm_and_bias is off, as for norms and biases.
    """
    made = Parameter(Tensor(np.full(shape, fill, np.float32)), name=name)
    made.start, made.decay = start, decay
    return made


def initialize(cell: nn.Cell, seed: int) -> None:
    """Draw all random initial values; two backbones with one seed get equal values, as names within them are used."""
    for name, found in names_within(cell):
        if getattr(found, "start", None):
            found.set_data(Tensor(initial_value(name, found.shape, found.start, seed)))


def names_within(backbone: nn.Cell) -> list[tuple[str, Parameter]]:
    """(timm's name, parameter) for each parameter of a backbone, which may be `[{side}_]backbone` of an encoder."""
    return [(found.name.rpartition("backbone.")[2], found) for found in backbone.get_parameters()]


def initial_value(name: str, shape: tuple[int, ...], start: Start, seed: int) -> np.ndarray:
    """The random initial value of the parameter ``name``, float32.

    ``glorot``: normal, truncated at two deviations, with variance 2 / (inputs + outputs). timm's fixed deviation of
    0.02 is within a factor of two of that at width 768, but far too small for narrow models. ``token``: normal,
    truncated at two deviations, with timm's deviation. ``he``, for convolutions followed by a ReLU: normal with
    variance 2 / inputs, which keeps the mean square of a map from layer to layer.
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
    """Standard normal numbers; those beyond two deviations are drawn again."""
    z = random.standard_normal(shape)
    while (far := np.abs(z) > 2).any():
        z[far] = random.standard_normal(int(far.sum()))
    return z
