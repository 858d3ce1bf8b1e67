"""Self-attention that knows no positions: they are in the tokens.

Shapes: B images, N tokens, C width = h heads of D channels, M = B * N rows.
"""

from mindspore import nn, ops

from mindloc.models.attention_core import attention_core
from mindloc.models.form import Form
from mindloc.models.layers import Linear


class PlainAttention(nn.Cell):
    """Multi-head attention over rows x_MC of B images; query, key and value have one fused weight and bias.

    Args:
        form: of score, softmax and mix; see models/form.py.
    """

    def __init__(self, width: int, heads: int, form: Form = "plain"):
        super().__init__()
        self.width, self.heads, self.head_dim = width, heads, width // heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)
        self.attend = attention_core(form, heads)

    def split_heads(self, x_MC, tokens):
        return ops.transpose(ops.reshape(x_MC, (-1, tokens, self.heads, self.head_dim)), (0, 2, 1, 3))

    def construct(self, x_MC, tokens):
        """Args: tokens: N."""
        query_MC, key_MC, value_MC = ops.split(self.qkv(x_MC), self.width, axis=1)
        query = self.split_heads(query_MC * self.head_dim**-0.5, tokens)
        mixed_BhND = self.attend(query, self.split_heads(key_MC, tokens), self.split_heads(value_MC, tokens))
        return self.proj(ops.reshape(ops.transpose(mixed_BhND, (0, 2, 1, 3)), (-1, self.width)))
