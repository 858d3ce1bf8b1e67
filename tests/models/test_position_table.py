"""Positions resampled to another grid equal PyTorch's values and have the properties of any resampling."""

import numpy as np
import pytest
from timm_weights import weight_from_name

from mindloc.errors import CheckpointError
from mindloc.models.vit_plain import cubic, resampled_table, resampling_matrix


def test_the_table_of_another_grid_equals_timm(reference_dir):
    reference = np.load(reference_dir / "vit_plain_tiny.npz", allow_pickle=False)
    table = weight_from_name("pos_embed", (1, 17, 96), int(reference["weight_seed"]))
    new = resampled_table(table, (6, 6))
    np.testing.assert_allclose(new, reference["pos_embed_96"], rtol=0, atol=1e-6)  # required: 1e-5
    assert new.dtype == np.float32 and np.array_equal(new[:, 0], table[:, 0])


def test_the_kernel_by_hand():
    # a = -1/2: (3/2)(1/8) - (5/2)(1/4) + 1 = 9/16, and -(27/16) + (5/2)(9/4) - 6 + 2 = -1/16
    np.testing.assert_allclose(cubic(np.array([0, 0.5, -0.5, 1, 1.5, 2, 3])), [1, 9 / 16, 9 / 16, 0, -1 / 16, 0, 0])


def test_twice_as_many_positions_by_hand():
    # new position 2 of 8 is at 1.25 of 4, a quarter left of cell 1's center: distances -0.75, 0.25, 1.25, 2.25
    weight = np.array([29 / 128, 111 / 128, -9 / 128, 0])
    np.testing.assert_allclose(weight / weight.sum(), resampling_matrix(4, 8)[2], atol=1e-7)


def test_half_as_many_positions_by_hand():
    # new position 1 of 4 is at 3 of 8 between two cells; the kernel is twice as wide: distances 1/4, 3/4, 5/4, 7/4
    half = np.array([111, 29, -9, -3]) / 128
    weight = np.array([*half[2::-1], *half, 0])
    np.testing.assert_allclose(weight / weight.sum(), resampling_matrix(8, 4)[1], atol=1e-7)


@pytest.mark.parametrize(("old", "new"), [(14, 24), (24, 14), (7, 1), (1, 5), (14, 14)])
def test_a_constant_table_stays_constant_and_resampling_commutes_with_mirroring(old, new):
    matrix = resampling_matrix(old, new)
    assert matrix.shape == (new, old)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-6)
    if old == new:
        np.testing.assert_array_equal(matrix, np.eye(old))


def test_rows_and_columns_are_distinguished():
    row_of = np.concatenate([[-1.0], np.repeat(np.arange(4.0), 4)]).reshape(1, 17, 1).astype(np.float32)
    wide = resampled_table(row_of, (4, 7))
    np.testing.assert_allclose(wide[0, 1:, 0], np.repeat(np.arange(4.0), 7), atol=1e-6)  # row by row, seven of each
    assert wide[0, 0, 0] == -1


@pytest.mark.parametrize("shape", [(1, 198, 8), (1, 196, 8), (1, 1, 8), (197, 8)])
def test_a_table_without_a_square_grid_is_refused(shape):
    with pytest.raises(CheckpointError, match=r"pos_embed has shape \(.*a class token and a square grid"):
        resampled_table(np.zeros(shape, np.float32), (4, 4))
