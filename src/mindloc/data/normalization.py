"""Pixels as the encoder reads them.

Letters: H height, W width, 3 red green blue.
"""

from collections.abc import Sequence

import numpy as np


class Normalization:
    """(pixel - mean) / std in float32, with the channels first.

    Args:
        mean, std: per channel, of pixels scaled to 0..1.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        self._mean_311 = np.array([255 * m for m in mean], np.float32).reshape(3, 1, 1)
        self._std_311 = np.array([255 * s for s in std], np.float32).reshape(3, 1, 1)

    def write(self, image_HW3: np.ndarray, out_3HW: np.ndarray) -> None:
        """Normalize a uint8 picture into ``out_3HW``, float32, without memory in between."""
        np.copyto(out_3HW, image_HW3.transpose(2, 0, 1))
        np.subtract(out_3HW, self._mean_311, out=out_3HW)
        np.divide(out_3HW, self._std_311, out=out_3HW)
