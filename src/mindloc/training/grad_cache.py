"""GradCache: a large batch on a device that holds the activations of a small one, with the negatives of the whole.

Letters: B pairs of this rank's batch, G pairs of the global batch, P parts of both, S numbers of a pair (the lengths of
all its descriptors), H and W picture sides per view.

References:
    L. Gao, Y. Zhang, J. Han, J. Callan: Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup,
    arXiv:2101.06983.
"""

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindloc.training.mean_gradients import in_parts, part_of


class GradCache(nn.Cell):
    r"""Loss, components and gradients of a whole batch whose parts are encoded one after the other, twice.

    .. math:: \frac{\partial L}{\partial \theta}
              = \sum_p \Big(\frac{\partial D_p}{\partial \theta}\Big)^T \frac{\partial L}{\partial D_p}

    First every part is encoded and only its descriptors D are kept; the loss over all of them gives its gradient by
    each; then every part is encoded again, and its gradient sent back through the encoder. Equal to the whole batch to
    the rounding of sums, since no descriptor depends on another picture. It costs one more forward pass.

    Args, and those of ``construct``: as ``MeanGradients``, whose place it takes; the encoder also names in
    ``compared_outputs`` what the criterion reads, and ``gather`` gets the parts in the order of this rank's rows.
    """

    def __init__(self, encoder: nn.Cell, criterion: nn.Cell, weights, parts: int, gather: nn.Cell):
        super().__init__(auto_prefix=False)
        self.encoder, self.criterion, self.gather = encoder, criterion, gather
        self.component_names = criterion.component_names
        self.names = encoder.compared_outputs
        self.weights, self.parts = weights, parts
        self.loss_gradient = ops.value_and_grad(self.loss, (0, 1), has_aux=True)
        self.back_through_encoder = ops.GradOperation(get_by_list=True, sens_param=True)(self.described, weights)
        self.add = ops.Add()
        self.map = ops.HyperMap()

    def construct(self, drone, satellite, weight, mask, scale):
        """One batch, see ``MeanGradients``."""
        drones, satellites = in_parts(drone, self.parts), in_parts(satellite, self.parts)
        # its shapes and the logit scale are used, so compiling leaves the rest of this pass out
        outputs = self.encoder(drones[0], satellites[0])
        lengths = tuple([outputs[name].shape[1] for name in self.names])
        rows_PBS = self._describe_all(drones, satellites, sum(lengths), scale)
        rows_BS = ops.reshape(rows_PBS, (-1, sum(lengths)))
        (_, loss, components), (by_row_BS, by_scale) = self.loss_gradient(
            rows_BS, outputs["logit_scale"], lengths, weight, mask, scale
        )
        return loss, components, self._send_back(drones, satellites, in_parts(by_row_BS, self.parts), by_scale)

    def described(self, drone, satellite):
        """Descriptors of a part, one row (S numbers) for each pair, and the logit scales."""
        outputs = self.encoder(drone, satellite)
        return ops.concat(tuple([outputs[name] for name in self.names]), 1), outputs["logit_scale"]

    def loss(self, rows_BS, logit_scale, lengths, weight, mask, scale):
        """Loss times ``scale``, loss, components, of this rank's rows and those of the others."""
        outputs = {"logit_scale": logit_scale}
        first = 0
        for i in range(len(self.names)):
            outputs[self.names[i]] = rows_BS[:, first : first + lengths[i]]
            first = first + lengths[i]
        loss, components = self.criterion(self.gather(outputs), weight, mask)
        return loss * scale, loss, tuple([components[name] for name in self.component_names])

    def _describe_all(self, drones, satellites, length, scale):
        """(P, B / P, S): the descriptors of every part."""
        # made of an input: were they constant, the loss would be taken for a constant too while compiling
        rows_PBS = ops.broadcast_to(scale * 0, (self.parts, drones.shape[1], length))
        i = Tensor(0, ms.int32)
        while i < self.parts:
            rows_BS, _ = self.described(part_of(drones, i), part_of(satellites, i))
            rows_PBS = ops.tensor_scatter_update(rows_PBS, ops.reshape(i, (1, 1)), ops.expand_dims(rows_BS, 0))
            i = i + 1
        return rows_PBS

    def _send_back(self, drones, satellites, by_row_PBS, by_scale):
        """Gradients by the weights; that of the logit scales goes back with the first part alone."""
        gradients = self.map(ops.zeros_like, self.weights)
        i = Tensor(0, ms.int32)
        while i < self.parts:
            back = (part_of(by_row_PBS, i), by_scale * ops.cast(i == 0, ms.float32))
            of_part = self.back_through_encoder(part_of(drones, i), part_of(satellites, i), back)
            gradients = self.map(self.add, gradients, of_part)
            i = i + 1
        return gradients
