"""What attention does with rotated queries, keys and values: score, softmax, mix; in three operators or in one.

Shapes: B images, N tokens, h heads of D channels.
"""

import mindspore as ms
from mindspore import nn, ops


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
