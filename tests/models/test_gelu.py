"""GELU and its gradient against their definitions in double precision."""

import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindloc.models.layers import Gelu, gelu

X = np.concatenate([np.linspace(-8, 8, 4001), [-300.0, 300.0, 0.0]]).astype(np.float32).astype(np.float64)
PHI = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in X])


@pytest.mark.parametrize("form", ["plain", "products"])
def test_value(form):
    value = gelu(form)(Tensor(X, ms.float32)).asnumpy()
    np.testing.assert_allclose(value, X * PHI, atol=1e-6)


@pytest.mark.parametrize("form", ["plain", "products"])
def test_gradient(form):
    gradient = ms.grad(gelu(form))(Tensor(X, ms.float32)).asnumpy()
    np.testing.assert_allclose(gradient, PHI + X * np.exp(-0.5 * X * X) / math.sqrt(2 * math.pi), atol=2e-6)


def test_half_precision_comes_back_as_half():
    half = Gelu()(Tensor(X[np.abs(X) < 9], ms.float16))
    assert half.dtype == ms.float16
    np.testing.assert_allclose(half.asnumpy(), (X * PHI)[np.abs(X) < 9], atol=5e-3)
