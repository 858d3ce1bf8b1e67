"""A small backbone's descriptors and gradients: python fused_gradients.py {never,always} OUT.npz."""

import sys

import numpy as np
from mindspore import ParameterTuple, Tensor, nn, ops

from mindloc.models.parameters import initialize
from mindloc.models.vit_rope import RopeVit, VitSize
from mindloc.runtime.device import use_device

FUSION, OUT = sys.argv[1:]


class Gradients(nn.Cell):
    def __init__(self, vit: nn.Cell, weight: Tensor):
        super().__init__(auto_prefix=False)
        self.vit, self.weight = vit, weight
        self.gradient = ops.value_and_grad(self.total, None, ParameterTuple(vit.trainable_params()), has_aux=True)

    def total(self, images):
        rows = self.vit(images)
        return ops.sum(rows * self.weight), rows

    def construct(self, images):
        (_, rows), gradients = self.gradient(images)
        return rows, gradients


device = use_device("CPU", operator_fusion=FUSION)
assert ("fused operators" in device.description) == (FUSION == "always"), device.description
random = np.random.default_rng(0)
images, weight = (Tensor(random.standard_normal(shape).astype(np.float32)) for shape in ((2, 3, 64, 64), (2, 48)))
vit = RopeVit(VitSize(48, 2, 3, reference_grid=4), form="products")
initialize(vit, seed=1)
rows, gradients = Gradients(vit, weight)(images)
np.savez(OUT, rows.asnumpy(), *[gradient.asnumpy() for gradient in gradients])
