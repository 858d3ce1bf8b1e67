"""Losses and criteria as graphs with tensors only: a graph treats a dict as a constant and recompiles for each dict."""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindloc.losses.criterion import Criterion
from mindloc.vocabulary import GLOBAL


class OfTensors(nn.Cell):
    """(query, reference, iou, mask, logit scale) -> (loss, its parts)."""

    def __init__(self, loss: nn.Cell):
        super().__init__()
        self.loss = loss

    def construct(self, query, reference, iou, mask, scale):
        return self.loss(query, reference, scale, {"iou": iou}, mask)


class GlobalCriterion(nn.Cell):
    """A criterion of global descriptors with the same arguments: (total loss, its components in order)."""

    def __init__(self, loss: nn.Cell):
        super().__init__()
        self.criterion = Criterion({GLOBAL: loss})

    def construct(self, query, reference, iou, mask, scale):
        outputs = {"query.global": query, "reference.global": reference, "logit_scale": scale}
        total, components = self.criterion(outputs, {"iou": iou}, mask)
        return total, tuple([components[name] for name in self.criterion.component_names])


def numbers(graph: nn.Cell, query, reference, iou, mask, scale: float = 1 / 0.07) -> list[float]:
    """The loss and its parts for NumPy arrays, in one list."""
    tensors = [Tensor(np.ascontiguousarray(array)) for array in (query, reference, iou, mask)]
    total, parts = graph(*tensors, Tensor([scale], ms.float32))
    return [float(total), *map(float, parts)]
