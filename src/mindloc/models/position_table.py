"""A table of learned positions, read at another grid: bicubic with antialiasing, as PyTorch and timm resample it.

Every entry of the new table is a weighted sum of entries of the old one, and the weights separate by axis: two small
matrices are all there is to it, in a graph with gradients as well as outside.

Shapes: the class token's row, then H x W positions row by row, 1 + H*W = N rows of C channels.

References:
    timm's resample_abs_pos_embed; torch.nn.functional.interpolate with mode="bicubic", antialias=True.
"""

import math

import numpy as np

from mindloc.errors import CheckpointError

PREFIX = 1  # rows that belong to no position: the class token's


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -1/2, which PyTorch takes where it antialiases (and -3/4 where it does not)."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def resampling_matrix(old: int, new: int) -> np.ndarray:
    """(new, old), float32, rows of sum 1: what each of the new positions along one axis takes of the old ones.

    Positions are the centers of equal cells over the same extent. Where the new ones are fewer, the kernel is as much
    wider as the cells.
    """
    stretch = old / new
    distance = (np.arange(old) + 0.5) - (np.arange(new)[:, None] + 0.5) * stretch
    weight = cubic(distance / max(stretch, 1.0))
    return (weight / weight.sum(1, keepdims=True)).astype(np.float32)


def resampled_table(table_1NC: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The table at another grid (rows, columns), (1, 1 + rows*columns, C); the class token's row stays as it is.

    Raises:
        CheckpointError: its positions are not those of a square grid beside one class token.
    """
    side = square_side(table_1NC)
    down_RH, across_SW = resampling_matrix(side, grid[0]), resampling_matrix(side, grid[1])
    table_HWC = table_1NC[0, PREFIX:].reshape(side, side, -1)
    new_RSC = np.einsum("rh,sw,hwc->rsc", down_RH, across_SW, table_HWC, optimize=True)
    new_1NC = new_RSC.reshape(1, -1, table_1NC.shape[2]).astype(np.float32)
    return np.concatenate([table_1NC[:, :PREFIX], new_1NC], axis=1)


def square_side(table_1NC: np.ndarray) -> int:
    """H = W of a table from a file, which does not say its grid.

    Raises:
        CheckpointError: as ``resampled_table``.
    """
    positions = table_1NC.shape[1] - PREFIX if table_1NC.ndim == 3 else 0
    side = math.isqrt(max(positions, 0))
    if positions < 1 or side * side != positions:
        raise CheckpointError(
            f"pos_embed is {table_1NC.shape}; expected (1, 1 + side * side, width), a class token and a square grid; "
            "take weights of timm's plain vit_*, which are so"
        )
    return side
