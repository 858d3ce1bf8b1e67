"""GELU and its gradient against their definitions in double precision, and properties for any number."""

import math

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mindspore import Tensor

from mindloc.models.layers import Gelu, gelu

FORMS = {form: gelu(form) for form in ("plain", "products")}

X = np.concatenate([np.linspace(-8, 8, 4001), [-300.0, 300.0, 0.0]]).astype(np.float32).astype(np.float64)
PHI = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in X])


@pytest.mark.parametrize("form", FORMS)
def test_value(form):
    value = FORMS[form](Tensor(X, ms.float32)).asnumpy()
    np.testing.assert_allclose(value, X * PHI, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_gradient(form):
    gradient = ms.grad(gelu(form))(Tensor(X, ms.float32)).asnumpy()
    np.testing.assert_allclose(gradient, PHI + X * np.exp(-0.5 * X * X) / math.sqrt(2 * math.pi), atol=2e-6)


def test_an_input_in_half_precision_gives_half_precision():
    half = Gelu()(Tensor(X[np.abs(X) < 9], ms.float16))
    assert half.dtype == ms.float16
    np.testing.assert_allclose(half.asnumpy(), (X * PHI)[np.abs(X) < 9], atol=5e-3)


@pytest.mark.parametrize("form", FORMS)
@given(x=arrays(np.float32, 32, elements=st.floats(-100, 100, width=32)))
def test_gelu_is_below_relu_and_its_odd_part_is_half_of_x(form, x):
    value, mirrored = (FORMS[form](Tensor(side)).asnumpy().astype(np.float64) for side in (x, -x))
    np.testing.assert_allclose(value - mirrored, x, rtol=1e-6, atol=1e-6)  # Phi(x) + Phi(-x) = 1
    below = np.maximum(x, 0) - value  # |x| times the tail beyond |x|, at most 0.16997 (at 0.7518)
    assert (below > -1e-6).all() and (below < 0.17 + 1e-6 + 1e-7 * np.abs(x)).all()
