"""Convolutions and frozen batch norms under torchvision's parameter names.

Shapes: B images, I and O channels in and out, C channels, H and W positions down and across, N = H * W.
"""

import mindspore as ms
from mindspore import nn, ops

from mindloc.models.layers import parameter

NORM_EPS = 1e-5  # torchvision's


class Convolution(nn.Cell):
    """Map (B, I, H, W) -> (B, O, H/stride, W/stride), edges filled with zeros; odd kernel; in the precision of the map.

    The parameters stay float32.
    """

    def __init__(self, in_width: int, out_width: int, kernel: int, stride: int = 1):
        super().__init__()
        self.weight = parameter("weight", out_width, in_width, kernel, kernel)
        # as pairs: the ONNX exporter takes no other kernel sizes
        self.convolve = ops.Conv2D(
            out_width, (kernel, kernel), pad_mode="pad", pad=kernel // 2, stride=(stride, stride)
        )
        self.add_bias = ops.BiasAdd()

    def construct(self, x_BIHW, gain_O, shift_O):
        """The convolution, times gain and plus shift.

        The gain multiplies the weights, which are far smaller than the map: no second map, forward or backward.
        """
        weight = self.weight * ops.reshape(gain_O, (-1, 1, 1, 1))
        map_BOHW = self.convolve(x_BIHW, ops.cast(weight, x_BIHW.dtype))
        return self.add_bias(map_BOHW, ops.cast(shift_O, x_BIHW.dtype))


class FrozenNorm(nn.Cell):
    """What a batch norm with its stored statistics multiplies a map by, and what it adds: (gain_O, shift_O), float32.

    Mean and variance never follow the batch, in training neither: N ranks learn what one learns, a skipped step
    changes nothing, and a resumed run goes on to the same bits. Weight and bias are trained.
    """

    def __init__(self, width: int):
        super().__init__()
        self.weight = parameter("weight", width, fill=1.0)
        self.bias = parameter("bias", width)
        self.running_mean = parameter("running_mean", width)
        self.running_var = parameter("running_var", width, fill=1.0)
        self.running_mean.requires_grad = False
        self.running_var.requires_grad = False

    def construct(self):
        gain_O = self.weight / ops.sqrt(self.running_var + NORM_EPS)
        return gain_O, self.bias - self.running_mean * gain_O


def rows_of(map_BCHW):
    """The positions of a map, row by row: (B, N, C), float32."""
    _, width, rows, columns = map_BCHW.shape
    rows_BNC = ops.transpose(ops.reshape(map_BCHW, (-1, width, rows * columns)), (0, 2, 1))
    return ops.cast(rows_BNC, ms.float32)
