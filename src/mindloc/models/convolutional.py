"""ResNet-50 through conv4_x and VGG-16 through pool4: image -> map of stride 16, under torchvision's parameter names.

Batch norms are frozen, see ``FrozenNorm``.

Shapes: B images, I and O input and output channels, C width, H and W rows and columns of the map, N = H * W.

References:
    Deep Residual Learning, arXiv:1512.03385, in torchvision's variant, whose 3x3 convolutions carry the stride; conv4_x
    is torchvision's layer3. Very Deep Convolutional Networks, arXiv:1409.1556, configuration D, without batch norms.
"""

from collections import OrderedDict

import mindspore as ms
from mindspore import nn, ops

from mindloc.config.sections import ModelConfig
from mindloc.models.layers import DTYPES, Form
from mindloc.models.parameters import parameter
from mindloc.models.public_weights import IMAGENET, ImportRule
from mindloc.vocabulary import Precision

RESNET_STEM = 64  # channels
RESNET_STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2))  # blocks, inner channels, stride of the first block
WIDENING = 4  # output channels of a block / its inner channels
VGG_STAGES = (
    (64, 64),
    (128, 128),
    (256, 256, 256),
    (512, 512, 512),
)  # channels of the convolutions before a pooling
NORM_EPS = 1e-5  # torchvision's


def build_resnet50(model: ModelConfig, precision: Precision, form: Form) -> "ResNet50":
    """The backbone ``resnet50``, which has one form and no settings of its own."""
    return ResNet50(precision)


def build_vgg16(model: ModelConfig, precision: Precision, form: Form) -> "Vgg16":
    """The backbone ``vgg16``, which has one form and no settings of its own."""
    return Vgg16(precision)


class ResNet50(nn.Cell):
    """Images (B, 3, height, width), both sides divisible by 16 -> descriptors (B, C), float32: the mean of the map.

    Args:
        precision: of convolutions and maps; parameters, factors of the norms and the result are always float32. On a
            CPU, MindSpore has no products in bf16.
    """

    import_rule = ImportRule(
        unused=r"\.num_batches_tracked$|^layer4\.|^fc\.",
        foreign=r"^layer[1-3]\.\d+\.",  # blocks of a deeper ResNet
        usual_normalization=IMAGENET,
    )

    def __init__(self, precision: Precision = "fp32"):
        super().__init__()
        self.dtype = DTYPES[precision]
        self.stride, self.width = 16, WIDENING * RESNET_STAGES[-1][1]
        self.conv1, self.bn1 = Convolution(3, RESNET_STEM, 7, stride=2), FrozenNorm(RESNET_STEM)
        self.relu = ops.ReLU()
        self.pad = ops.Pad(((0, 0), (0, 0), (1, 1), (1, 1)))
        self.pool = ops.MaxPool(kernel_size=3, strides=2, pad_mode="valid")
        inputs = [RESNET_STEM, *(WIDENING * width for _, width, _ in RESNET_STAGES)]
        self.layer1, self.layer2, self.layer3 = (
            _stage(in_width, *stage) for in_width, stage in zip(inputs, RESNET_STAGES, strict=False)
        )

    @property
    def blocks(self) -> list[nn.Cell]:
        """The residual blocks, in order."""
        return [*self.layer1, *self.layer2, *self.layer3]

    def features(self, images):
        """The map (B, N, C), its positions row by row, float32."""
        x_BCHW = self.relu(self.conv1(ops.cast(images, self.dtype), *self.bn1()))
        x_BCHW = self.pool(self.pad(x_BCHW))  # after the ReLU no value is below the zeros of the padding
        return rows_of(self.layer3(self.layer2(self.layer1(x_BCHW))))

    def construct(self, images):
        return ops.mean(self.features(images), 1)


def _stage(in_width: int, blocks: int, width: int, stride: int) -> nn.SequentialCell:
    first = Bottleneck(in_width, width, stride)
    return nn.SequentialCell([first, *(Bottleneck(WIDENING * width, width, 1) for _ in range(blocks - 1))])


class Bottleneck(nn.Cell):
    """1x1, 3x3 and 1x1 convolution, each with its norm, added to the block's input.

    If the shape changes, ``downsample`` converts the input to the new shape. The last scale starts at zero, so that a
    new block returns its input, and the map does not explode at any depth.
    """

    def __init__(self, in_width: int, width: int, stride: int):
        super().__init__()
        out_width = WIDENING * width
        self.conv1, self.bn1 = Convolution(in_width, width, 1), FrozenNorm(width)
        self.conv2, self.bn2 = Convolution(width, width, 3, stride), FrozenNorm(width)
        self.conv3, self.bn3 = Convolution(width, out_width, 1), FrozenNorm(out_width, scale=0.0)
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


class Convolution(nn.Cell):
    """Map (B, I, H, W) -> (B, O, H/stride, W/stride), padded with zeros, in the precision of the map; odd kernels only.

    The parameters stay float32.
    """

    def __init__(self, in_width: int, out_width: int, kernel: int, stride: int = 1):
        super().__init__()
        self.weight = parameter("weight", out_width, in_width, kernel, kernel, start="he")
        # kernel sizes are pairs, as the ONNX exporter accepts nothing else
        self.convolve = ops.Conv2D(
            out_width, (kernel, kernel), pad_mode="pad", pad=kernel // 2, stride=(stride, stride)
        )
        self.add_bias = ops.BiasAdd()

    def construct(self, x_BIHW, scale_O, shift_O):
        """The convolution times ``scale_O`` plus ``shift_O``.

        The scale is applied to the weights, which are far smaller than the map: this needs no second map, forward or
        backward.
        """
        weight = self.weight * ops.reshape(scale_O, (-1, 1, 1, 1))
        map_BOHW = self.convolve(x_BIHW, ops.cast(weight, x_BIHW.dtype))
        return self.add_bias(map_BOHW, ops.cast(shift_O, x_BIHW.dtype))


class FrozenNorm(nn.Cell):
    """The factor and summand by which a batch norm with stored statistics changes a map: (scale_O, shift_O), float32.

    Mean and variance are never updated from a batch, not even in training. So N ranks compute the same update as one, a
    skipped step changes nothing, and a resumed run is bit-identical. Weight and bias are trained.

    Args:
        scale: initial value of the weight.
    """

    def __init__(self, width: int, scale: float = 1.0):
        super().__init__()
        self.weight = parameter("weight", width, fill=scale)
        self.bias = parameter("bias", width)
        self.running_mean = parameter("running_mean", width)
        self.running_var = parameter("running_var", width, fill=1.0)
        self.running_mean.requires_grad = False
        self.running_var.requires_grad = False

    def construct(self):
        scale_O = self.weight / ops.sqrt(self.running_var + NORM_EPS)
        return scale_O, self.bias - self.running_mean * scale_O


class Vgg16(nn.Cell):
    """Images (B, 3, height, width), both sides divisible by 16 -> descriptors (B, C), float32: the mean of the map.

    Args:
        precision: of convolutions and maps; the parameters and the result are always float32. On a CPU, MindSpore has
            no products in bf16.
    """

    import_rule = ImportRule(unused=r"^features\.(24|26|28)\.|^classifier\.", usual_normalization=IMAGENET)

    def __init__(self, precision: Precision = "fp32"):
        super().__init__()
        self.stride, self.width = 16, VGG_STAGES[-1][-1]
        self.features = VggFeatures(precision)  # a cell, not a method: torchvision's names start with "features."

    @property
    def blocks(self) -> list[nn.Cell]:
        """The layers, in order."""
        return list(self.features)

    def construct(self, images):
        return ops.mean(self.features(images), 1)


class VggFeatures(nn.SequentialCell):
    """Images -> the map (B, N, C), its positions row by row, float32.

    Layers are numbered as in torchvision, which also counts ReLU and pooling.
    """

    def __init__(self, precision: Precision):
        layers, number, in_width = OrderedDict(), 0, 3
        for stage in VGG_STAGES:
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


class VggLayer(nn.Cell):
    """3x3 convolution and ReLU; the last layer of a stage also halves the map by 2x2 max pooling."""

    def __init__(self, in_width: int, out_width: int, pool: bool):
        super().__init__()
        self.weight = parameter("weight", out_width, in_width, 3, 3, start="he")
        self.bias = parameter("bias", out_width)
        self.convolve = ops.Conv2D(out_width, (3, 3), pad_mode="pad", pad=1)  # the ONNX exporter needs a pair
        self.add_bias = ops.BiasAdd()
        self.relu = ops.ReLU()
        self.pool = ops.MaxPool(kernel_size=2, strides=2) if pool else None

    def construct(self, x_BCHW):
        weight, bias = ops.cast(self.weight, x_BCHW.dtype), ops.cast(self.bias, x_BCHW.dtype)
        x_BCHW = self.relu(self.add_bias(self.convolve(x_BCHW, weight), bias))
        return x_BCHW if self.pool is None else self.pool(x_BCHW)


def rows_of(map_BCHW):
    """The positions of a map, row by row: (B, N, C), float32."""
    _, width, rows, columns = map_BCHW.shape
    rows_BNC = ops.transpose(ops.reshape(map_BCHW, (-1, width, rows * columns)), (0, 2, 1))
    return ops.cast(rows_BNC, ms.float32)
