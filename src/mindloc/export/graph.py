"""What an exported file computes: a view encoder, with the first and the last step inside the graph on request."""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindloc.inference.plain_outputs import PlainOutputs
from mindloc.models.layers import unit_rows


class ExportGraph(nn.Cell):
    """Pictures -> descriptors (B, D), a tuple in the order of ``outputs``; of one output a plain tensor.

    Args:
        view_encoder: (B, 3, H, W) float32, normalized -> {output: (B, D)}.
        pixels: (mean, std) of RGB scaled to 0..1: the graph then takes uint8 (B, H, W, 3), as cameras and decoders
            give them, and normalizes itself. None: normalized pictures come in.
        unit_length: of each output, whether to divide it by its Euclidean norm.
    """

    def __init__(
        self,
        view_encoder: nn.Cell,
        outputs: tuple[str, ...],
        pixels: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
        unit_length: tuple[bool, ...] = (),
    ):
        super().__init__(auto_prefix=False)  # parameters keep their names
        self.encoder = PlainOutputs(view_encoder, *outputs)
        self.alone = len(outputs) == 1
        self.takes_pixels, self.unit_length = pixels is not None, unit_length or (False,) * len(outputs)
        mean, std = np.array(pixels or ((0,) * 3, (1,) * 3), np.float64) * 255.0
        self.shift_3 = Tensor(mean.astype(np.float32))
        self.scale_3 = Tensor((1.0 / std).astype(np.float32))

    def construct(self, images):
        if self.takes_pixels:
            normal_BHW3 = (ops.cast(images, ms.float32) - self.shift_3) * self.scale_3
            images = ops.transpose(normal_BHW3, (0, 3, 1, 2))
        described, outputs = self.encoder(images), ()
        for i, divided in enumerate(self.unit_length):
            outputs += (unit_rows(described[i]) if divided else described[i],)
        return outputs[0] if self.alone else outputs
