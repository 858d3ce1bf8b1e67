"""Plain vision transformer: image -> one descriptor, under timm's parameter names.

It is timm's `vit_{tiny,small,base,large}_patch*_{224,384}` (class VisionTransformer): one class token, a table of
learned positions that is added once, no LayerScale. DeiT, DINO and MAE release such weights too.

For another grid the table is resampled bicubically with antialiasing, as in PyTorch and timm. Every entry of the new
table is a weighted sum of entries of the old one, and the weights separate by axis. So resampling is a product with two
small matrices, both in a graph, with gradients, and outside.

Shapes: B images, H and W patches down and across, N = 1 + H*W tokens (the class token first), C width = h heads of D
channels, M = B * N rows.

References:
    An Image is Worth 16x16 Words, arXiv:2010.11929; training recipe of timm's weights: arXiv:2106.10270; timm's
    resample_abs_pos_embed; torch.nn.functional.interpolate with mode="bicubic", antialias=True.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindloc.config.sections import ModelConfig
from mindloc.errors import CheckpointError
from mindloc.models.attention import attention_core, join_heads, split_heads
from mindloc.models.layers import DTYPES, Form, LayerNorm, Linear, Mlp, PatchEmbed
from mindloc.models.parameters import parameter
from mindloc.models.public_weights import (
    TIMM_FOREIGN,
    TIMM_UNUSED,
    TIMM_UNUSED_ZEROS,
    Arrays,
    ImportRule,
    with_fused_bias,
)
from mindloc.vocabulary import Precision

PREFIX = 1  # number of rows of the table before those of the positions: that of the class token
Pool = Literal["token", "avg"]


@dataclass(frozen=True)
class PlainVitSize:
    """The sizes that determine the shapes of the parameters.

    ``grid`` is the side of the table of positions for the input size at the end of timm's name. For images of another
    size the table is resampled, as with timm's dynamic_img_size.
    """

    width: int
    depth: int
    heads: int
    patch_px: int
    grid: int


WIDTHS = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}


def plain_vit_size(name: str) -> PlainVitSize:
    """The sizes in timm's name, vit_{size}_patch{patch, pixels}_{input size, pixels}."""
    size, patch_px, side_px = re.fullmatch(r"vit_(\w+)_patch(\d+)_(\d+)", name).groups()
    return PlainVitSize(*WIDTHS[size], int(patch_px), int(side_px) // int(patch_px))


def build_plain_vit(model: ModelConfig, precision: Precision, form: Form) -> "PlainVit":
    """The plain ViT that model.backbone names."""
    return PlainVit(plain_vit_size(model.backbone), model.pool, precision, form)


def as_laid_out_here(weights: Arrays, parameters: Mapping[str, Parameter]) -> tuple[Arrays, list[str]]:
    """(timm's weights with fused biases and with positions for the grid of the parameters, a line if it resampled).

    Raises:
        CheckpointError: the positions are not a square grid.
    """
    weights = with_fused_bias(weights)
    ours, theirs = parameters["pos_embed"], weights.get("pos_embed")
    if theirs is None or (theirs.ndim == 3 and theirs.shape[1] == ours.shape[1]):
        return weights, []
    there, here = square_side(theirs), square_side(ours)
    weights["pos_embed"] = resampled_table(theirs, (here, here))
    return weights, [f"{ours.name}: {there} x {there} in the file, {here} x {here} here"]


class PlainVit(nn.Cell):
    """Images (B, 3, height, width), both sides divisible by the patch -> descriptors (B, C), float32, not normalized.

    Args:
        pool: "token": the descriptor is the class token after `norm`; "avg": the mean over the patch tokens after
            `fc_norm`. Only the norm that is used exists.
        precision: of products and activations inside the blocks; parameters, norms, softmax and the token stream are
            always float32. On a CPU, MindSpore has no products in bf16.
        form: of attention, norms and GELU, see models/layers.py.
    """

    import_rule = ImportRule(
        unused=TIMM_UNUSED, unused_zeros=TIMM_UNUSED_ZEROS, foreign=TIMM_FOREIGN, adapt=as_laid_out_here
    )

    def __init__(self, size: PlainVitSize, pool: Pool = "token", precision: Precision = "fp32", form: Form = "plain"):
        super().__init__()
        self.size, self.pool, self.dtype = size, pool, DTYPES[precision]
        self.width, self.grid, self.stride = size.width, size.grid, size.patch_px
        self.cls_token = parameter("cls_token", 1, PREFIX, size.width, start="token", decay=False)
        self.pos_embed = parameter("pos_embed", 1, PREFIX + size.grid**2, size.width, start="token", decay=False)
        self.patch_embed = PatchEmbed(size.width, size.patch_px)
        self.blocks = nn.CellList([PlainBlock(size, self.dtype, form) for _ in range(size.depth)])
        if pool == "token":
            self.norm = LayerNorm(size.width, form=form)
        else:
            self.fc_norm = LayerNorm(size.width, form=form)
        self.matmul = ops.MatMul()

    def tokens(self, images):
        """All tokens after the last block, (B, N, C), class token first, before the last norm."""
        rows, columns = images.shape[2] // self.stride, images.shape[3] // self.stride
        count = PREFIX + rows * columns
        patches = ops.cast(self.patch_embed(images, self.dtype), ms.float32)
        patches = ops.reshape(patches, (-1, rows * columns, self.width))
        first = ops.broadcast_to(self.cls_token, (patches.shape[0], PREFIX, self.width))
        x_BNC = ops.concat((first, patches), axis=1) + self.positions(rows, columns)
        x_MC = ops.reshape(x_BNC, (-1, self.width))
        for block in self.blocks:
            x_MC = block(x_MC, count)
        return ops.reshape(x_MC, (-1, count, self.width))

    def positions(self, rows, columns):
        """The table (1, 1 + rows*columns, C) for a grid: the learned table, or one resampled from it."""
        if rows == self.grid and columns == self.grid:
            return self.pos_embed
        table = ops.reshape(self.pos_embed[:, PREFIX:], (self.grid, -1))
        table = self.matmul(_resampling_constant(self.grid, rows), table)
        table = ops.transpose(ops.reshape(table, (rows, self.grid, self.width)), (1, 0, 2))
        table = self.matmul(_resampling_constant(self.grid, columns), ops.reshape(table, (self.grid, -1)))
        table = ops.transpose(ops.reshape(table, (columns, rows, self.width)), (1, 0, 2))
        return ops.concat((self.pos_embed[:, :PREFIX], ops.reshape(table, (1, -1, self.width))), axis=1)

    def features(self, images):
        """The map (B, H*W, C), its positions row by row: the patch tokens after the last norm."""
        patches_BNC = self.tokens(images)[:, PREFIX:]
        return ops.reshape(self.last_norm(ops.reshape(patches_BNC, (-1, self.width))), patches_BNC.shape)

    def last_norm(self, x_MC):
        if self.pool == "token":
            return self.norm(x_MC)
        return self.fc_norm(x_MC)

    def construct(self, images):
        x_BNC = self.tokens(images)
        if self.pool == "token":
            return self.last_norm(x_BNC[:, 0])
        return self.last_norm(ops.mean(x_BNC[:, PREFIX:], 1))


class PlainBlock(nn.Cell):
    """Attention, then MLP, each on normalized tokens and added back.

    The tokens themselves stay float32; they are cast only inside the two branches.
    """

    def __init__(self, size: PlainVitSize, dtype, form: Form):
        super().__init__()
        self.dtype = dtype
        self.norm1 = LayerNorm(size.width, form=form)
        self.attn = PlainAttention(size.width, size.heads, form)
        self.norm2 = LayerNorm(size.width, form=form)
        self.mlp = Mlp(size.width, form)

    def construct(self, x_MC, tokens):
        """The tokens after this block; ``tokens`` is N."""
        mixed = self.attn(ops.cast(self.norm1(x_MC), self.dtype), tokens)
        x_MC = x_MC + ops.cast(mixed, ms.float32)
        lifted = self.mlp(ops.cast(self.norm2(x_MC), self.dtype))
        return x_MC + ops.cast(lifted, ms.float32)


class PlainAttention(nn.Cell):
    """Multi-head attention over rows x_MC of B images, without positions; one weight and bias for q, k and v."""

    def __init__(self, width: int, heads: int, form: Form = "plain"):
        super().__init__()
        self.width, self.heads, self.head_dim = width, heads, width // heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)
        self.attend = attention_core(form, heads)

    def construct(self, x_MC, tokens):
        """The result of attention for the rows ``x_MC``; ``tokens`` is N."""
        query_MC, key_MC, value_MC = ops.split(self.qkv(x_MC), self.width, axis=1)
        query = split_heads(query_MC * self.head_dim**-0.5, tokens, self.heads)
        key, value = split_heads(key_MC, tokens, self.heads), split_heads(value_MC, tokens, self.heads)
        mixed_BhND = self.attend(query, key, value)
        return self.proj(join_heads(mixed_BhND, self.width))


@ops.constexpr
def _resampling_constant(old, new):
    """``resampling_matrix`` as a graph constant: it depends on shapes alone, so it is computed while compiling."""
    return Tensor(resampling_matrix(old, new))


def resampled_table(table_1NC: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The table for another grid (rows, columns), (1, 1 + rows*columns, C); the row of the class token is unchanged.

    Raises:
        CheckpointError: the table is not that of one class token and a square grid.
    """
    side = square_side(table_1NC)
    down_RH, across_SW = resampling_matrix(side, grid[0]), resampling_matrix(side, grid[1])
    table_HWC = table_1NC[0, PREFIX:].reshape(side, side, -1)
    new_RSC = np.einsum("rh,sw,hwc->rsc", down_RH, across_SW, table_HWC, optimize=True)
    new_1NC = new_RSC.reshape(1, -1, table_1NC.shape[2]).astype(np.float32)
    return np.concatenate([table_1NC[:, :PREFIX], new_1NC], axis=1)


def square_side(table_1NC: np.ndarray) -> int:
    """The side H = W of the grid of a table from a file.

    Raises:
        CheckpointError: the table is not that of one class token and a square grid.
    """
    positions = table_1NC.shape[1] - PREFIX if table_1NC.ndim == 3 else 0
    side = math.isqrt(max(positions, 0))
    if positions < 1 or side * side != positions:
        raise CheckpointError(
            f"pos_embed has shape {table_1NC.shape}, expected (1, 1 + side * side, width) for a class token and a "
            "square grid; use weights of timm's plain vit_*"
        )
    return side


def resampling_matrix(old: int, new: int) -> np.ndarray:
    """(new, old), float32, rows of sum 1: for each new position along one axis, the weights of the old positions.

    Positions are the centers of equal cells over the same extent. If there are fewer new positions, the kernel is wider
    by the same factor as the cells.
    """
    stretch = old / new
    distance = (np.arange(old) + 0.5) - (np.arange(new)[:, None] + 0.5) * stretch
    weight = cubic(distance / max(stretch, 1.0))
    return (weight / weight.sum(1, keepdims=True)).astype(np.float32)


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -1/2, as in PyTorch with antialiasing (without it, PyTorch has a = -3/4)."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
