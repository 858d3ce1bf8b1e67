"""Layers of transformers, under the parameter names of PyTorch and timm.

Shapes: B images, H and W patches down and across, M rows (of all images), I and O input and output channels, C width.

Some layers have several forms, which compute the same but differ in speed: ``plain``, stock operators, for any device
and for exported files; ``kernel``, attention in one kernel, for devices that have it; ``products``, gradients and means
as matrix products and elementwise operators that can be fused, float32 only, for CPUs. ``models/build.py`` chooses the
form that is fastest on the device.
"""

import math
from typing import Literal

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindloc.models.parameters import parameter

Form = Literal["plain", "kernel", "products"]
LOG2_E = 1.0 / math.log(2.0)
DTYPES = {"fp32": ms.float32, "fp16": ms.float16, "bf16": ms.bfloat16}


class Linear(nn.Cell):
    """x_MI @ weight^T + bias, in the precision of x; the parameters stay float32.

    Args:
        start: how the weight is initialized, see models/parameters.py; None: with zeros.
    """

    def __init__(self, in_width: int, out_width: int, bias: bool = True, start: Literal["glorot"] | None = "glorot"):
        super().__init__()
        self.weight = parameter("weight", out_width, in_width, start=start)
        self.bias = parameter("bias", out_width) if bias else None
        self.matmul = ops.MatMul(transpose_b=True)
        self.add_bias = AddBias()

    def construct(self, x_MI):
        product_MO = self.matmul(x_MI, ops.cast(self.weight, x_MI.dtype))
        if self.bias is None:
            return product_MO
        return self.add_bias(product_MO, self.bias)


class AddBias(nn.Cell):
    """Rows x_MO + bias_O, in the precision of x.

    The gradient of the bias is a product with ones. On a CPU it takes 0.2 ms, whereas BiasAddGrad takes 5 ms, a sixth
    of a training step. Accelerators are fast at products too.
    """

    def __init__(self):
        super().__init__()
        self.add = ops.BiasAdd()
        self.matmul = ops.MatMul()

    def construct(self, x_MO, bias_O):
        return self.add(x_MO, ops.cast(bias_O, x_MO.dtype))

    def bprop(self, x_MO, bias_O, out, dout):
        ones_1M = ops.ones((1, x_MO.shape[0]), dout.dtype)
        return dout, ops.cast(ops.reshape(self.matmul(ones_1M, dout), bias_O.shape), bias_O.dtype)


def unit_rows(x_MI):
    """The rows divided by their lengths, float32; a row of zeros stays zero and has a finite gradient."""
    x_MI = ops.cast(x_MI, ms.float32)
    return x_MI / ops.sqrt(ops.maximum(ops.sum(x_MI * x_MI, 1, True), 1e-24))


def precise_exp(x):
    """exp(x) to 5e-7. ops.Exp is 5e-6 off on a CPU, always downwards, which adds up over a row."""
    return ops.pow(2.0, x * LOG2_E)


class LayerNorm(nn.Cell):
    """Rows of mean 0 and variance 1, times scale (``weight``) plus bias; float32 in and out."""

    def __init__(self, width: int, eps: float = 1e-6, form: Form = "plain"):
        super().__init__()
        self.weight = parameter("weight", width, fill=1.0)
        self.bias = parameter("bias", width)
        self.normalize = NormalizeByProducts(width, eps) if form == "products" else Normalize(eps)

    def construct(self, x_MI):
        return self.normalize(ops.cast(x_MI, ms.float32), self.weight, self.bias)[0]


class Normalize(nn.Cell):
    """The computation of ``LayerNorm`` in one kernel, with that kernel's own gradient."""

    def __init__(self, eps: float):
        super().__init__()
        self.normalize = ops.LayerNorm(begin_norm_axis=-1, begin_params_axis=-1, epsilon=eps)

    def construct(self, x_MI, weight_I, bias_I):
        return self.normalize(x_MI, weight_I, bias_I)


class NormalizeByProducts(nn.Cell):
    """The computation of ``LayerNorm`` from products with ones, five to ten times as fast on a CPU as ``Normalize``.

    The elementwise operators in between can be fused into a few loops (runtime/compilation.py). The normalized rows and
    their 1 / deviation are returned with the result, for the backward pass.
    """

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.eps, self.per_channel = eps, 1.0 / width
        self.mean_I1 = Tensor(np.full((width, 1), self.per_channel, np.float32))
        self.matmul, self.divide = ops.MatMul(), ops.RealDiv()

    def construct(self, x_MI, weight_I, bias_I):
        centered_MI = x_MI - self.matmul(x_MI, self.mean_I1)
        variance_M1 = self.matmul(centered_MI * centered_MI, self.mean_I1)
        reciprocal_M1 = self.divide(1.0, ops.sqrt(variance_M1 + self.eps))
        normal_MI = centered_MI * reciprocal_M1
        return normal_MI * weight_I + bias_I, normal_MI, reciprocal_M1

    def bprop(self, x_MI, weight_I, bias_I, out, dout):
        _, normal_MI, reciprocal_M1 = out
        gradient_MI = dout[0]
        along_MI = gradient_MI * normal_MI
        scale_I1 = ops.reshape(weight_I * self.per_channel, (-1, 1))
        mean_M1 = self.matmul(gradient_MI, scale_I1)
        slope_M1 = self.matmul(along_MI, scale_I1)
        dx_MI = (gradient_MI * weight_I - mean_M1 - normal_MI * slope_M1) * reciprocal_M1
        ones_1M = ops.ones((1, x_MI.shape[0]), ms.float32)
        dweight_I = ops.reshape(self.matmul(ones_1M, along_MI), (-1,))
        dbias_I = ops.reshape(self.matmul(ones_1M, gradient_MI), (-1,))
        return dx_MI, dweight_I, dbias_I


class Mlp(nn.Cell):
    """Two layers with a GELU between them, the inner one four times as wide."""

    def __init__(self, width: int, form: Form = "plain"):
        super().__init__()
        self.fc1 = Linear(width, 4 * width)
        self.gelu = gelu(form)
        self.fc2 = Linear(4 * width, width)

    def construct(self, x_MC):
        return self.fc2(self.gelu(self.fc1(x_MC)))


class PatchEmbed(nn.Cell):
    """Images (B, 3, H*patch, W*patch) -> rows (B*H*W, C): the strided convolution written as one product.

    On CPUs, nn.Conv2d is two orders of magnitude slower from MindSpore 2.9 on.
    """

    def __init__(self, width: int, patch_px: int):
        super().__init__()
        self.width, self.patch_px = width, patch_px
        self.proj = ProjectionWeights(width, patch_px)
        self.matmul = ops.MatMul(transpose_b=True)
        self.add_bias = AddBias()

    def construct(self, images, dtype):
        side = self.patch_px
        rows, columns = images.shape[2] // side, images.shape[3] // side
        patches = ops.reshape(images, (-1, 3, rows, side, columns, side))
        patches = ops.reshape(ops.transpose(patches, (0, 2, 4, 1, 3, 5)), (-1, 3 * side * side))
        weight = ops.cast(ops.reshape(self.proj.weight, (self.width, -1)), dtype)
        return self.add_bias(self.matmul(ops.cast(patches, dtype), weight), self.proj.bias)


class ProjectionWeights(nn.Cell):
    """Weight and bias of the patch projection, in timm's convolution shape (C, 3, patch, patch)."""

    def __init__(self, width: int, patch_px: int):
        super().__init__()
        self.weight = parameter("weight", width, 3, patch_px, patch_px, start="glorot")
        self.bias = parameter("bias", width)


def gelu(form: Form) -> nn.Cell:
    """Exact GELU, x * Phi(x), of any tensor, from operators that are fast on a CPU and have an ONNX counterpart.

    With q(x) = (1 - erf(|x| / sqrt 2)) / 2, the tail beyond |x|, GELU(x) = relu(x) - |x| q(x) for either sign, so
    neither the slow Erf nor Sign is needed. The tail is computed by one of two formulas of Abramowitz and Stegun:
    7.1.26, which gives erf to 1.5e-7 with an exponential, or 7.1.28, which gives erf to 3e-7 without one and can be
    fused into one loop. Both are within 1e-6 of GELU, and their slopes within 2e-6 of its slope, about the rounding of
    float32.
    """
    return RootGelu() if form == "products" else Gelu()


EXP_SLOPE = 0.3275911 / math.sqrt(2.0)  # 7.1.26, as a factor of |x| instead of |x| / sqrt 2
EXP_COEFFICIENTS = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
ROOT_COEFFICIENTS = tuple(  # 7.1.28, as factors of |x|, |x|^2, ... instead of powers of |x| / sqrt 2
    a / math.sqrt(2.0) ** power
    for power, a in enumerate((0.0705230784, 0.0422820123, 0.0092705272, 0.0001520143, 0.0002765672, 0.0000430638), 1)
)
NORMAL_DENSITY_AT_0 = 1.0 / math.sqrt(2.0 * math.pi)
STEEP = 1e30  # see is_positive


class Gelu(nn.Cell):
    """GELU by formula 7.1.26 (see ``gelu``), computed in float32 and returned in the precision of the input.

    Its gradient, Phi(x) + x phi(x), is written out: differentiating the approximation would be slower and not more
    accurate.
    """

    def __init__(self):
        super().__init__()
        self.divide = ops.RealDiv()  # Div can't be fused, Reciprocal has no ONNX counterpart

    def tail(self, size, density):
        """q at size = |x|, given density = exp(-x^2 / 2)."""
        t = self.divide(1.0, 1.0 + EXP_SLOPE * size)
        a1, a2, a3, a4, a5 = EXP_COEFFICIENTS
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
    """GELU by formula 7.1.28 (see ``gelu``): q(x) = p(|x|)^-16 / 2 with a polynomial p of degree 6. float32 only.

    It avoids the exponential, which is too inexact in fused loops.
    """

    def __init__(self):
        super().__init__()
        self.divide = ops.RealDiv()

    def root(self, size):
        """1 / p at size = |x|."""
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
        density = 16.0 * tail * root * by_size  # the negative slope of the tail
        return (dout * (tail + is_positive(x) * (1.0 - 2.0 * tail) + x * density),)


def is_positive(x):
    """1 if x > 0, else 0, float32; without a comparison, which can't be fused.

    Only a tiny positive x gives a value in between. There the tail is 1 / 2, and the factor 1 - 2 * tail, by which the
    callers multiply, is 0.
    """
    return ops.minimum(ops.maximum(x * STEEP, 0.0), 1.0)
