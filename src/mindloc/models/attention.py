"""Self-attention whose queries and keys carry rotary positions.

Shapes: B images, N tokens, C width = h heads of D channels, M = B * N rows.
"""

from mindspore import Tensor, nn, ops

from mindloc.models.attention_core import attention_core, join_heads, split_heads
from mindloc.models.form import Form
from mindloc.models.layers import AddBias, Linear, parameter
from mindloc.models.rope import quarter_turn


class RopeAttention(nn.Cell):
    """Multi-head attention over rows x_MC of B images; query and value have a bias, the key none.

    Args:
        form: of score, softmax and mix; see models/form.py.
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
