"""What attention does with queries, keys and values: score, softmax, mix; in the forms of models/form.py.

Shapes: B images, N tokens, C width = h heads of D channels, M = B * N rows.
"""

import mindspore as ms
from mindspore import nn, ops

from mindloc.models.form import Form


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
    """The same in one kernel that never holds the (N, N) shares, forward or backward; see runtime/kernels.py for where.

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
