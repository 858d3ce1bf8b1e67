"""Norm and clipping of a tuple of gradients, inside the graph."""

from typing import Literal

import mindspore as ms
from mindspore import Tensor, nn, ops

Clip = Literal["value", "norm", "none"]


class GlobalNorm(nn.Cell):
    """Length of all gradients taken as one vector, float32; not finite as soon as one entry is not.

    On a CPU the sum of squares is a product of the flat gradient with itself: an eighth of the time of the reduction
    kernel there. Elsewhere matrix units may round their inputs, so the plain reduction is used.
    """

    def __init__(self):
        super().__init__()
        self.by_product = ms.get_context("device_target") == "CPU"
        self.product = ops.MatMul(transpose_b=True)

    def construct(self, gradients):
        total = Tensor(0.0, ms.float32)
        for gradient in gradients:
            if self.by_product:
                row = ops.cast(gradient, ms.float32).reshape(1, -1)
                total = total + self.product(row, row).reshape(())
            else:
                total = total + ops.square(ops.cast(gradient, ms.float32)).sum()
        return ops.sqrt(total)


class ClipGradients(nn.Cell):
    """Unscaled gradients, bounded entry by entry (value), by their common length (norm), or not at all (none)."""

    def __init__(self, clip: Clip, clip_at: float, scaled: bool):
        super().__init__()
        self.clip, self.clip_at, self.scaled = clip, clip_at, scaled
        self.map = ops.HyperMap()

    def construct(self, gradients, norm, unscale):
        """``norm``: length of the unscaled gradients; ``unscale``: 1 / loss scale, used when scaled."""
        factor = unscale
        if self.clip == "norm":
            # the tiny term is the convention of the reference this is tested against
            factor = unscale * ops.minimum(self.clip_at / (norm + 1e-6), Tensor(1.0, ms.float32))
        # a map, not a loop: turns of a loop with branches nest, and MindSpore limits the depth of calls to 1000
        return self.map(ops.partial(self.bounded, factor), gradients)

    def bounded(self, factor, gradient):
        """One gradient."""
        if self.scaled or self.clip == "norm":
            gradient = gradient * factor
        if self.clip == "value":
            gradient = ops.clamp(gradient, -self.clip_at, self.clip_at)
        return gradient
