"""From a picture to one row per patch, under timm's parameter names.

Shapes: B images, H and W patches down and across, C width.
"""

from mindspore import nn, ops

from mindloc.models.layers import AddBias, parameter


class ProjectionWeights(nn.Cell):
    """Holds the patch projection in timm's convolution shape (C, 3, patch, patch)."""

    def __init__(self, width: int, patch_px: int):
        super().__init__()
        self.weight = parameter("weight", width, 3, patch_px, patch_px)
        self.bias = parameter("bias", width)


class PatchEmbed(nn.Cell):
    """Images (B, 3, H*patch, W*patch) -> rows (B*H*W, C): the strided convolution written as one product.

    nn.Conv2d does the same two orders of magnitude slower on CPUs from MindSpore 2.9 on.
    """

    def __init__(self, width: int, patch_px: int):
        super().__init__()
        self.width, self.patch_px = width, patch_px
        self.proj = ProjectionWeights(width, patch_px)
        self.matmul = ops.MatMul(transpose_b=True)
        self.add_bias = AddBias()

    def construct(self, images, dtype):
        side = self.patch_px
        rows, columns = images.shape[2] // side, images.shape[3] // side
        patches = ops.reshape(images, (-1, 3, rows, side, columns, side))
        patches = ops.reshape(ops.transpose(patches, (0, 2, 4, 1, 3, 5)), (-1, 3 * side * side))
        weight = ops.cast(ops.reshape(self.proj.weight, (self.width, -1)), dtype)
        return self.add_bias(self.matmul(ops.cast(patches, dtype), weight), self.proj.bias)
