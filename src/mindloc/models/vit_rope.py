"""RoPE vision transformer: image -> one descriptor, under timm's parameter names.

It is timm's `vit_*_patch16_rope_reg1_gap_*` (class Eva): one register token, no class token, rotary positions on the
patch tokens, LayerScale, mean over the patch tokens, then `fc_norm`.

Shapes: B images, H and W patches down and across, N = 1 + H*W tokens (the register first), C width = h heads of D
channels, M = B * N rows.

References:
    RoPE: arXiv:2104.09864; register tokens: arXiv:2309.16588; LayerScale: arXiv:2103.17239.
"""

from dataclasses import dataclass, replace

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindloc.config.sections import ModelConfig
from mindloc.models.attention import attention_core, join_heads, split_heads
from mindloc.models.layers import DTYPES, AddBias, Form, LayerNorm, Linear, Mlp, PatchEmbed
from mindloc.models.parameters import parameter
from mindloc.models.public_weights import (
    TIMM_FOREIGN,
    TIMM_UNUSED,
    TIMM_UNUSED_ZEROS,
    ImportRule,
    with_query_and_value_bias,
)
from mindloc.vocabulary import Precision

REGISTERS = 1
TEMPERATURE = 10_000.0


@dataclass(frozen=True)
class VitSize:
    """The sizes that determine the shapes of the parameters, and the reference grid of the RoPE tables."""

    width: int
    depth: int
    heads: int
    patch_px: int = 16
    reference_grid: int = 16


SIZES = {
    "tiny": VitSize(192, 6, 3),
    "compact": VitSize(256, 8, 4),
    "small": VitSize(384, 12, 6),
    "medium": VitSize(512, 12, 8),
    "base": VitSize(768, 12, 12),
}


def build_rope_vit(model: ModelConfig, precision: Precision, form: Form) -> "RopeVit":
    """The RoPE ViT that model.backbone names."""
    size = replace(SIZES[model.backbone], patch_px=model.patch_px, reference_grid=model.reference_grid)
    return RopeVit(size, precision, form, model.layer_scale_init)


class RopeVit(nn.Cell):
    """Images (B, 3, height, width), both sides divisible by the patch -> descriptors (B, C), float32, not normalized.

    Args:
        precision: of products and activations inside the blocks; parameters, norms, softmax and the token stream are
            always float32. On a CPU, MindSpore has no products in bf16.
        form: of attention, norms and GELU, see models/layers.py.
        layer_scale: initial value of the factors on the two branches of each block.
    """

    import_rule = ImportRule(
        unused=TIMM_UNUSED,
        unused_zeros=TIMM_UNUSED_ZEROS,
        foreign=TIMM_FOREIGN,
        adapt=lambda weights, _: (with_query_and_value_bias(weights), []),
        settings="model.backbone and model.patch_px",
    )

    def __init__(self, size: VitSize, precision: Precision = "fp32", form: Form = "plain", layer_scale: float = 0.1):
        super().__init__()
        self.size, self.dtype = size, DTYPES[precision]
        self.width, self.head_dim, self.stride = size.width, size.width // size.heads, size.patch_px
        self.reg_token = parameter("reg_token", 1, REGISTERS, size.width, start="token")
        self.patch_embed = PatchEmbed(size.width, size.patch_px)
        self.blocks = nn.CellList([Block(size, self.dtype, form, layer_scale) for _ in range(size.depth)])
        self.fc_norm = LayerNorm(size.width, form=form)

    def tokens(self, images):
        """All tokens after the last block, (B, N, C), registers first: timm's forward_features."""
        rows, columns = images.shape[2] // self.stride, images.shape[3] // self.stride
        cos_ND, sin_ND = _rope_constants(rows, columns, self.head_dim, self.size.reference_grid)
        cos_ND, sin_ND = ops.cast(cos_ND, self.dtype), ops.cast(sin_ND, self.dtype)
        patches = ops.cast(self.patch_embed(images, self.dtype), ms.float32)
        patches = ops.reshape(patches, (-1, rows * columns, self.width))
        registers = ops.broadcast_to(self.reg_token, (patches.shape[0], REGISTERS, self.width))
        x_MC = ops.reshape(ops.concat((registers, patches), axis=1), (-1, self.width))
        for block in self.blocks:
            x_MC = block(x_MC, cos_ND, sin_ND)
        return ops.reshape(x_MC, (-1, REGISTERS + rows * columns, self.width))

    def features(self, images):
        """The map (B, H*W, C), its positions row by row: the patch tokens after the last norm."""
        patches_BNC = self.tokens(images)[:, REGISTERS:]
        return ops.reshape(self.fc_norm(ops.reshape(patches_BNC, (-1, self.width))), patches_BNC.shape)

    def construct(self, images):
        patches_BNC = self.tokens(images)[:, REGISTERS:]
        return self.fc_norm(ops.mean(patches_BNC, 1))


class Block(nn.Cell):
    """Attention, then MLP, each on normalized tokens and added back through its LayerScale.

    The tokens themselves stay float32; they are cast only inside the two branches.
    """

    def __init__(self, size: VitSize, dtype, form: Form, layer_scale: float):
        super().__init__()
        self.dtype = dtype
        self.gamma_1 = parameter("gamma_1", size.width, fill=layer_scale)
        self.norm1 = LayerNorm(size.width, form=form)
        self.attn = RopeAttention(size.width, size.heads, form)
        self.gamma_2 = parameter("gamma_2", size.width, fill=layer_scale)
        self.norm2 = LayerNorm(size.width, form=form)
        self.mlp = Mlp(size.width, form)

    def construct(self, x_MC, cos_ND, sin_ND):
        mixed = self.attn(ops.cast(self.norm1(x_MC), self.dtype), cos_ND, sin_ND)
        x_MC = x_MC + self.gamma_1 * ops.cast(mixed, ms.float32)
        lifted = self.mlp(ops.cast(self.norm2(x_MC), self.dtype))
        return x_MC + self.gamma_2 * ops.cast(lifted, ms.float32)


class RopeAttention(nn.Cell):
    """Multi-head attention over rows x_MC of B images; queries and keys are rotated by their positions.

    Queries and values have a bias, keys have none.
    """

    def __init__(self, width: int, heads: int, form: Form = "plain"):
        super().__init__()
        self.width, self.heads, self.head_dim = width, heads, width // heads
        self.qkv = Linear(width, 3 * width, bias=False)
        self.q_bias = parameter("q_bias", width)
        self.v_bias = parameter("v_bias", width)
        self.proj = Linear(width, width)
        self.turn_DD = Tensor(quarter_turn(self.head_dim))
        self.add_bias = AddBias()
        self.matmul = ops.MatMul()
        self.attend = attention_core(form, heads)

    def construct(self, x_MC, cos_ND, sin_ND):
        """The result of attention for the rows ``x_MC``; cos and sin are in their precision, one row per token."""
        tokens = cos_ND.shape[0]
        query_MC, key_MC, value_MC = ops.split(self.qkv(x_MC), self.width, axis=1)
        query_MC = self.add_bias(query_MC, self.q_bias)
        value_MC = self.add_bias(value_MC, self.v_bias)
        scale = self.head_dim**-0.5  # folded into the small tables, not into the tokens
        query = self.rotate(split_heads(query_MC, tokens, self.heads), cos_ND * scale, sin_ND * scale)
        key = self.rotate(split_heads(key_MC, tokens, self.heads), cos_ND, sin_ND)
        mixed_BhND = self.attend(query, key, split_heads(value_MC, tokens, self.heads))
        return self.proj(join_heads(mixed_BhND, self.width))

    def rotate(self, x_BhND, cos_ND, sin_ND):
        turned = self.matmul(ops.reshape(x_BhND, (-1, self.head_dim)), ops.cast(self.turn_DD, x_BhND.dtype))
        return x_BhND * cos_ND + ops.reshape(turned, x_BhND.shape) * sin_ND


@ops.constexpr
def _rope_constants(rows, columns, head_dim, reference_grid):
    """``rope_tables`` as graph constants: they depend on shapes alone, so they are computed while compiling."""
    cos_ND, sin_ND = rope_tables((rows, columns), head_dim, reference_grid, REGISTERS)
    return Tensor(cos_ND), Tensor(sin_ND)


def rope_tables(
    grid: tuple[int, int], head_dim: int, reference_grid: int, registers: int
) -> tuple[np.ndarray, np.ndarray]:
    """cos_ND and sin_ND of all tokens, float32; registers are not rotated (cos 1, sin 0)."""
    angle_ND = np.repeat(rope_angles(grid, head_dim, reference_grid), 2, axis=1)
    angle_ND = np.concatenate([np.zeros((registers, head_dim)), angle_ND])
    return np.cos(angle_ND).astype(np.float32), np.sin(angle_ND).astype(np.float32)


def rope_angles(grid: tuple[int, int], head_dim: int, reference_grid: int) -> np.ndarray:
    """Angle of every patch and rotated pair of channels, (H*W, D/2), radians.

    The first half of the pairs is rotated by the row, the second half by the column. Positions are stretched so that
    every grid spans the reference grid: patch r of H is at r * reference_grid / H.

    Raises:
        ValueError: ``head_dim`` is not a multiple of 4, two axes times two channels of a pair.
    """
    if head_dim % 4:
        raise ValueError(f"a head of {head_dim} channels can't be rotated along two axes: use a multiple of 4")
    bands = TEMPERATURE ** (-np.arange(head_dim // 4) / (head_dim // 4))
    row_H, column_W = (np.arange(side) * (reference_grid / side) for side in grid)
    row_HW, column_HW = np.meshgrid(row_H, column_W, indexing="ij")
    place_N2 = np.stack([row_HW.ravel(), column_HW.ravel()], axis=1)
    return (place_N2[:, :, None] * bands).reshape(len(place_N2), -1)


def quarter_turn(head_dim: int) -> np.ndarray:
    """Matrix M with (x @ M)[2i] = -x[2i+1] and (x @ M)[2i+1] = x[2i]: every channel pair turned by 90 degrees.

    x * cos + (x @ M) * sin is then the rotation. One small product is faster everywhere than slicing and interleaving.
    """
    matrix_DD = np.zeros((head_dim, head_dim), np.float32)
    even = np.arange(0, head_dim, 2)
    matrix_DD[even + 1, even] = -1.0
    matrix_DD[even, even + 1] = 1.0
    return matrix_DD
