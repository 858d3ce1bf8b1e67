"""The loss of a two-stage encoder: one on Omega and one on Phi, joined by a weight.

Shapes: G pairs of the global batch, D channels of a descriptor.
"""

from mindspore import nn

from mindloc.losses.cosine import Negatives, cosine_embedding, cosine_triplet
from mindloc.losses.infonce import infonce, weighted_infonce


class TwoStageCriterion(nn.Cell):
    """beta * loss of Omega + (1 - beta) * loss of Phi, of an encoder's named outputs; both are its components.

    Args:
        omega, phi: the loss of each, (drone (G, D), satellite (G, D), logit scale (1,), weight (G,), mask (G, G)) ->
            scalar.
        beta: share of Omega's, 0..1; SGM-Net takes .5.
    """

    component_names = ("omega", "phi")

    def __init__(self, omega: nn.Cell, phi: nn.Cell, beta: float = 0.5):
        super().__init__()
        self.omega, self.phi, self.beta = omega, phi, beta

    def construct(self, outputs, weight_G, mask_GG):
        scale = outputs["logit_scale"]  # one for each descriptor
        omega = self.omega(outputs["drone.omega"], outputs["satellite.omega"], scale[0:1], weight_G, mask_GG)
        phi = self.phi(outputs["drone.phi"], outputs["satellite.phi"], scale[1:2], weight_G, mask_GG)
        return self.beta * omega + (1.0 - self.beta) * phi, {"omega": omega, "phi": phi}


class CosineEmbedding(nn.Cell):
    """``cosine_embedding`` of one descriptor; needs neither logit scale nor weights."""

    def __init__(self, margin: float = 0.0, negatives: Negatives = "all"):
        super().__init__()
        self.margin, self.negatives = margin, negatives

    def construct(self, drone_GD, satellite_GD, scale, weight_G, mask_GG):
        return cosine_embedding(drone_GD, satellite_GD, self.margin, self.negatives, mask_GG)


class CosineTriplet(nn.Cell):
    """``cosine_triplet`` of one descriptor; needs neither logit scale nor weights."""

    def __init__(self, margin: float = 0.2, negatives: Negatives = "all"):
        super().__init__()
        self.margin, self.negatives = margin, negatives

    def construct(self, drone_GD, satellite_GD, scale, weight_G, mask_GG):
        return cosine_triplet(drone_GD, satellite_GD, self.margin, self.negatives, mask_GG)


class WeightedInfonce(nn.Cell):
    """``weighted_infonce`` of one descriptor."""

    def __init__(self, k: float = 5.0):
        super().__init__()
        self.k = k

    def construct(self, drone_GD, satellite_GD, scale, weight_G, mask_GG):
        return weighted_infonce(drone_GD, satellite_GD, scale, weight_G, self.k, mask_GG)


class Infonce(nn.Cell):
    """``infonce`` of one descriptor; the pairs' weights are not used."""

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing

    def construct(self, drone_GD, satellite_GD, scale, weight_G, mask_GG):
        return infonce(drone_GD, satellite_GD, scale, self.label_smoothing, mask_GG)
