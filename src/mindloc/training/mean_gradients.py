"""Loss and gradients of a batch in one go, or of its parts one after the other.

Letters: B pairs of this rank's batch, G pairs of the global batch, P parts of both, H and W picture sides per view.
"""

import mindspore as ms
from mindspore import Tensor, nn, ops


class MeanGradients(nn.Cell):
    """Loss, components and gradients as means over the parts of a batch; parts do not share negatives.

    The graph holds one part however many there are: they take turns in it, and only one needs its memory.

    Args:
        encoder: (drone, satellite) -> dict of outputs.
        criterion: (outputs, weight, mask) -> (total, dict of components); names them in ``component_names``.
        weights: a ParameterTuple, differentiated by.
        parts: P, a divisor of B. Every rank holds an equal share of each part, in the order of the parts.
        gather: outputs of this rank -> outputs of all ranks.
    """

    def __init__(self, encoder: nn.Cell, criterion: nn.Cell, weights, parts: int, gather: nn.Cell):
        super().__init__(auto_prefix=False)
        self.encoder, self.criterion, self.gather = encoder, criterion, gather
        self.component_names = criterion.component_names
        self.weights, self.parts, self.counted = weights, parts, 1 + len(criterion.component_names)
        self.value_and_grad = ops.value_and_grad(self.forward, None, weights, has_aux=True)
        self.add = ops.Add()
        self.map = ops.HyperMap()

    def forward(self, drone, satellite, weight, mask, scale):
        """Loss times ``scale`` (what is differentiated), loss, components in the order of ``component_names``."""
        outputs = self.gather(self.encoder(drone, satellite))
        loss, components = self.criterion(outputs, weight, mask)
        # no dict leaves the graph: Ascend would hand it to Python
        return loss * scale, loss, tuple([components[name] for name in self.component_names])

    def construct(self, drone, satellite, weight, mask, scale):
        """One batch.

        Args:
            drone, satellite: (B, 3, H, W) float32.
            weight: (G,) float32; mask: (G, G) bool.
            scale: scalar, factor on the loss that is differentiated.

        Returns:
            loss, tuple of its components, tuple of gradients in the order of the weights, ``scale`` times too large.
        """
        if self.parts == 1:
            (_, loss, components), gradients = self.value_and_grad(drone, satellite, weight, mask, scale)
            return loss, components, gradients
        return self._over_parts(drone, satellite, weight, mask, scale)

    def _over_parts(self, drone, satellite, weight, mask, scale):
        drones, satellites = in_parts(drone, self.parts), in_parts(satellite, self.parts)
        weights, masks = in_parts(weight, self.parts), in_parts(mask, self.parts)
        losses = ops.zeros(self.counted, ms.float32)  # the loss, then its components
        gradients = self.map(ops.zeros_like, self.weights)
        i = Tensor(0, ms.int32)
        while i < self.parts:
            (_, part_loss, part_components), part_gradients = self.value_and_grad(
                part_of(drones, i), part_of(satellites, i), part_of(weights, i), own_cells(masks, i), scale / self.parts
            )
            losses = losses + ops.stack((part_loss, *part_components))
            gradients = self.map(self.add, gradients, part_gradients)
            i = i + 1
        losses = losses / self.parts
        return losses[0], tuple([losses[k] for k in range(1, self.counted)]), gradients


def in_parts(rows, parts):
    """(rows, ...) -> (parts, rows / parts, ...)."""
    return ops.reshape(rows, (parts, rows.shape[0] // parts) + rows.shape[1:])


def part_of(parts, i):
    """Part i, a Tensor, so that one graph serves all parts."""
    return ops.gather(parts, i, 0)


def own_cells(masks, i):
    """Cells of a mask (P, G / P, G) whose row and column lie in part i."""
    rows = part_of(masks, i)
    # no transpose: AKG can't compile that of a bool square of 8 by 8 (seen in 2.8.0)
    return ops.gather(ops.reshape(rows, (rows.shape[0], masks.shape[0], -1)), i, 1)
