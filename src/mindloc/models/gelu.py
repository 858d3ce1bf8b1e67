"""Exact GELU, x * Phi(x), from operators that are fast on a CPU and have an ONNX counterpart.

With q(x) = (1 - erf(|x| / sqrt 2)) / 2, the tail beyond |x|, GELU(x) = relu(x) - |x| q(x) for either sign, so neither
the slow Erf nor Sign is needed. The tail is Abramowitz and Stegun 7.1.26: erf to 1.5e-7.
"""

import math

import mindspore as ms
from mindspore import nn, ops

SLOPE = 0.3275911 / math.sqrt(2.0)  # of |x|, not of |x| / sqrt 2
COEFFICIENTS = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
NORMAL_DENSITY_AT_0 = 1.0 / math.sqrt(2.0 * math.pi)


class Gelu(nn.Cell):
    """GELU of any tensor, computed in float32 and returned in the input's precision.

    Its gradient is Phi(x) + x phi(x), written out: differentiating the approximation would be slower and no nearer.
    """

    def __init__(self):
        super().__init__()
        self.divide = ops.Div()  # ops.Reciprocal is as fast and has no ONNX counterpart

    def tail(self, size, density):
        """q at size = |x|, given density = exp(-x^2 / 2)."""
        t = self.divide(1.0, 1.0 + SLOPE * size)
        a1, a2, a3, a4, a5 = COEFFICIENTS
        return (0.5 * density) * (t * (a1 + t * (a2 + t * (a3 + t * (a4 + t * a5)))))

    def construct(self, x):
        wide = ops.cast(x, ms.float32)
        size = ops.abs(wide)
        tail = self.tail(size, ops.exp(-0.5 * wide * wide))
        return ops.cast(ops.relu(wide) - size * tail, x.dtype)

    def bprop(self, x, out, dout):
        wide = ops.cast(x, ms.float32)
        density = ops.exp(-0.5 * wide * wide)
        tail = self.tail(ops.abs(wide), density)
        positive = ops.cast(wide > 0, ms.float32)
        slope = tail + positive * (1.0 - 2.0 * tail) + NORMAL_DENSITY_AT_0 * wide * density
        return (ops.cast(ops.cast(dout, ms.float32) * slope, x.dtype),)
