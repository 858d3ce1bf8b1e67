"""The parameters of VGG-16: torchvision's names and the published sizes. test_conv_backbones.py tests its result."""

import mindspore as ms
import numpy as np
from conv_weights import with_reference_weights
from mindspore import Tensor, nn, ops

from mindloc.models.convolutional import Vgg16

CONVOLUTIONS = (
    0,
    2,
    5,
    7,
    10,
    12,
    14,
    17,
    19,
    21,
)  # torchvision's numbers; between them ReLU and, at 4, 9, 16, pooling
WIDTHS = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512)


def test_names_and_shapes_are_torchvisions():
    expected = {}
    for number, inputs, outputs in zip(CONVOLUTIONS, WIDTHS[:-1], WIDTHS[1:], strict=True):
        expected[f"features.{number}.weight"] = (outputs, inputs, 3, 3)
        expected[f"features.{number}.bias"] = (outputs,)
    assert {parameter.name: parameter.shape for parameter in Vgg16().get_parameters()} == expected


def test_blocks_are_the_layers():
    assert [block.weight.shape[0] for block in Vgg16().blocks] == list(WIDTHS[1:])


class Slopes(nn.Cell):
    """Gradients of the sum of the descriptor with respect to all parameters."""

    def __init__(self, backbone):
        super().__init__(auto_prefix=False)
        self.backbone = backbone
        self.gradient = ops.grad(self.total, None, ms.ParameterTuple(backbone.trainable_params()))

    def total(self, images):
        return ops.sum(self.backbone(images))

    def construct(self, images):
        return self.gradient(images)


def test_recomputing_the_blocks_changes_no_gradient():
    ms.set_context(mode=ms.GRAPH_MODE)
    images = Tensor(np.random.RandomState(0).standard_normal((1, 3, 32, 32)).astype(np.float32))
    plain, recomputed = (with_reference_weights(Vgg16()) for _ in range(2))
    for block in recomputed.blocks:
        block.recompute()
    for kept, again in zip(Slopes(plain)(images), Slopes(recomputed)(images), strict=True):
        np.testing.assert_allclose(again.asnumpy(), kept.asnumpy(), rtol=0, atol=1e-5 * np.abs(kept.asnumpy()).max())
