"""From settings to a criterion."""

from mindspore import nn

from mindloc.config.schema import Config
from mindloc.losses.infonce import InfonceCriterion, WeightedInfonceCriterion


def build_criterion(config: Config) -> nn.Cell:
    """Cell: (outputs, weight_G, mask_GG) -> (total, {component: value}), all float32 scalars."""
    if config.loss.name == "weighted_infonce":
        return WeightedInfonceCriterion(k=config.loss.k)
    return InfonceCriterion(label_smoothing=config.loss.label_smoothing)
