"""Self-attention that knows no positions: they are in the tokens.

Shapes: B images, N tokens, C width = h heads of D channels, M = B * N rows.
"""

from mindspore import nn, ops

from mindloc.models.attention_core import attention_core, join_heads, split_heads
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

    def construct(self, x_MC, tokens):
        """Args: tokens: N."""
        query_MC, key_MC, value_MC = ops.split(self.qkv(x_MC), self.width, axis=1)
        query = split_heads(query_MC * self.head_dim**-0.5, tokens, self.heads)
        key, value = split_heads(key_MC, tokens, self.heads), split_heads(value_MC, tokens, self.heads)
        mixed_BhND = self.attend(query, key, value)
        return self.proj(join_heads(mixed_BhND, self.width))
