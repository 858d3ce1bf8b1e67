"""What an exported file computes: a view encoder, with the first and the last step inside the graph on request."""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

_SHORTEST = 1e-12  # a descriptor of zeros stays one


class ExportGraph(nn.Cell):
    """Pictures -> descriptors (B, D) as one plain tensor.

    Args:
        view_encoder: (B, 3, H, W) float32, normalized -> {output: (B, D)}.
        pixels: (mean, std) of RGB scaled to 0..1: the graph then takes uint8 (B, H, W, 3), as cameras and decoders
            give them, and normalizes itself. None: normalized pictures come in.
        unit_length: divide each descriptor by its Euclidean norm.
    """

    def __init__(
        self,
        view_encoder: nn.Cell,
        output: str,
        pixels: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
        unit_length: bool = False,
    ):
        super().__init__(auto_prefix=False)  # parameters keep their names
        self.view_encoder, self.output = view_encoder, output
        self.takes_pixels, self.unit_length = pixels is not None, unit_length
        mean, std = np.array(pixels or ((0,) * 3, (1,) * 3), np.float64) * 255.0
        self.shift_3 = Tensor(mean.astype(np.float32))
        self.scale_3 = Tensor((1.0 / std).astype(np.float32))
        self.length = ops.ReduceSum(keep_dims=True)

    def construct(self, images):
        if self.takes_pixels:
            normal_BHW3 = (ops.cast(images, ms.float32) - self.shift_3) * self.scale_3
            images = ops.transpose(normal_BHW3, (0, 3, 1, 2))
        descriptor_BD = self.view_encoder(images)[self.output]
        if self.unit_length:
            length_B1 = ops.sqrt(self.length(descriptor_BD * descriptor_BD, 1))
            descriptor_BD = descriptor_BD / ops.maximum(length_B1, _SHORTEST)
        return descriptor_BD
