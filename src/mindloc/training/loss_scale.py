"""Loss scaling for fp16: large enough that small gradients do not vanish, halved when one overflows."""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops


class LossScale(nn.Cell):
    """The factor on the loss, with its state as parameters, so that a resumed run goes on with it.

    Args:
        initial: first scale; 1 with ``dynamic=False`` means no scaling.
        window: steps without overflow after which the scale doubles.
        dynamic: False keeps the scale as it is.
    """

    def __init__(self, initial: float = 1.0, window: int = 2000, dynamic: bool = False):
        super().__init__(auto_prefix=False)
        self.dynamic, self.window = dynamic, window
        self.scale = Parameter(Tensor(np.array(initial, np.float32)), name="loss_scale", requires_grad=False)
        self.good_steps = Parameter(Tensor(np.array(0, np.int32)), name="good_steps", requires_grad=False)

    def construct(self, finite):
        """Account for one step: ``finite`` says whether all its gradients were."""
        if self.dynamic:
            good_steps = ops.select(finite, self.good_steps + 1, ops.zeros_like(self.good_steps))
            full = good_steps >= self.window
            grown = ops.select(full, self.scale * 2.0, self.scale * 1.0)
            halved = ops.maximum(self.scale * 0.5, Tensor(1.0, ms.float32))
            ops.assign(self.scale, ops.select(finite, grown, halved))
            ops.assign(self.good_steps, ops.select(full, ops.zeros_like(good_steps), good_steps))
        return finite
