"""One training step as one graph: encode, gather, loss, gradients, check, clip, update or skip.

Letters: B pairs of this rank's batch, G pairs of the global batch, H and W picture sides per view.
"""

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindloc.training.gradients import Clip, ClipGradients, GlobalNorm
from mindloc.training.loss_scale import LossScale
from mindloc.training.optimizer import AdamW


class TrainStep(nn.Cell):
    """The network that ``Model(TrainStep(...)).train`` runs.

    A step whose gradient is not finite changes neither weights nor moments nor the optimizer's step count.

    Args:
        encoder: (drone, satellite) -> dict of outputs.
        criterion: (outputs, weight, mask) -> (total, dict of components); names them in ``component_names``.
        optimizer: over the encoder's parameters.
        clip, clip_at: bound on the mean gradient of the whole batch, see ``ClipGradients``.
        accumulate: parts the batch is cut into; each is encoded, compared and differentiated by itself, and their mean
            gradient makes the update. Parts do not share negatives. Every rank holds an equal share of each part.
        loss_scale: None means no scaling.
        gather: outputs of this rank -> outputs of the global batch; None on one rank.
        reduce_gradients: mean of the gradients over ranks; None on one rank.
    """

    def __init__(
        self,
        encoder: nn.Cell,
        criterion: nn.Cell,
        optimizer: AdamW,
        clip: Clip = "none",
        clip_at: float = 0.0,
        accumulate: int = 1,
        loss_scale: LossScale | None = None,
        gather: nn.Cell | None = None,
        reduce_gradients: nn.Cell | None = None,
    ):
        super().__init__(auto_prefix=False)  # parameters keep the names under which they are saved
        self.encoder, self.criterion, self.optimizer = encoder, criterion, optimizer
        self.component_names = criterion.component_names
        self.gather = gather or nn.Identity()
        self.reduce_gradients = reduce_gradients or nn.Identity()
        self.loss_scale = loss_scale or LossScale()
        self.accumulate = accumulate
        self.norm = GlobalNorm()
        self.clip = ClipGradients(clip, clip_at, scaled=loss_scale is not None)
        self.lr = Parameter(Tensor(np.array(0.0, np.float32)), name="learning_rate", requires_grad=False)
        self.trainable = ParameterTuple(optimizer.parameters)
        self.value_and_grad = ops.value_and_grad(self.forward, None, self.trainable, has_aux=True)
        self.add = ops.Add()
        self.map = ops.HyperMap()

    def forward(self, drone, satellite, weight, mask, scale):
        """Loss times ``scale`` (what is differentiated), loss, components in the order of ``component_names``."""
        outputs = self.gather(self.encoder(drone, satellite))
        loss, components = self.criterion(outputs, weight, mask)
        # no dict leaves the graph: Ascend would hand it to Python
        return loss * scale, loss, tuple([components[name] for name in self.component_names])

    def construct(self, drone, satellite, weight, mask):
        """One step.

        Args:
            drone, satellite: (B, 3, H, W) float32.
            weight: (G,) float32, IoU of each pair.
            mask: (G, G) bool, True where a cell counts.

        Returns:
            loss, its components in the order of ``component_names``, gradient norm before clipping, whether the update
            was made (bool), the loss scale that was used.
        """
        scale = self.loss_scale.scale * 1.0  # a copy: the parameter itself changes below
        loss, components, gradients = self._mean_gradients(drone, satellite, weight, mask, scale)
        gradients = self.reduce_gradients(gradients)
        unscale = 1.0 / scale
        norm = self.norm(gradients) * unscale
        finite = ops.isfinite(norm)
        if finite:
            self.optimizer(self.clip(gradients, norm, unscale), self.lr)
        self.loss_scale(finite)
        return loss, components, norm, finite, scale

    def _mean_gradients(self, drone, satellite, weight, mask, scale):
        """Loss, components and gradients as means over the parts of the batch."""
        part_scale = scale / self.accumulate
        (_, loss, components), gradients = self.value_and_grad(
            *self._part(0, drone, satellite, weight, mask), part_scale
        )
        for i in range(1, self.accumulate):
            drone = ops.depend(drone, gradients)  # one part after the other, so that only one needs its memory
            (_, part_loss, part_components), part_gradients = self.value_and_grad(
                *self._part(i, drone, satellite, weight, mask), part_scale
            )
            loss = loss + part_loss
            components = self.map(self.add, components, part_components)
            gradients = self.map(self.add, gradients, part_gradients)
        if self.accumulate > 1:
            loss = loss / self.accumulate
            components = tuple([component / self.accumulate for component in components])
        return loss, components, gradients

    def _part(self, i, drone, satellite, weight, mask):
        """Part i: a run of this rank's rows, and of the rows of the global batch."""
        if self.accumulate == 1:
            return drone, satellite, weight, mask
        own, of_all = drone.shape[0] // self.accumulate, weight.shape[0] // self.accumulate
        begin, end = i * own, (i + 1) * own
        first, beyond = i * of_all, (i + 1) * of_all
        return drone[begin:end], satellite[begin:end], weight[first:beyond], mask[first:beyond, first:beyond]
