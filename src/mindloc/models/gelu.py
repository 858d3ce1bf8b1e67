"""Exact GELU, x * Phi(x), from operators that are fast on a CPU and have an ONNX counterpart.

With q(x) = (1 - erf(|x| / sqrt 2)) / 2, the tail beyond |x|, GELU(x) = relu(x) - |x| q(x) for either sign, so neither
the slow Erf nor Sign is needed. The tail is one of two approximations of Abramowitz and Stegun: 7.1.26, erf to 1.5e-7
with an exponential; or 7.1.28, erf to 3e-7 without, all of which can be fused into one loop. Both are within 1e-6 of
GELU, and their slopes within 2e-6 of its slope, which is where float32 rounds either.
"""

import math

import mindspore as ms
from mindspore import nn, ops

from mindloc.models.form import Form

SLOPE = 0.3275911 / math.sqrt(2.0)  # of |x|, not of |x| / sqrt 2
COEFFICIENTS = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
STEEP = 1e30  # 0 or less -> 0, anything that is not tiny -> 1; in between tail is 1 / 2 and takes no notice
NORMAL_DENSITY_AT_0 = 1.0 / math.sqrt(2.0 * math.pi)
# of |x|, |x|^2, ...: 7.1.28's are those of |x| / sqrt 2
ROOT_COEFFICIENTS = tuple(
    a / math.sqrt(2.0) ** power
    for power, a in enumerate((0.0705230784, 0.0422820123, 0.0092705272, 0.0001520143, 0.0002765672, 0.0000430638), 1)
)


def is_positive(x):
    """1 or 0, float32; a comparison can not be fused."""
    return ops.minimum(ops.maximum(x * STEEP, 0.0), 1.0)


def gelu(form: Form) -> nn.Cell:
    """GELU of any tensor, in one of the forms."""
    return RootGelu() if form == "products" else Gelu()


class Gelu(nn.Cell):
    """GELU of any tensor, computed in float32 and returned in the input's precision.

    Its gradient is Phi(x) + x phi(x), written out: differentiating the approximation would be slower and no nearer.
    """

    def __init__(self):
        super().__init__()
        self.divide = ops.RealDiv()  # Div can not be fused, Reciprocal has no ONNX counterpart

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
        slope = tail + is_positive(wide) * (1.0 - 2.0 * tail) + NORMAL_DENSITY_AT_0 * wide * density
        return (ops.cast(ops.cast(dout, ms.float32) * slope, x.dtype),)


class RootGelu(nn.Cell):
    """The same without an exponential: q(x) = p(|x|)^-16 / 2 with a polynomial p of degree 6. float32 only.

    A fused exponential is one of few digits, see runtime/operator_fusion.py.
    """

    def __init__(self):
        super().__init__()
        self.divide = ops.RealDiv()

    def root(self, size):
        """1 / p."""
        a1, a2, a3, a4, a5, a6 = ROOT_COEFFICIENTS
        return self.divide(1.0, 1.0 + size * (a1 + size * (a2 + size * (a3 + size * (a4 + size * (a5 + size * a6))))))

    def tail(self, root):
        second = root * root
        fourth = second * second
        eighth = fourth * fourth
        return 0.5 * (eighth * eighth)

    def construct(self, x):
        size = ops.abs(x)
        return ops.relu(x) - size * self.tail(self.root(size))

    def bprop(self, x, out, dout):
        size = ops.abs(x)
        root = self.root(size)
        tail = self.tail(root)
        a1, a2, a3, a4, a5, a6 = ROOT_COEFFICIENTS
        by_size = a1 + size * (2 * a2 + size * (3 * a3 + size * (4 * a4 + size * (5 * a5 + size * (6 * a6)))))
        density = 16.0 * tail * root * by_size  # minus the tail's own slope
        return (dout * (tail + is_positive(x) * (1.0 - 2.0 * tail) + x * density),)
