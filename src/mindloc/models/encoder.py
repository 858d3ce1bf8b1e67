"""The pair of encoders a drone-to-satellite model consists of: pictures in, named descriptors out.

Shapes: B pairs, D width of a descriptor.
"""

import math

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

VIEWS = ("drone", "satellite")
GLOBAL = "global"  # the one descriptor of an encoder without a head
LOG2_E = 1.0 / math.log(2.0)


class TwoViewEncoder(nn.Cell):
    """Descriptors of both pictures of a pair, and the learned logit scale of each descriptor.

    Args:
        backbones: one for both views, or two: drone, satellite. A backbone turns images into one descriptor
            (``construct``) or into rows of a map (``features``), and states its ``stride`` and ``blocks``.
        heads: as many, each of which turns a map into the descriptors that it names in ``descriptors``; None: the
            backbone's own descriptor is all there is.
        logit_scale: the multiplier that training starts with; its logarithm is what is learned.
    """

    def __init__(self, *backbones: nn.Cell, heads: tuple[nn.Cell, ...] | None = None, logit_scale: float = 1 / 0.07):
        super().__init__()
        self.shared = len(backbones) == 1
        first, *second = heads or [None] * len(backbones)
        if self.shared:
            self.backbone, self.head = backbones[0], first
        else:
            self.drone_backbone, self.satellite_backbone = backbones
            self.drone_head, self.satellite_head = first, *second
        self.descriptors = (GLOBAL,) if first is None else first.descriptors
        scales = np.full(len(self.compared), math.log(logit_scale), np.float32)
        self.log_logit_scale = Parameter(Tensor(scales), name="log_logit_scale")

    @property
    def compared(self) -> tuple[str, ...]:
        """The descriptors that two pictures are compared by; each has a logit scale."""
        return tuple(name for name in self.descriptors if name != "centroids")

    @property
    def compared_outputs(self) -> tuple[str, ...]:
        """``compared`` by the names under which ``construct`` gives them, view by view."""
        return tuple(f"{view}.{name}" for name in self.compared for view in VIEWS)

    def construct(self, drone, satellite):
        """Named outputs: "{view}.{descriptor}" (B, D) for both views, and "logit_scale", all float32.

        Pictures are (B, 3, H, W), each view with its own H and W. A global descriptor has any length, Omega and Phi
        have length 1; the logit scales, one for each of ``compared``, are the multipliers themselves.
        """
        of_drone, of_satellite = self._describe_both(drone, satellite)
        outputs = {"logit_scale": ops.pow(2.0, self.log_logit_scale * LOG2_E)}  # ops.Exp is 5e-6 off on a CPU
        for i, name in enumerate(self.descriptors):
            outputs["drone." + name] = of_drone[i]
            outputs["satellite." + name] = of_satellite[i]
        return outputs

    def _describe_both(self, drone, satellite):
        if not self.shared:
            return (
                describe(self.drone_backbone, self.drone_head, drone),
                describe(self.satellite_backbone, self.satellite_head, satellite),
            )
        if drone.shape != satellite.shape:
            return describe(self.backbone, self.head, drone), describe(self.backbone, self.head, satellite)
        count = drone.shape[0]  # one pass: half the graph to compile
        both = describe(self.backbone, self.head, ops.concat((drone, satellite)))
        return tuple([rows[:count] for rows in both]), tuple([rows[count:] for rows in both])

    def recompute_blocks(self) -> None:
        """Keep only the blocks' inputs for the way back and compute the rest again; before the first step."""
        for backbone in dict.fromkeys(self.backbone_of(view) for view in VIEWS):
            for block in backbone.blocks:
                block.recompute()

    def backbone_of(self, view: str) -> nn.Cell:
        """The backbone that reads the pictures of a view."""
        return self._of(view, "backbone")

    def head_of(self, view: str) -> nn.Cell | None:
        """The head that follows it; None where there is none."""
        return self._of(view, "head")

    def view_encoder(self, view: str) -> "ViewEncoder":
        """The half that encodes one view, on the same parameters: for extraction and export."""
        return ViewEncoder(self.backbone_of(view), self.head_of(view), view)

    def _of(self, view: str, part: str) -> nn.Cell | None:
        if view not in VIEWS:
            raise ValueError(f"no view named {view!r}; there are {', '.join(VIEWS)}")
        return getattr(self, part if self.shared else f"{view}_{part}")


class ViewEncoder(nn.Cell):
    """Pictures of one view (B, 3, H, W) -> {"{view}.{descriptor}": (B, D)}.

    A dict as the result of a whole graph costs a Python call per run and has no Ascend kernel: call this cell from
    another one that takes the tensors out.
    """

    def __init__(self, backbone: nn.Cell, head: nn.Cell | None, view: str):
        super().__init__(auto_prefix=False)  # the parameters keep the names they have in the whole encoder
        self.backbone, self.head = backbone, head
        self.descriptors = (GLOBAL,) if head is None else head.descriptors
        self.outputs = tuple(f"{view}.{name}" for name in self.descriptors)

    def construct(self, images):
        described = describe(self.backbone, self.head, images)
        outputs = {}
        for i, name in enumerate(self.outputs):
            outputs[name] = described[i]
        return outputs


def describe(backbone, head, images):
    """All descriptors of some pictures, a tuple."""
    if head is None:
        return (backbone(images),)
    rows, columns = images.shape[2] // backbone.stride, images.shape[3] // backbone.stride
    return head(backbone.features(images), rows, columns)
