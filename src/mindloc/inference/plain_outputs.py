"""A view encoder whose named outputs leave the graph as a plain tuple.

A dictionary as the output of a whole graph sends MindSpore 2.8's compiler into minutes of work; inside a graph
it costs nothing. A saved graph knows no names either, so export goes through here too.
"""

from mindspore import nn


class PlainOutputs(nn.Cell):
    """Pictures (B, 3, H, W) -> the outputs of ``names`` in that order, a tuple also of one."""

    def __init__(self, view_encoder: nn.Cell, *names: str):
        super().__init__(auto_prefix=False)  # parameters keep their names
        self.view_encoder = view_encoder
        self.names = names

    def construct(self, images):
        outputs = self.view_encoder(images)
        return tuple([outputs[name] for name in self.names])
