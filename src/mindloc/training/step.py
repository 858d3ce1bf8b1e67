"""One training step as one graph: encode, gather, loss, gradients, check, clip, update or skip.

Letters: B pairs of this rank's batch, G pairs of the global batch, H and W picture sides per view.
"""

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindloc.training.grad_cache import GradCache
from mindloc.training.gradients import Clip, ClipGradients, GlobalNorm
from mindloc.training.loss_scale import LossScale
from mindloc.training.mean_gradients import MeanGradients
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
        grad_cache: parts do share negatives: the gradient is that of the whole batch, see ``GradCache``.
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
        grad_cache: bool = False,
        loss_scale: LossScale | None = None,
        gather: nn.Cell | None = None,
        reduce_gradients: nn.Cell | None = None,
    ):
        super().__init__(auto_prefix=False)  # parameters keep the names under which they are saved
        self.encoder, self.optimizer = encoder, optimizer
        self.component_names = criterion.component_names
        self.trainable = ParameterTuple(optimizer.parameters)
        by_parts = GradCache if grad_cache else MeanGradients
        self.mean_gradients = by_parts(encoder, criterion, self.trainable, accumulate, gather or nn.Identity())
        self.reduce_gradients = reduce_gradients or nn.Identity()
        self.loss_scale = loss_scale or LossScale()
        self.norm = GlobalNorm()
        self.clip = ClipGradients(clip, clip_at, scaled=loss_scale is not None)
        self.lr = Parameter(Tensor(np.array(0.0, np.float32)), name="learning_rate", requires_grad=False)

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
        loss, components, gradients = self.mean_gradients(drone, satellite, weight, mask, scale)
        gradients = self.reduce_gradients(gradients)
        unscale = 1.0 / scale
        norm = self.norm(gradients) * unscale
        finite = ops.isfinite(norm)
        if finite:
            self.optimizer(self.clip(gradients, norm, unscale), self.lr)
        self.loss_scale(finite)
        return loss, components, norm, finite, scale
