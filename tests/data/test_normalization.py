"""Normalized pixels against their definition."""

import numpy as np
import pytest

from mindloc.data.images import Normalization


def test_every_channel_has_its_own_mean_and_std():
    # (51 / 255 - .1) / .2 = .5, (102 / 255 - .2) / .4 = .5, (204 / 255 - .3) / .5 = 1
    image = np.full((2, 5, 3), (51, 102, 204), np.uint8)
    out = np.full((3, 2, 5), np.nan, np.float32)
    Normalization((0.1, 0.2, 0.3), (0.2, 0.4, 0.5)).write(image, out)
    np.testing.assert_allclose(out, np.broadcast_to(np.array([0.5, 0.5, 1.0]).reshape(3, 1, 1), (3, 2, 5)), rtol=1e-5)


@pytest.mark.parametrize("shape", [(7, 4, 3), (4, 7, 3)])
def test_pixels_keep_their_place(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    out = np.empty((2, 3, *shape[:2]), np.float32)
    Normalization(mean, std).write(image, out[1])  # one row of a batch
    np.testing.assert_allclose(out[1], ((image / 255 - mean) / std).transpose(2, 0, 1), atol=1e-6)
