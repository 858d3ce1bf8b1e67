"""Rotary positions equal a rotation by complex numbers, and products depend on the offset alone."""

import numpy as np
import pytest

from mindloc.models.vit_rope import quarter_turn, rope_angles, rope_tables


def rotated(x_ND, cos_ND, sin_ND):
    return x_ND * cos_ND + (x_ND @ quarter_turn(x_ND.shape[1])) * sin_ND


def test_angles_by_hand():
    # head of 8 channels: bands 10000^0 = 1, 10000^-0.5 = 0.01; reference grid 16, grid 2 x 4: steps 8 down, 4 across
    angle = rope_angles((2, 4), 8, 16)
    np.testing.assert_allclose(angle[1], [0, 0, 4, 0.04])  # row 0, column 1
    np.testing.assert_allclose(angle[4], [8, 0.08, 0, 0])  # row 1, column 0


def test_rotation_is_that_of_complex_numbers():
    cos, sin = rope_tables((3, 2), 16, 16, registers=0)
    x = np.random.RandomState(0).standard_normal((6, 16)).astype(np.float32)
    turned = (x[:, ::2] + 1j * x[:, 1::2]) * np.exp(1j * rope_angles((3, 2), 16, 16))
    np.testing.assert_allclose(rotated(x, cos, sin)[:, ::2], turned.real, atol=1e-5)
    np.testing.assert_allclose(rotated(x, cos, sin)[:, 1::2], turned.imag, atol=1e-5)


def test_registers_are_not_rotated():
    cos, sin = rope_tables((2, 2), 16, 16, registers=2)
    assert (cos[:2] == 1).all() and (sin[:2] == 0).all() and (sin[3:] != 0).any()


def test_products_depend_on_the_offset_alone():
    cos, sin = rope_tables((4, 4), 16, 16, registers=0)
    query, key = np.random.RandomState(0).standard_normal((2, 16)).astype(np.float32)
    product = rotated(np.tile(query, (16, 1)), cos, sin) @ rotated(np.tile(key, (16, 1)), cos, sin).T
    product = product.reshape(4, 4, 4, 4)
    np.testing.assert_allclose(product[0, 0, 1, 2], product[2, 1, 3, 3], rtol=1e-4)
    assert abs(product[0, 0, 1, 2] - product[0, 0, 2, 1]) > 1e-3


def test_a_head_that_is_not_a_multiple_of_four_is_refused():
    with pytest.raises(ValueError, match="10 channels"):
        rope_angles((2, 2), 10, 16)
