"""Layers whose gradients are written out equal their definitions in NumPy."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindloc.models.layers import AddBias, LayerNorm, Linear


@pytest.mark.parametrize("dtype, rtol", [(ms.float32, 1e-6), (ms.float16, 2e-3)])
def test_gradient_of_a_bias_is_the_sum_over_the_rows(dtype, rtol):
    x, bias, weight = (np.random.RandomState(i).rand(*shape) for i, shape in enumerate([(7, 3), (3,), (7, 3)]))
    add, weight_MO = AddBias(), Tensor(weight, ms.float32)

    def total(x, bias):
        return (add(x, bias).astype(ms.float32) * weight_MO).sum()

    gradients = ms.grad(total, (0, 1))(Tensor(x, dtype), Tensor(bias, ms.float32))
    assert [gradient.dtype for gradient in gradients] == [dtype, ms.float32]
    np.testing.assert_allclose(gradients[0].asnumpy(), weight, rtol=rtol)
    np.testing.assert_allclose(gradients[1].asnumpy(), weight.sum(axis=0), rtol=rtol)


def test_linear_by_hand():
    layer = Linear(2, 3)
    layer.weight.set_data(Tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], ms.float32))
    layer.bias.set_data(Tensor([10.0, 20.0, 30.0], ms.float32))
    assert layer(Tensor([[1.0, 2.0]], ms.float32)).asnumpy().tolist() == [[11.0, 22.0, 33.0]]


def test_layer_norm_uses_the_eps_of_timm():
    # a row of -1e-3, 1e-3 has variance 1e-6, which equals eps: the result is +-1 / sqrt 2
    normal = LayerNorm(2)(Tensor([[-1e-3, 1e-3]], ms.float32)).asnumpy()
    np.testing.assert_allclose(normal, [[-(0.5**0.5), 0.5**0.5]], rtol=1e-4)
