"""Plain vision transformer: picture -> one descriptor, under timm's parameter names.

It is timm's `vit_{tiny,small,base,large}_patch*_{224,384}` (class VisionTransformer): one class token, a table of
learned positions that is added once, no LayerScale. DeiT, DINO and MAE release such weights too.

Shapes: B images, H and W patches down and across, N = 1 + H*W tokens, C width, M = B * N rows.

References:
    An Image is Worth 16x16 Words, arXiv:2010.11929; training recipe of timm's weights: arXiv:2106.10270.
"""

from dataclasses import dataclass
from typing import Literal

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindloc.models.form import Form
from mindloc.models.layers import LayerNorm, parameter
from mindloc.models.mlp import Mlp
from mindloc.models.patches import PatchEmbed
from mindloc.models.plain_attention import PlainAttention
from mindloc.models.position_table import PREFIX, resampling_matrix
from mindloc.models.precision import DTYPES, Precision

Pool = Literal["token", "avg"]


@dataclass(frozen=True)
class PlainVitSize:
    """What decides the shapes of the parameters.

    ``grid`` is the side of the table of positions: that of timm's input size, which the name ends with. Pictures of
    any other size read the table resampled, as with timm's dynamic_img_size.
    """

    width: int
    depth: int
    heads: int
    patch_px: int
    grid: int


_WIDTHS = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
_PATCHES = {"tiny": (16,), "small": (8, 16, 32), "base": (8, 16, 32), "large": (16, 32)}  # timm's


def _sizes() -> dict[str, PlainVitSize]:
    return {
        f"vit_{name}_patch{patch_px}_{side_px}": PlainVitSize(*shape, patch_px, side_px // patch_px)
        for name, shape in _WIDTHS.items()
        for patch_px in _PATCHES[name]
        for side_px in ((224,) if patch_px == 8 else (224, 384))
    }


PLAIN_SIZES = _sizes()


@ops.constexpr
def _resampling_constant(old, new):
    """A graph constant: it depends on shapes alone, so it is made while compiling."""
    return Tensor(resampling_matrix(old, new))


class PlainBlock(nn.Cell):
    """Attention, then MLP, each on normalized tokens and added back.

    The tokens themselves stay float32; only inside the two branches are they cast.
    """

    def __init__(self, width: int, heads: int, dtype, form: Form = "plain"):
        super().__init__()
        self.dtype = dtype
        self.norm1 = LayerNorm(width, form=form)
        self.attn = PlainAttention(width, heads, form)
        self.norm2 = LayerNorm(width, form=form)
        self.mlp = Mlp(width, form)

    def construct(self, x_MC, tokens):
        """Args: tokens: N."""
        mixed = self.attn(ops.cast(self.norm1(x_MC), self.dtype), tokens)
        x_MC = x_MC + ops.cast(mixed, ms.float32)
        lifted = self.mlp(ops.cast(self.norm2(x_MC), self.dtype))
        return x_MC + ops.cast(lifted, ms.float32)


class PlainVit(nn.Cell):
    """Images (B, 3, height, width), both sides divisible by the patch -> descriptors (B, C), float32, any length.

    Args:
        pool: the descriptor is the class token through `norm`, or the mean over the patch tokens through `fc_norm`;
            only that one of the two norms exists.
        precision: of products and activations inside the blocks; parameters, norms, softmax and the token stream are
            float32 always. bf16 has no products on a CPU.
        form: of attention and norms, equal numbers faster on one device or another; see models/form.py.
    """

    def __init__(self, size: PlainVitSize, pool: Pool = "token", precision: Precision = "fp32", form: Form = "plain"):
        super().__init__()
        self.size, self.pool, self.dtype = size, pool, DTYPES[precision]
        self.width, self.grid, self.stride = size.width, size.grid, size.patch_px
        self.cls_token = parameter("cls_token", 1, PREFIX, size.width)
        self.pos_embed = parameter("pos_embed", 1, PREFIX + size.grid**2, size.width)
        self.patch_embed = PatchEmbed(size.width, size.patch_px)
        self.blocks = nn.CellList([PlainBlock(size.width, size.heads, self.dtype, form) for _ in range(size.depth)])
        if pool == "token":
            self.norm = LayerNorm(size.width, form=form)
        else:
            self.fc_norm = LayerNorm(size.width, form=form)
        self.matmul = ops.MatMul()

    def positions(self, rows, columns):
        """The table (1, 1 + rows*columns, C) at a grid; the one that is learned, or resampled from it."""
        if rows == self.grid and columns == self.grid:
            return self.pos_embed
        table = ops.reshape(self.pos_embed[:, PREFIX:], (self.grid, -1))
        table = self.matmul(_resampling_constant(self.grid, rows), table)
        table = ops.transpose(ops.reshape(table, (rows, self.grid, self.width)), (1, 0, 2))
        table = self.matmul(_resampling_constant(self.grid, columns), ops.reshape(table, (self.grid, -1)))
        table = ops.transpose(ops.reshape(table, (columns, rows, self.width)), (1, 0, 2))
        return ops.concat((self.pos_embed[:, :PREFIX], ops.reshape(table, (1, -1, self.width))), axis=1)

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

    def last_norm(self, x_MC):
        if self.pool == "token":
            return self.norm(x_MC)
        return self.fc_norm(x_MC)

    def features(self, images):
        """The map (B, H*W, C) position by position, row by row: every patch token through the last norm."""
        patches_BNC = self.tokens(images)[:, PREFIX:]
        return ops.reshape(self.last_norm(ops.reshape(patches_BNC, (-1, self.width))), patches_BNC.shape)

    def construct(self, images):
        x_BNC = self.tokens(images)
        if self.pool == "token":
            return self.last_norm(x_BNC[:, 0])
        return self.last_norm(ops.mean(x_BNC[:, PREFIX:], 1))
