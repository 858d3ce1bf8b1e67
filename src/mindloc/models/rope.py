"""Axial rotary position embedding: where a patch lies on the grid turns its query and key.

Shapes: H, W patches down and across, N = R + H*W tokens (R registers first), D width of one head.
"""

import numpy as np

TEMPERATURE = 10_000.0


def rope_angles(grid: tuple[int, int], head_dim: int, reference_grid: int) -> np.ndarray:
    """Angle of every patch and rotated pair of channels, (H*W, D/2), radians.

    The first half of the pairs turns with the row, the second half with the column. Positions are stretched so that
    every grid spans the reference grid: patch r of H stands at r * reference_grid / H.

    Raises:
        ValueError: the head can't be cut in two axes of channel pairs.
    """
    if head_dim % 4:
        raise ValueError(f"a head of {head_dim} channels can't be rotated along two axes: take a multiple of 4")
    bands = TEMPERATURE ** (-np.arange(head_dim // 4) / (head_dim // 4))
    row_H, column_W = (np.arange(side) * (reference_grid / side) for side in grid)
    row_HW, column_HW = np.meshgrid(row_H, column_W, indexing="ij")
    place_N2 = np.stack([row_HW.ravel(), column_HW.ravel()], axis=1)
    return (place_N2[:, :, None] * bands).reshape(len(place_N2), -1)


def rope_tables(
    grid: tuple[int, int], head_dim: int, reference_grid: int, registers: int
) -> tuple[np.ndarray, np.ndarray]:
    """cos_ND and sin_ND of all tokens, float32; registers stand still (cos 1, sin 0)."""
    angle_ND = np.repeat(rope_angles(grid, head_dim, reference_grid), 2, axis=1)
    angle_ND = np.concatenate([np.zeros((registers, head_dim)), angle_ND])
    return np.cos(angle_ND).astype(np.float32), np.sin(angle_ND).astype(np.float32)


def quarter_turn(head_dim: int) -> np.ndarray:
    """Matrix M with (x @ M)[2i] = -x[2i+1] and (x @ M)[2i+1] = x[2i]: every channel pair turned by 90 degrees.

    x * cos + (x @ M) * sin is then the rotation. One small product is faster everywhere than slicing and interleaving.
    """
    matrix_DD = np.zeros((head_dim, head_dim), np.float32)
    even = np.arange(0, head_dim, 2)
    matrix_DD[even + 1, even] = -1.0
    matrix_DD[even, even + 1] = 1.0
    return matrix_DD
