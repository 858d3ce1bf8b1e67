"""The second half of a transformer block, under timm's parameter names.

Shapes: C width, M = B * N rows.
"""

from mindspore import nn

from mindloc.models.form import Form
from mindloc.models.gelu import gelu
from mindloc.models.layers import Linear


class Mlp(nn.Cell):
    """Two layers, the inner one four times as wide."""

    def __init__(self, width: int, form: Form = "plain"):
        super().__init__()
        self.fc1 = Linear(width, 4 * width)
        self.gelu = gelu(form)
        self.fc2 = Linear(4 * width, width)

    def construct(self, x_MC):
        return self.fc2(self.gelu(self.fc1(x_MC)))
