"""RoPE vision transformer: picture -> one descriptor, under timm's parameter names.

It is timm's `vit_*_patch16_rope_reg1_gap_*` (class Eva): one register token, no class token, rotary positions on the
patch tokens, LayerScale, mean over the patch tokens, then `fc_norm`.

Shapes: B images, H and W patches down and across, N = 1 + H*W tokens, C width, M = B * N rows.

References:
    RoPE: arXiv:2104.09864; register tokens: arXiv:2309.16588; LayerScale: arXiv:2103.17239.
"""

from dataclasses import dataclass

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindloc.models.attention import RopeAttention, rope_tables
from mindloc.models.layers import DTYPES, Form, LayerNorm, Mlp, PatchEmbed, Precision, parameter

REGISTERS = 1


@dataclass(frozen=True)
class VitSize:
    """What decides the shapes of the parameters, and what the RoPE tables need."""

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


@ops.constexpr
def _rope_constants(height, width, head_dim, reference_grid):
    """The tables as graph constants: they depend on shapes alone, so they are made while compiling."""
    cos_ND, sin_ND = rope_tables((height, width), head_dim, reference_grid, REGISTERS)
    return Tensor(cos_ND), Tensor(sin_ND)


class Block(nn.Cell):
    """Attention, then MLP, each on normalized tokens and added back through its LayerScale.

    The tokens themselves stay float32; only inside the two branches are they cast.
    """

    def __init__(self, width: int, heads: int, dtype, form: Form = "plain"):
        super().__init__()
        self.dtype = dtype
        self.gamma_1 = parameter("gamma_1", width, fill=1.0)
        self.norm1 = LayerNorm(width, form=form)
        self.attn = RopeAttention(width, heads, form)
        self.gamma_2 = parameter("gamma_2", width, fill=1.0)
        self.norm2 = LayerNorm(width, form=form)
        self.mlp = Mlp(width, form)

    def construct(self, x_MC, cos_ND, sin_ND):
        mixed = self.attn(ops.cast(self.norm1(x_MC), self.dtype), cos_ND, sin_ND)
        x_MC = x_MC + self.gamma_1 * ops.cast(mixed, ms.float32)
        lifted = self.mlp(ops.cast(self.norm2(x_MC), self.dtype))
        return x_MC + self.gamma_2 * ops.cast(lifted, ms.float32)


class RopeVit(nn.Cell):
    """Images (B, 3, height, width), both sides divisible by the patch -> descriptors (B, C), float32, any length.

    Args:
        precision: of products and activations inside the blocks; parameters, norms, softmax and the token stream are
            float32 always. bf16 has no products on a CPU.
        form: of attention and norms, equal numbers faster on one device or another; see models/layers.py.
    """

    def __init__(self, size: VitSize, precision: Precision = "fp32", form: Form = "plain"):
        super().__init__()
        self.size, self.dtype = size, DTYPES[precision]
        self.width, self.head_dim = size.width, size.width // size.heads
        self.patch_px, self.reference_grid = size.patch_px, size.reference_grid
        self.stride = size.patch_px
        self.reg_token = parameter("reg_token", 1, REGISTERS, size.width)
        self.patch_embed = PatchEmbed(size.width, size.patch_px)
        self.blocks = nn.CellList([Block(size.width, size.heads, self.dtype, form) for _ in range(size.depth)])
        self.fc_norm = LayerNorm(size.width, form=form)

    def tokens(self, images):
        """All tokens after the last block, (B, N, C), registers first: timm's forward_features."""
        rows, columns = images.shape[2] // self.patch_px, images.shape[3] // self.patch_px
        cos_ND, sin_ND = _rope_constants(rows, columns, self.head_dim, self.reference_grid)
        cos_ND, sin_ND = ops.cast(cos_ND, self.dtype), ops.cast(sin_ND, self.dtype)
        patches = ops.cast(self.patch_embed(images, self.dtype), ms.float32)
        patches = ops.reshape(patches, (-1, rows * columns, self.width))
        registers = ops.broadcast_to(self.reg_token, (patches.shape[0], REGISTERS, self.width))
        x_MC = ops.reshape(ops.concat((registers, patches), axis=1), (-1, self.width))
        for block in self.blocks:
            x_MC = block(x_MC, cos_ND, sin_ND)
        return ops.reshape(x_MC, (-1, REGISTERS + rows * columns, self.width))

    def features(self, images):
        """The map (B, H*W, C) position by position, row by row: every patch token through the last norm."""
        patches_BNC = self.tokens(images)[:, REGISTERS:]
        return ops.reshape(self.fc_norm(ops.reshape(patches_BNC, (-1, self.width))), patches_BNC.shape)

    def construct(self, images):
        patches_BNC = self.tokens(images)[:, REGISTERS:]
        return self.fc_norm(ops.mean(patches_BNC, 1))
