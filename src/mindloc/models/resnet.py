"""ResNet-50 through conv4_x (torchvision's layer3): picture -> map of stride 16, under torchvision's parameter names.

Its batch norms are frozen, see ``FrozenNorm``.

Shapes: B images, C width, H and W positions down and across, N = H * W.

References:
    Deep Residual Learning, arXiv:1512.03385; torchvision's variant, whose 3x3 convolutions carry the stride.
"""

from mindspore import nn, ops

from mindloc.models.convolution import Convolution, FrozenNorm, rows_of
from mindloc.models.precision import DTYPES, Precision

STEM_WIDTH = 64
STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2))  # blocks, width inside, stride of the first block
WIDENING = 4  # of a block's output over its inside


class Bottleneck(nn.Cell):
    """1x1, 3x3 and 1x1 convolution, each normed, added to the block's input.

    Where the shape changes, ``downsample`` brings the input into the new one.
    """

    def __init__(self, in_width: int, width: int, stride: int):
        super().__init__()
        out_width = WIDENING * width
        self.conv1, self.bn1 = Convolution(in_width, width, 1), FrozenNorm(width)
        self.conv2, self.bn2 = Convolution(width, width, 3, stride), FrozenNorm(width)
        self.conv3, self.bn3 = Convolution(width, out_width, 1), FrozenNorm(out_width)
        self.relu = ops.ReLU()
        self.downsample = None
        if stride > 1 or in_width != out_width:
            self.downsample = nn.CellList([Convolution(in_width, out_width, 1, stride), FrozenNorm(out_width)])

    def construct(self, x_BCHW):
        inner = self.relu(self.conv1(x_BCHW, *self.bn1()))
        inner = self.relu(self.conv2(inner, *self.bn2()))
        change = self.conv3(inner, *self.bn3())
        if self.downsample is not None:
            x_BCHW = self.downsample[0](x_BCHW, *self.downsample[1]())
        return self.relu(x_BCHW + change)


class ResNet50(nn.Cell):
    """Images (B, 3, height, width), both sides divisible by 16 -> descriptors (B, C), float32: the mean of the map.

    Args:
        precision: of convolutions and maps; parameters, norms' factors and the result are float32 always. bf16 has no
            products on a CPU.
    """

    def __init__(self, precision: Precision = "fp32"):
        super().__init__()
        self.dtype, self.stride, self.width = DTYPES[precision], 16, WIDENING * STAGES[-1][1]
        self.conv1, self.bn1 = Convolution(3, STEM_WIDTH, 7, stride=2), FrozenNorm(STEM_WIDTH)
        self.relu = ops.ReLU()
        self.pad = ops.Pad(((0, 0), (0, 0), (1, 1), (1, 1)))
        self.pool = ops.MaxPool(kernel_size=3, strides=2, pad_mode="valid")
        inputs = [STEM_WIDTH, *(WIDENING * width for _, width, _ in STAGES)]
        self.layer1, self.layer2, self.layer3 = (
            _stage(in_width, *stage) for in_width, stage in zip(inputs, STAGES, strict=False)
        )

    @property
    def blocks(self) -> list[nn.Cell]:
        """The residual blocks in their order."""
        return [*self.layer1, *self.layer2, *self.layer3]

    def features(self, images):
        """The map (B, N, C) position by position, row by row, float32."""
        x_BCHW = self.relu(self.conv1(ops.cast(images, self.dtype), *self.bn1()))
        x_BCHW = self.pool(self.pad(x_BCHW))  # behind the ReLU nothing is below the zeros at the edge
        return rows_of(self.layer3(self.layer2(self.layer1(x_BCHW))))

    def construct(self, images):
        return ops.mean(self.features(images), 1)


def _stage(in_width: int, blocks: int, width: int, stride: int) -> nn.SequentialCell:
    first = Bottleneck(in_width, width, stride)
    return nn.SequentialCell([first, *(Bottleneck(WIDENING * width, width, 1) for _ in range(blocks - 1))])
