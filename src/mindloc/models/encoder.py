"""The pair of encoders a drone-to-satellite model consists of: pictures in, named descriptors out.

Shapes: B pairs, D width of a descriptor.

The values a backbone's parameters start from: a function of (seed, name, shape) and of nothing else.

A view encoder whose named outputs leave the graph as a plain tuple.

A dictionary as the output of a whole graph sends MindSpore 2.8's compiler into minutes of work; inside a graph
it costs nothing. A saved graph knows no names either, so export goes through here too.
"""

import math
import re
import zlib

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindloc.vocabulary import GLOBAL, SIDES

TOKENS = ("reg_token", "cls_token", "pos_embed")  # added to what the patches say; timm's deviation for them
TOKEN_STD = 0.02
CONVOLUTIONS = re.compile(
    r"(^|\.)(conv\d|downsample\.0|features\.\d+)\.weight$"
)  # of models/convolutional.py and models/convolutional.py
LAST_GAIN = re.compile(r"^layer\d\.\d+\.bn3\.weight$")


def initial_value(name: str, shape: tuple[int, ...], seed: int, layer_scale: float = 0.1) -> np.ndarray:
    """Start of the parameter `name` of a backbone, float32.

    Weights are normal, cut at two deviations, with variance 2 / (inputs + outputs) (Glorot); timm's fixed deviation of
    .02 is that of width 768 to within a factor of two and far too small for narrow models. Tokens and positions that
    are learned keep timm's. Gains are 1, biases 0, LayerScale is `layer_scale`.

    Convolutions with ReLUs behind them are normal with variance 2 / inputs (He), which keeps the mean square of a map
    from layer to layer. Their norms' stored statistics are mean 0 and variance 1, which stay; the last gain of a
    residual block is 0, so that a fresh block hands its input on and no depth can blow the map up.
    """
    last = name.rsplit(".", 1)[-1]
    if last == "running_var":
        return np.ones(shape, np.float32)
    if LAST_GAIN.search(name):
        return np.zeros(shape, np.float32)
    if last.startswith("gamma"):
        return np.full(shape, layer_scale, np.float32)
    if len(shape) == 1:
        return np.full(shape, 1.0 if last == "weight" else 0.0, np.float32)
    random = np.random.RandomState((zlib.crc32(name.encode()) ^ (seed * 2654435761)) & 0xFFFFFFFF)
    if CONVOLUTIONS.search(name):
        return (np.sqrt(2.0 / np.prod(shape[1:])) * random.standard_normal(shape)).astype(np.float32)
    std = TOKEN_STD if last in TOKENS else glorot_std(shape)
    return (std * truncated_normal(random, shape)).astype(np.float32)


def glorot_std(shape: tuple[int, ...]) -> float:
    """sqrt(2 / (inputs + outputs)); the fused qkv is three square matrices."""
    outputs, inputs = shape[0], int(np.prod(shape[1:]))
    return float(np.sqrt(2.0 / (inputs + (inputs if outputs == 3 * inputs else outputs))))


def truncated_normal(random: np.random.RandomState, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal with everything beyond two deviations drawn again."""
    z = random.standard_normal(shape)
    while (far := np.abs(z) > 2).any():
        z[far] = random.standard_normal(int(far.sum()))
    return z


def initialize(backbone: nn.Cell, seed: int, layer_scale: float = 0.1) -> None:
    """Gives every parameter its start. Names count from the backbone, so two encoders of one seed start alike."""
    for name, parameter in names_within(backbone):
        parameter.set_data(Tensor(initial_value(name, parameter.shape, seed, layer_scale)))


def names_within(backbone: nn.Cell) -> list[tuple[str, Parameter]]:
    """(timm's name, parameter) of a backbone, alone or built into an encoder as `[{view}_]backbone`."""
    return [(parameter.name.rpartition("backbone.")[2], parameter) for parameter in backbone.get_parameters()]


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
            self.query_backbone, self.reference_backbone = backbones
            self.query_head, self.reference_head = first, *second
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
        return tuple(f"{view}.{name}" for name in self.compared for view in SIDES)

    def construct(self, query, reference):
        """Named outputs: "{view}.{descriptor}" (B, D) for both views, and "logit_scale", all float32.

        Pictures are (B, 3, H, W), each view with its own H and W. A global descriptor has any length, Omega and Phi
        have length 1; the logit scales, one for each of ``compared``, are the multipliers themselves.
        """
        of_query, of_reference = self._describe_both(query, reference)
        outputs = {"logit_scale": ops.pow(2.0, self.log_logit_scale * LOG2_E)}  # ops.Exp is 5e-6 off on a CPU
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
        """Keep only the blocks' inputs for the way back and compute the rest again; before the first step."""
        for backbone in dict.fromkeys(self.backbone_of(view) for view in SIDES):
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
        if view not in SIDES:
            raise ValueError(f"no view named {view!r}; there are {', '.join(SIDES)}")
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


class PlainOutputs(nn.Cell):
    """Pictures (B, 3, H, W) -> the outputs of ``names`` in that order, a tuple also of one."""

    def __init__(self, view_encoder: nn.Cell, *names: str):
        super().__init__(auto_prefix=False)  # parameters keep their names
        self.view_encoder = view_encoder
        self.names = names

    def construct(self, images):
        outputs = self.view_encoder(images)
        return tuple([outputs[name] for name in self.names])
