"""Clipping with as many gradients as the largest model has."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindloc.training.step import ClipGradients


@pytest.mark.parametrize("clip", ["value", "norm", "none"])
@pytest.mark.parametrize("scaled", [False, True])
def test_two_hundred_gradients_are_clipped_in_one_graph(clip, scaled):
    # a loop would exceed MindSpore's call depth of 1000: 6 for each of the 174 of `base` in fp16
    ms.set_context(mode=ms.GRAPH_MODE)
    gradients = tuple(Tensor([2.0 * i, -2.0 * i], ms.float32) for i in range(200))
    clipped = ClipGradients(clip, 10.0, scaled)(gradients, Tensor(40.0, ms.float32), Tensor(0.5, ms.float32))
    # unscaling by 0.5 makes them +-i; a norm of 40 is scaled to 10; value clips at 10
    factor = (0.5 if scaled or clip == "norm" else 1.0) * (0.25 if clip == "norm" else 1.0)
    for i, gradient in enumerate(clipped):
        expected = np.array([2.0 * i, -2.0 * i]) * factor
        expected = expected.clip(-10, 10) if clip == "value" else expected
        np.testing.assert_allclose(gradient.asnumpy(), expected, rtol=1e-6)
