"""The core of attention, softmax(query key^T) value, in each of the forms that models/layers.py describes.

Shapes: B images, N tokens, C width = h heads of D channels, M = B * N rows.
"""

import mindspore as ms
from mindspore import nn, ops

from mindloc.models.layers import Form


def attention_core(form: Form, heads: int) -> nn.Cell:
    """The cell of one form: (query, key, value) -> softmax(query key^T) value, each (B, h, N, D)."""
    if form == "kernel":
        return FusedAttention(heads)
    return ProductAttention() if form == "products" else SoftmaxAttention()


def split_heads(x_MC, tokens, heads):
    """Rows of B images with N tokens each -> (B, h, N, D)."""
    return ops.transpose(ops.reshape(x_MC, (-1, tokens, heads, x_MC.shape[1] // heads)), (0, 2, 1, 3))


def join_heads(x_BhND, width):
    """The inverse of ``split_heads``: (B, h, N, D) -> rows (M, C), C = h * D."""
    return ops.reshape(ops.transpose(x_BhND, (0, 2, 1, 3)), (-1, width))


class SoftmaxAttention(nn.Cell):
    """Attention from three stock operators; the softmax is float32 in every precision."""

    def __init__(self):
        super().__init__()
        self.score = ops.BatchMatMul(transpose_b=True)
        self.mix = ops.BatchMatMul()
        self.softmax = ops.Softmax(axis=-1)

    def construct(self, query_BhND, key_BhND, value_BhND):
        weights_BhNN = self.softmax(ops.cast(self.score(query_BhND, key_BhND), ms.float32))
        return self.mix(ops.cast(weights_BhNN, value_BhND.dtype), value_BhND)


class ProductAttention(nn.Cell):
    """Attention in float32 only, with a gradient that is faster on CPUs than that of ``SoftmaxAttention``."""

    def __init__(self):
        super().__init__()
        self.attend = AttentionAndWeights()

    def construct(self, query_BhND, key_BhND, value_BhND):
        return self.attend(query_BhND, key_BhND, value_BhND)[0]


class AttentionAndWeights(nn.Cell):
    r"""Attention that also returns its weights (B, h, N, N), so that the backward pass need not compute them again.

    With attention weights :math:`P`, output :math:`O` and its gradient :math:`G`, the gradient of the scores is
    :math:`P \circ (G v^T - G \cdot O)`. The row sums :math:`G \cdot O` are subtracted by one more column in the
    product, instead of by separate passes over (N, N).

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
        weights_BhNN = self.softmax(self.by_rows(query_BhND, key_BhND))
        return self.product(weights_BhNN, value_BhND), weights_BhNN

    def bprop(self, query_BhND, key_BhND, value_BhND, out, dout):
        mixed_BhND, weights_BhNN = out
        gradient_BhND = dout[0]  # dout[1] is not needed: only this method reads the attention weights
        along_BhN1 = ops.sum(gradient_BhND * mixed_BhND, 3, True)
        value_and_one = ops.concat((value_BhND, ops.ones_like(along_BhN1)), axis=3)
        score_BhNN = weights_BhNN * self.by_rows(ops.concat((gradient_BhND, -along_BhN1), axis=3), value_and_one)
        return (
            self.product(score_BhNN, key_BhND),
            self.by_columns(score_BhNN, query_BhND),
            self.by_columns(weights_BhNN, gradient_BhND),
        )


class FusedAttention(nn.Cell):
    """Attention in one kernel, without storing the (N, N) weights; runtime/device.py says which devices have it.

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
