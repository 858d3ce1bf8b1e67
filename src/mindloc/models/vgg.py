"""VGG-16 through pool4: picture -> map of stride 16, under torchvision's parameter names.

Shapes: B images, C width, H and W positions down and across, N = H * W.

References:
    Very Deep Convolutional Networks, arXiv:1409.1556, configuration D, without batch norms.
"""

from collections import OrderedDict

from mindspore import nn, ops

from mindloc.models.convolution import rows_of
from mindloc.models.layers import parameter
from mindloc.models.precision import DTYPES, Precision

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512))  # widths of the convolutions before each pooling


class VggLayer(nn.Cell):
    """3x3 convolution and ReLU; the last one of a stage halves the map by the maximum over squares of two."""

    def __init__(self, in_width: int, out_width: int, pool: bool):
        super().__init__()
        self.weight = parameter("weight", out_width, in_width, 3, 3)
        self.bias = parameter("bias", out_width)
        self.convolve = ops.Conv2D(out_width, (3, 3), pad_mode="pad", pad=1)  # a pair for the ONNX exporter
        self.add_bias = ops.BiasAdd()
        self.relu = ops.ReLU()
        self.pool = ops.MaxPool(kernel_size=2, strides=2) if pool else None

    def construct(self, x_BCHW):
        weight, bias = ops.cast(self.weight, x_BCHW.dtype), ops.cast(self.bias, x_BCHW.dtype)
        x_BCHW = self.relu(self.add_bias(self.convolve(x_BCHW, weight), bias))
        return x_BCHW if self.pool is None else self.pool(x_BCHW)


class VggFeatures(nn.SequentialCell):
    """Images -> the map (B, N, C) position by position, row by row, float32.

    Its layers have the numbers that they have in torchvision, where ReLU and pooling are counted.
    """

    def __init__(self, precision: Precision):
        layers, number, in_width = OrderedDict(), 0, 3
        for stage in STAGES:
            for i, width in enumerate(stage):
                layers[str(number)] = VggLayer(in_width, width, pool=i == len(stage) - 1)
                number, in_width = number + 2, width
            number += 1
        super().__init__(layers)
        self.dtype = DTYPES[precision]

    def construct(self, images):
        x_BCHW = ops.cast(images, self.dtype)
        for layer in self.cell_list:
            x_BCHW = layer(x_BCHW)
        return rows_of(x_BCHW)


class Vgg16(nn.Cell):
    """Images (B, 3, height, width), both sides divisible by 16 -> descriptors (B, C), float32: the mean of the map.

    Args:
        precision: of convolutions and maps; the parameters and the result are float32 always. bf16 has no products on a
            CPU.
    """

    def __init__(self, precision: Precision = "fp32"):
        super().__init__()
        self.stride, self.width = 16, STAGES[-1][-1]
        self.features = VggFeatures(precision)  # a cell that is called like a method: torchvision's names begin so

    @property
    def blocks(self) -> list[nn.Cell]:
        """The layers in their order."""
        return list(self.features)

    def construct(self, images):
        return ops.mean(self.features(images), 1)
