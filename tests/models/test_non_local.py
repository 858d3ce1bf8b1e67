"""The non-local block equals naive loops, is the identity at first, and passes gradients to all projections."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindloc.models.parameters import initialize
from mindloc.models.two_stage import NonLocalBlock

ROWS, COLUMNS, CHANNELS = 4, 6, 8


@pytest.fixture(scope="module", autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


class OnGrid(nn.Cell):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def construct(self, x_BNC):
        return self.block(x_BNC, ROWS, COLUMNS)


def maps(count=2, seed=0):
    return np.random.RandomState(seed).standard_normal((count, ROWS * COLUMNS, CHANNELS)).astype(np.float32)


def random_block(form, pool):
    block = NonLocalBlock(CHANNELS, form, pool)
    random = np.random.RandomState(1)
    for parameter in block.get_parameters():
        parameter.set_data(Tensor((0.5 * random.standard_normal(parameter.shape)).astype(np.float32)))
    return block


def naive(x_BNC, block, form, pool):
    """The non-local block by its formula, position by position, in float64."""

    def project(name, x):
        linear = getattr(block, name)
        return linear.weight.asnumpy().astype(np.float64) @ x + linear.bias.asnumpy()

    result = np.zeros(x_BNC.shape)
    for b, x_NC in enumerate(x_BNC.astype(np.float64)):
        keys, values = (np.array([project(name, x) for x in x_NC]) for name in ("phi", "g"))
        squares = [
            [(r + dr) * COLUMNS + c + dc for dr in range(pool) for dc in range(pool)]
            for r in range(0, ROWS, pool)
            for c in range(0, COLUMNS, pool)
        ]
        keys, values = (np.array([rows[square].max(0) for square in squares]) for rows in (keys, values))
        for i, x in enumerate(x_NC):
            likeness = keys @ project("theta", x)
            if form == "dot_product":
                weight = likeness / len(keys)
            else:
                weight = np.exp(likeness - likeness.max()) / np.exp(likeness - likeness.max()).sum()
            result[b, i] = x + project("last", weight @ values)
    return result


@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("form", ["dot_product", "embedded_gaussian"])
def test_naive_definition(form, pool):
    block = random_block(form, pool)
    got = OnGrid(block)(Tensor(maps())).asnumpy()
    expected = naive(maps(), block, form, pool)
    assert np.abs(expected - maps()).max() > 0.5  # the block does change the map
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize("form", ["dot_product", "embedded_gaussian"])
def test_a_new_block_is_the_identity(form):
    block = random_block(form, 1)
    for name, parameter in dict(NonLocalBlock(CHANNELS, form).parameters_and_names()).items():
        if name.startswith("last."):
            block.parameters_dict()[name].set_data(parameter)
    np.testing.assert_array_equal(OnGrid(block)(Tensor(maps())).asnumpy(), maps())


@pytest.mark.parametrize("form", ["dot_product", "embedded_gaussian"])
def test_gradients_reach_all_projections_within_three_steps(form):
    """In the first step only the last projection has a gradient; after its update the others have one too."""
    block = NonLocalBlock(CHANNELS, form)
    initialize(block, seed=1)
    cell, target = OnGrid(block), Tensor(maps(seed=5))
    parameters = ms.ParameterTuple(list(block.get_parameters()))

    def loss(x):
        return ops.mean((cell(x) - target) ** 2)

    step = ops.value_and_grad(loss, None, parameters)
    reached = set()
    for count in range(3):
        gradients = step(Tensor(maps()))[1]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if np.abs(gradient.asnumpy()).max() > 0:
                reached.add(parameter.name)
            ops.assign_sub(parameter, 0.1 * gradient)
        if count == 0:
            assert reached == {"block.last.weight", "block.last.bias"}
    weights = {f"block.{name}.weight" for name in ("theta", "phi", "g", "last")}
    assert weights <= reached
