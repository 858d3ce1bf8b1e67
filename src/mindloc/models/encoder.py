"""The encoder of image pairs: one backbone for both sides or one per side, then heads; its outputs are descriptors.

Shapes: B pairs, H and W height and width of a side's images, N = rows * columns positions of a map, C channels of it, D
width of a descriptor.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindloc.models.layers import precise_exp
from mindloc.models.public_weights import ImportRule
from mindloc.vocabulary import GLOBAL, SIDES, SideName


class Backbone(Protocol):
    """The interface of a backbone, a Cell: images (B, 3, H, W) -> their descriptor (B, C), float32."""

    width: int  # C
    stride: int  # pixels per position of the map, down and across
    blocks: list[nn.Cell]  # may be computed again in the backward pass, each from its inputs
    import_rule: ImportRule  # how its public weights are read

    def features(self, images: Tensor) -> Tensor:
        """The map (B, N, C), its positions row by row, float32."""
        ...


class Head(Protocol):
    """The interface of a head, a Cell: (map (B, N, C), rows, columns) -> its descriptors, a tuple."""

    descriptors: tuple[str, ...]  # their names


class PairEncoder(nn.Cell):
    """Descriptors of both images of a pair, and the learned logit scale of each descriptor.

    Args:
        backbones: one for both sides, or two: query, reference.
        heads: one per backbone; None, or a None per backbone: the only descriptor is the backbone's own.
        compared: the descriptors that images are compared by, in the order of their losses; None: all.
        logit_scale: initial value of the multiplier; the learned parameter is its logarithm.
    """

    def __init__(
        self,
        *backbones: nn.Cell,
        heads: Sequence[nn.Cell | None] | None = None,
        compared: Sequence[str] | None = None,
        logit_scale: float = 1 / 0.07,
    ):
        super().__init__()
        self.shared = len(backbones) == 1
        first, *second = heads or [None] * len(backbones)
        if self.shared:
            self.backbone, self.head = backbones[0], first
        else:
            self.query_backbone, self.reference_backbone = backbones
            self.query_head, self.reference_head = first, *second
        self.descriptors = (GLOBAL,) if first is None else first.descriptors
        self.compared = self.descriptors if compared is None else tuple(compared)  # each of them has a logit scale
        scales = np.full(len(self.compared), math.log(logit_scale), np.float32)
        self.log_logit_scale = Parameter(Tensor(scales), name="log_logit_scale")

    @property
    def compared_outputs(self) -> tuple[str, ...]:
        """The compared descriptors as named by ``construct``: of each, first the query's, then the reference's."""
        return tuple(f"{side}.{name}" for name in self.compared for side in SIDES)

    def construct(self, query, reference):
        """Named outputs: "{side}.{descriptor}" (B, D) for both sides, and "logit_scale", all float32.

        Images are (B, 3, H, W), each side with its own H and W. A global descriptor has any length, Omega and Phi
        have length 1; the logit scales, one for each of ``compared``, are the multipliers themselves.
        """
        of_query, of_reference = self._describe_both(query, reference)
        outputs = {"logit_scale": precise_exp(self.log_logit_scale)}
        for i, name in enumerate(self.descriptors):
            outputs["query." + name] = of_query[i]
            outputs["reference." + name] = of_reference[i]
        return outputs

    def _describe_both(self, query, reference):
        if not self.shared:
            return (
                describe(self.query_backbone, self.query_head, query),
                describe(self.reference_backbone, self.reference_head, reference),
            )
        if query.shape != reference.shape:
            return describe(self.backbone, self.head, query), describe(self.backbone, self.head, reference)
        count = query.shape[0]  # one pass: half the graph to compile
        both = describe(self.backbone, self.head, ops.concat((query, reference)))
        return tuple([rows[:count] for rows in both]), tuple([rows[count:] for rows in both])

    def recompute_blocks(self) -> None:
        """Save memory: keep only the inputs of the blocks for the backward pass. Call it before the first step."""
        for backbone in dict.fromkeys(self.backbone_of(side) for side in SIDES):
            for block in backbone.blocks:
                block.recompute()

    def backbone_of(self, side: SideName) -> nn.Cell:
        """The backbone that reads a side's images."""
        return self._of(side, "backbone")

    def head_of(self, side: SideName) -> nn.Cell | None:
        """The head after a side's backbone; None if the encoder has no heads."""
        return self._of(side, "head")

    def side_encoder(self, side: SideName) -> "SideEncoder":
        """The part that encodes one side, which shares this encoder's parameters; for extraction and export."""
        return SideEncoder(self.backbone_of(side), self.head_of(side), side)

    def _of(self, side: SideName, part: str) -> nn.Cell | None:
        if side not in SIDES:
            raise ValueError(f"side {side!r} does not exist; expected one of {', '.join(SIDES)}")
        return getattr(self, part if self.shared else f"{side}_{part}")


class SideEncoder(nn.Cell):
    """Images of one side (B, 3, H, W) -> {"{side}.{descriptor}": (B, D)}; ``outputs`` are the names in order.

    A dict as the result of a whole graph costs a Python call per run and has no Ascend kernel: ``PlainOutputs``
    converts it to a tuple.
    """

    def __init__(self, backbone: nn.Cell, head: nn.Cell | None, side: SideName):
        super().__init__(auto_prefix=False)  # the parameters keep the names they have in the whole encoder
        self.backbone, self.head = backbone, head
        self.descriptors = (GLOBAL,) if head is None else head.descriptors
        self.outputs = tuple(f"{side}.{name}" for name in self.descriptors)

    def construct(self, images):
        described = describe(self.backbone, self.head, images)
        outputs = {}
        for i, name in enumerate(self.outputs):
            outputs[name] = described[i]
        return outputs


class PlainOutputs(nn.Cell):
    """Images (B, 3, H, W) -> a tuple of the outputs ``names``, in that order.

    A dict as the output of a whole graph makes MindSpore 2.8 compile for minutes; inside a graph it costs nothing. A
    saved graph would not keep the names either.
    """

    def __init__(self, side_encoder: nn.Cell, *names: str):
        super().__init__(auto_prefix=False)  # parameters keep their names
        self.side_encoder = side_encoder
        self.names = names

    def construct(self, images):
        outputs = self.side_encoder(images)
        return tuple([outputs[name] for name in self.names])


def describe(backbone, head, images):
    """All descriptors of the images, as a tuple."""
    if head is None:
        return (backbone(images),)
    rows, columns = images.shape[2] // backbone.stride, images.shape[3] // backbone.stride
    return head(backbone.features(images), rows, columns)
