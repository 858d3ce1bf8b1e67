"""From settings to a criterion."""

from mindspore import nn

from mindloc.config.schema import Config, LossConfig
from mindloc.losses.infonce import InfonceCriterion, WeightedInfonceCriterion
from mindloc.losses.two_stage import CosineEmbedding, CosineTriplet, Infonce, TwoStageCriterion, WeightedInfonce


def build_criterion(config: Config) -> nn.Cell:
    """Cell: (outputs, weight_G, mask_GG) -> (total, {component: value}), all float32 scalars."""
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
