"""The parameters and frozen norms of ResNet-50. The result of the whole network is tested in test_conv_backbones.py."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindloc.models.convolutional import NORM_EPS, Bottleneck, Convolution, FrozenNorm, ResNet50
from mindloc.models.parameters import initialize


@pytest.fixture(scope="module", autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


def torchvision_shapes():
    """Names and shapes of torchvision's resnet50 through layer3, written from its definition."""
    shapes = {}

    def add(convolution, norm, outputs, inputs, kernel):
        shapes[f"{convolution}.weight"] = (outputs, inputs, kernel, kernel)
        shapes.update({f"{norm}.{part}": (outputs,) for part in ("weight", "bias", "running_mean", "running_var")})

    add("conv1", "bn1", 64, 3, 7)
    inputs = 64
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256)), 1):
        for block in range(blocks):
            stem = f"layer{stage}.{block}"
            add(f"{stem}.conv1", f"{stem}.bn1", width, inputs, 1)
            add(f"{stem}.conv2", f"{stem}.bn2", width, width, 3)
            add(f"{stem}.conv3", f"{stem}.bn3", 4 * width, width, 1)
            if block == 0:
                add(f"{stem}.downsample.0", f"{stem}.downsample.1", 4 * width, inputs, 1)
            inputs = 4 * width
    return shapes


def test_names_and_shapes_are_torchvisions():
    shapes = {parameter.name: parameter.shape for parameter in ResNet50().get_parameters()}
    assert shapes == torchvision_shapes()


def test_there_are_thirteen_residual_blocks():
    assert [type(block) for block in ResNet50().blocks] == [Bottleneck] * (3 + 4 + 6)


class Normed(nn.Cell):
    """Convolution and norm as the backbone computes them: the norm is part of the convolution."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = Convolution(3, 5, 3, stride=2), FrozenNorm(5)
        for i, parameter in enumerate(self.get_parameters()):
            z = np.random.RandomState(i).standard_normal(parameter.shape).astype(np.float32)
            parameter.set_data(Tensor(np.abs(z) + 0.5 if parameter.name.endswith("var") else z))

    def construct(self, x_BIHW):
        return self.conv(x_BIHW, *self.bn())


class Definition(nn.Cell):
    """Convolution and norm by definition, with the same parameters: convolve, subtract the mean, divide, scale, add."""

    def __init__(self, normed):
        super().__init__(auto_prefix=False)
        self.conv, self.bn, self.convolve = normed.conv, normed.bn, normed.conv.convolve

    def construct(self, x_BIHW):
        map_BOHW = self.convolve(x_BIHW, self.conv.weight)
        mean, var = self.spread(self.bn.running_mean), self.spread(self.bn.running_var)
        normal = (map_BOHW - mean) / ops.sqrt(var + NORM_EPS)
        return normal * self.spread(self.bn.weight) + self.spread(self.bn.bias)

    def spread(self, values_O):
        return ops.reshape(values_O, (1, -1, 1, 1))


class Weighted(nn.Cell):
    """A weighted sum of the map, with a different weight for every entry."""

    def __init__(self, cell, shares):
        super().__init__(auto_prefix=False)
        self.cell, self.shares = cell, Tensor(shares)

    def construct(self, x_BIHW):
        return ops.sum(self.cell(x_BIHW) * self.shares)


def test_a_norm_within_the_convolution_equals_the_norm_after_it_forward_and_backward():
    normed = Normed()
    images = Tensor(np.random.RandomState(7).standard_normal((2, 3, 8, 6)).astype(np.float32))
    shares = np.random.RandomState(8).standard_normal((2, 5, 4, 3)).astype(np.float32)
    parameters = ms.ParameterTuple(normed.trainable_params())
    assert [p.name for p in parameters] == ["conv.weight", "bn.weight", "bn.bias"]
    results = []
    for cell in (normed, Definition(normed)):
        gradient = ops.value_and_grad(Weighted(cell, shares), 0, parameters)
        value, (of_images, of_parameters) = gradient(images)
        results.append([cell(images), value, of_images, *of_parameters])
    for ours, defined in zip(*results, strict=True):
        scale = np.abs(defined.asnumpy()).max()
        np.testing.assert_allclose(ours.asnumpy(), defined.asnumpy(), rtol=0, atol=1e-5 * scale)


def test_a_new_residual_block_returns_its_input():
    block = Bottleneck(64, 16, stride=1)
    network = nn.SequentialCell([block])
    network.update_parameters_name("layer1.")
    initialize(network, seed=0)
    x_BCHW = np.abs(np.random.RandomState(0).standard_normal((1, 64, 4, 4))).astype(np.float32)  # as after a ReLU
    np.testing.assert_array_equal(network(Tensor(x_BCHW)).asnumpy(), x_BCHW)
    assert block.conv3.weight.asnumpy().any() and block.bn2.weight.asnumpy().all()  # only the last scale is zero
