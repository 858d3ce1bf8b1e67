"""The pair of encoders a drone-to-satellite model consists of: pictures in, named descriptors out.

Shapes: B pairs, C width of a descriptor.
"""

import math

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindloc.models.vit_rope import RopeVit

VIEWS = ("drone", "satellite")
DESCRIPTOR = "global"
LOG2_E = 1.0 / math.log(2.0)


class TwoViewEncoder(nn.Cell):
    """Descriptors of both pictures of a pair, and the learned logit scale.

    Args:
        backbones: one for both views, or two: drone, satellite.
        logit_scale: the multiplier that training starts with; its logarithm is what is learned.
    """

    def __init__(self, *backbones: RopeVit, logit_scale: float = 1 / 0.07):
        super().__init__()
        self.shared = len(backbones) == 1
        if self.shared:
            self.backbone = backbones[0]
        else:
            self.drone_backbone, self.satellite_backbone = backbones
        self.log_logit_scale = Parameter(Tensor(np.array([math.log(logit_scale)], np.float32)), name="log_logit_scale")

    def construct(self, drone, satellite):
        """Named outputs: "drone.global" and "satellite.global" (B, C), "logit_scale" (1,), all float32.

        Pictures are (B, 3, H, W), each view with its own H and W. Descriptors have any length; the logit scale is the
        multiplier itself.
        """
        drone_BC, satellite_BC = self._encode(drone, satellite)
        return {
            "drone.global": drone_BC,
            "satellite.global": satellite_BC,
            "logit_scale": ops.pow(2.0, self.log_logit_scale * LOG2_E),  # ops.Exp is 5e-6 off on a CPU
        }

    def _encode(self, drone, satellite):
        if not self.shared:
            return self.drone_backbone(drone), self.satellite_backbone(satellite)
        if drone.shape != satellite.shape:
            return self.backbone(drone), self.backbone(satellite)
        both = self.backbone(ops.concat((drone, satellite)))  # one pass: half the graph to compile
        return both[: drone.shape[0]], both[drone.shape[0] :]

    def recompute_blocks(self) -> None:
        """Keep only the blocks' inputs for the way back and compute the rest again; before the first step."""
        for backbone in dict.fromkeys(self.backbone_of(view) for view in VIEWS):
            for block in backbone.blocks:
                block.recompute()

    def backbone_of(self, view: str) -> RopeVit:
        """The backbone that reads the pictures of a view."""
        if view not in VIEWS:
            raise ValueError(f"no view named {view!r}; there are {', '.join(VIEWS)}")
        return self.backbone if self.shared else getattr(self, f"{view}_backbone")

    def view_encoder(self, view: str) -> "ViewEncoder":
        """The half that encodes one view, on the same parameters: for extraction and export."""
        return ViewEncoder(self.backbone_of(view), view)


class ViewEncoder(nn.Cell):
    """Pictures of one view (B, 3, H, W) -> {"{view}.global": (B, C)}.

    A dict as the result of a whole graph costs a Python call per run and has no Ascend kernel: call this cell from
    another one that takes the tensors out.
    """

    def __init__(self, backbone: RopeVit, view: str):
        super().__init__(auto_prefix=False)  # the parameters keep the names they have in the whole encoder
        self.backbone = backbone
        self.output = f"{view}.{DESCRIPTOR}"

    def construct(self, images):
        return {self.output: self.backbone(images)}
