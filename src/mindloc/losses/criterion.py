"""The loss of a two-stage encoder: one on Omega and one on Phi, joined by a weight.

Shapes: G pairs of the global batch, D channels of a descriptor.

From settings to a criterion.
"""

from mindspore import nn

from mindloc.config.schema import Config, LossConfig
from mindloc.losses.cosine import Negatives, cosine_embedding, cosine_triplet
from mindloc.losses.infonce import InfonceCriterion, WeightedInfonceCriterion, infonce, weighted_infonce


class TwoStageCriterion(nn.Cell):
    """beta * loss of Omega + (1 - beta) * loss of Phi, of an encoder's named outputs; both are its components.

    Args:
        omega, phi: the loss of each, (query (G, D), reference (G, D), logit scale (1,), targets, mask (G, G)) ->
            scalar; names in ``targets`` what it reads of each pair.
        beta: share of Omega's, 0..1; SGM-Net takes .5.
    """

    component_names = ("omega", "phi")

    def __init__(self, omega: nn.Cell, phi: nn.Cell, beta: float = 0.5):
        super().__init__()
        self.omega, self.phi, self.beta = omega, phi, beta
        self.targets = tuple(dict.fromkeys((*omega.targets, *phi.targets)))

    def construct(self, outputs, targets, mask_GG):
        scale = outputs["logit_scale"]  # one for each descriptor
        omega = self.omega(outputs["query.omega"], outputs["reference.omega"], scale[0:1], targets, mask_GG)
        phi = self.phi(outputs["query.phi"], outputs["reference.phi"], scale[1:2], targets, mask_GG)
        return self.beta * omega + (1.0 - self.beta) * phi, {"omega": omega, "phi": phi}


class CosineEmbedding(nn.Cell):
    """``cosine_embedding`` of one descriptor; needs neither logit scale nor targets."""

    targets = ()

    def __init__(self, margin: float = 0.0, negatives: Negatives = "all"):
        super().__init__()
        self.margin, self.negatives = margin, negatives

    def construct(self, query_GD, reference_GD, scale, targets, mask_GG):
        return cosine_embedding(query_GD, reference_GD, self.margin, self.negatives, mask_GG)


class CosineTriplet(nn.Cell):
    """``cosine_triplet`` of one descriptor; needs neither logit scale nor targets."""

    targets = ()

    def __init__(self, margin: float = 0.2, negatives: Negatives = "all"):
        super().__init__()
        self.margin, self.negatives = margin, negatives

    def construct(self, query_GD, reference_GD, scale, targets, mask_GG):
        return cosine_triplet(query_GD, reference_GD, self.margin, self.negatives, mask_GG)


class WeightedInfonce(nn.Cell):
    """``weighted_infonce`` of one descriptor."""

    targets = ("iou",)

    def __init__(self, k: float = 5.0):
        super().__init__()
        self.k = k

    def construct(self, query_GD, reference_GD, scale, targets, mask_GG):
        return weighted_infonce(query_GD, reference_GD, scale, targets["iou"], self.k, mask_GG)


class Infonce(nn.Cell):
    """``infonce`` of one descriptor; reads nothing of a pair."""

    targets = ()

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing

    def construct(self, query_GD, reference_GD, scale, targets, mask_GG):
        return infonce(query_GD, reference_GD, scale, self.label_smoothing, mask_GG)


def build_criterion(config: Config) -> nn.Cell:
    """Cell: (outputs, targets, mask_GG) -> (total, {component: value}), all float32 scalars."""
    loss = config.loss
    if config.head.name == "two_stage":
        return TwoStageCriterion(_build_term(loss.omega, loss), _build_term(loss.phi, loss), loss.beta)
    if loss.name == "weighted_infonce":
        return WeightedInfonceCriterion(k=loss.k)
    return InfonceCriterion(label_smoothing=loss.label_smoothing)


def _build_term(name: str, loss: LossConfig) -> nn.Cell:
    if name == "cosine_embedding":
        return CosineEmbedding(loss.omega_margin, loss.negatives)
    if name == "cosine_triplet":
        return CosineTriplet(loss.triplet_margin, loss.negatives)
    return WeightedInfonce(loss.k) if name == "weighted_infonce" else Infonce(loss.label_smoothing)
