"""Linear and LayerNorm on rows of tokens, with parameters under PyTorch's names.

Shapes: M rows (batch times tokens), I and O channels in and out.
"""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindloc.models.form import Form


def parameter(name: str, *shape: int, fill: float = 0.0) -> Parameter:
    """A float32 parameter of one value; models/initial.py gives the real start."""
    return Parameter(Tensor(np.full(shape, fill, np.float32)), name=name)


def unit_rows(x_MI):
    """Rows of length 1, float32; a row of zeros stays one and its gradient finite."""
    x_MI = ops.cast(x_MI, ms.float32)
    return x_MI / ops.sqrt(ops.maximum(ops.sum(x_MI * x_MI, 1, True), 1e-24))


class AddBias(nn.Cell):
    """Rows x_MO + bias_O, in the precision of x.

    The gradient of the bias is a product with ones: BiasAddGrad takes 5 ms where this takes .2 on a CPU, a sixth of a
    training step, and products are what accelerators are good at.
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


class Linear(nn.Cell):
    """x_MI @ weight^T + bias, in the precision of x; the parameters stay float32."""

    def __init__(self, in_width: int, out_width: int, bias: bool = True):
        super().__init__()
        self.weight = parameter("weight", out_width, in_width)
        self.bias = parameter("bias", out_width) if bias else None
        self.matmul = ops.MatMul(transpose_b=True)
        self.add_bias = AddBias()

    def construct(self, x_MI):
        product_MO = self.matmul(x_MI, ops.cast(self.weight, x_MI.dtype))
        if self.bias is None:
            return product_MO
        return self.add_bias(product_MO, self.bias)


class LayerNorm(nn.Cell):
    """Rows of mean 0 and variance 1, then gain and bias; float32 in and out.

    Args:
        form: see models/form.py.
    """

    def __init__(self, width: int, eps: float = 1e-6, form: Form = "plain"):
        super().__init__()
        self.weight = parameter("weight", width, fill=1.0)
        self.bias = parameter("bias", width)
        self.normalize = NormalizeByProducts(width, eps) if form == "products" else Normalize(eps)

    def construct(self, x_MI):
        return self.normalize(ops.cast(x_MI, ms.float32), self.weight, self.bias)[0]


class Normalize(nn.Cell):
    """One kernel, with its own gradient."""

    def __init__(self, eps: float):
        super().__init__()
        self.normalize = ops.LayerNorm(begin_norm_axis=-1, begin_params_axis=-1, epsilon=eps)

    def construct(self, x_MI, weight_I, bias_I):
        return self.normalize(x_MI, weight_I, bias_I)


class NormalizeByProducts(nn.Cell):
    """The same from products with ones: LayerNorm and LayerNormGrad take five to ten times as long on a CPU.

    What is elementwise in between can be fused into a few loops (runtime/operator_fusion.py). Leaves the normalized
    rows and their 1 / deviation beside the result, for the way back.
    """

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.eps, self.share = eps, 1.0 / width  # of one channel in the mean
        self.mean_I1 = Tensor(np.full((width, 1), self.share, np.float32))
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
        share_I1 = ops.reshape(weight_I * self.share, (-1, 1))
        mean_M1 = self.matmul(gradient_MI, share_I1)
        slope_M1 = self.matmul(along_MI, share_I1)
        dx_MI = (gradient_MI * weight_I - mean_M1 - normal_MI * slope_M1) * reciprocal_M1
        ones_1M = ops.ones((1, x_MI.shape[0]), ms.float32)
        dweight_I = ops.reshape(self.matmul(ones_1M, along_MI), (-1,))
        dbias_I = ops.reshape(self.matmul(ones_1M, gradient_MI), (-1,))
        return dx_MI, dweight_I, dbias_I
