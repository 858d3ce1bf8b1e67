"""Self-attention whose queries and keys carry rotary positions.

Shapes: B images, N tokens, C width = h heads of D channels, M = B * N rows.

Axial rotary position embedding: where a patch lies on the grid turns its query and key.

Shapes: H, W patches down and across, N = R + H*W tokens (R registers first), D width of one head.

What attention does with queries, keys and values: score, softmax, mix; in the forms of models/layers.py.

Shapes: B images, N tokens, C width = h heads of D channels, M = B * N rows.

Self-attention that knows no positions: they are in the tokens.

Shapes: B images, N tokens, C width = h heads of D channels, M = B * N rows.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindloc.models.layers import AddBias, Form, Linear, parameter

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


class SoftmaxAttention(nn.Cell):
    """softmax(query key^T) value of every head, (B, h, N, D) each; the softmax in float32 whatever their precision."""

    def __init__(self):
        super().__init__()
        self.score = ops.BatchMatMul(transpose_b=True)
        self.mix = ops.BatchMatMul()
        self.softmax = ops.Softmax(axis=-1)

    def construct(self, query_BhND, key_BhND, value_BhND):
        share_BhNN = self.softmax(ops.cast(self.score(query_BhND, key_BhND), ms.float32))
        return self.mix(ops.cast(share_BhNN, value_BhND.dtype), value_BhND)


class ProductAttention(nn.Cell):
    """The same in float32, with a gradient that is faster on CPUs."""

    def __init__(self):
        super().__init__()
        self.attend = AttentionAndShares()

    def construct(self, query_BhND, key_BhND, value_BhND):
        return self.attend(query_BhND, key_BhND, value_BhND)[0]


class AttentionAndShares(nn.Cell):
    r"""The result beside the shares (B, h, N, N), which the way back needs and touches once.

    With shares :math:`P`, output :math:`O` and its gradient :math:`G`, that of the scores is
    :math:`P \circ (G v^T - G \cdot O)`. The row sums :math:`G \cdot O` come off within the product, as one more column
    of it, instead of in passes over (N, N) of their own.

    References:
        The identity: FlashAttention, arXiv:2205.14135, appendix B.
    """

    def __init__(self):
        super().__init__()
        self.product = ops.BatchMatMul()
        self.by_rows = ops.BatchMatMul(transpose_b=True)
        self.by_columns = ops.BatchMatMul(transpose_a=True)
        self.softmax = ops.Softmax(axis=-1)

    def construct(self, query_BhND, key_BhND, value_BhND):
        share_BhNN = self.softmax(self.by_rows(query_BhND, key_BhND))
        return self.product(share_BhNN, value_BhND), share_BhNN

    def bprop(self, query_BhND, key_BhND, value_BhND, out, dout):
        mixed_BhND, share_BhNN = out
        gradient_BhND = dout[0]  # nothing but the way back reads the shares
        along_BhN1 = ops.sum(gradient_BhND * mixed_BhND, 3, True)
        value_and_one = ops.concat((value_BhND, ops.ones_like(along_BhN1)), axis=3)
        score_BhNN = share_BhNN * self.by_rows(ops.concat((gradient_BhND, -along_BhN1), axis=3), value_and_one)
        return (
            self.product(score_BhNN, key_BhND),
            self.by_columns(score_BhNN, query_BhND),
            self.by_columns(share_BhNN, gradient_BhND),
        )


class FusedAttention(nn.Cell):
    """The same in one kernel that never holds the (N, N) shares, forward or backward; see runtime/device.py for where.

    Takes fp16 or bf16, D a multiple of 16 up to 512, any N. A graph exported with it runs only where the kernel exists.

    References:
        FlashAttention-2, arXiv:2307.08691; mindspore.ops.flash_attention_score.
    """

    def __init__(self, heads: int):
        super().__init__()
        self.heads = heads

    def construct(self, query_BhND, key_BhND, value_BhND):
        # without a mask and with the scale already in the query
        return ops.flash_attention_score(
            query_BhND, key_BhND, value_BhND, self.heads, scalar_value=1.0, input_layout="BNSD"
        )


def split_heads(x_MC, tokens, heads):
    """Rows of B images with N tokens each -> (B, h, N, D)."""
    return ops.transpose(ops.reshape(x_MC, (-1, tokens, heads, x_MC.shape[1] // heads)), (0, 2, 1, 3))


def join_heads(x_BhND, width):
    """The way back: (M, C) rows, C = h * D."""
    return ops.reshape(ops.transpose(x_BhND, (0, 2, 1, 3)), (-1, width))


def attention_core(form: Form, heads: int) -> nn.Cell:
    """(query, key, value) -> mixed values, (B, h, N, D) each, in one of the forms."""
    if form == "kernel":
        return FusedAttention(heads)
    return ProductAttention() if form == "products" else SoftmaxAttention()


class RopeAttention(nn.Cell):
    """Multi-head attention over rows x_MC of B images; query and value have a bias, the key none.

    Args:
        form: of score, softmax and mix; see models/layers.py.
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

    def rotate(self, x_BhND, cos_ND, sin_ND):
        turned = self.matmul(ops.reshape(x_BhND, (-1, self.head_dim)), ops.cast(self.turn_DD, x_BhND.dtype))
        return x_BhND * cos_ND + ops.reshape(turned, x_BhND.shape) * sin_ND

    def construct(self, x_MC, cos_ND, sin_ND):
        """cos and sin in the precision of x, one row per token."""
        tokens = cos_ND.shape[0]
        query_MC, key_MC, value_MC = ops.split(self.qkv(x_MC), self.width, axis=1)
        query_MC = self.add_bias(query_MC, self.q_bias)
        value_MC = self.add_bias(value_MC, self.v_bias)
        scale = self.head_dim**-0.5  # folded into the small tables, not into the tokens
        query = self.rotate(split_heads(query_MC, tokens, self.heads), cos_ND * scale, sin_ND * scale)
        key = self.rotate(split_heads(key_MC, tokens, self.heads), cos_ND, sin_ND)
        mixed_BhND = self.attend(query, key, split_heads(value_MC, tokens, self.heads))
        return self.proj(join_heads(mixed_BhND, self.width))


class PlainAttention(nn.Cell):
    """Multi-head attention over rows x_MC of B images; query, key and value have one fused weight and bias.

    Args:
        form: of score, softmax and mix; see models/layers.py.
    """

    def __init__(self, width: int, heads: int, form: Form = "plain"):
        super().__init__()
        self.width, self.heads, self.head_dim = width, heads, width // heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)
        self.attend = attention_core(form, heads)

    def construct(self, x_MC, tokens):
        """Args: tokens: N."""
        query_MC, key_MC, value_MC = ops.split(self.qkv(x_MC), self.width, axis=1)
        query = split_heads(query_MC * self.head_dim**-0.5, tokens, self.heads)
        key, value = split_heads(key_MC, tokens, self.heads), split_heads(value_MC, tokens, self.heads)
        mixed_BhND = self.attend(query, key, value)
        return self.proj(join_heads(mixed_BhND, self.width))
