"""The training criterion: the weighted sum of the losses of all compared descriptors.

Shapes: G pairs of the global batch, D channels of a descriptor.
"""

from collections.abc import Mapping, Sequence

from mindspore import nn

from mindloc.config import Config
from mindloc.registry import HEADS, LOSSES
from mindloc.vocabulary import SIDES


def build_criterion(config: Config) -> "Criterion":
    """The criterion with the losses that the config names for its head's descriptors.

    Of several losses, the first has weight loss.beta; the others share the rest equally.
    """
    losses = HEADS[config.head.name].losses
    names = {descriptor: config.value(key) for descriptor, key in losses.items()}
    terms = {descriptor: LOSSES[name].build(config.loss) for descriptor, name in names.items()}
    if len(terms) == 1:
        return Criterion(terms)
    others = len(terms) - 1
    return Criterion(terms, (config.loss.beta, *[(1.0 - config.loss.beta) / others] * others))


class Criterion(nn.Cell):
    """Named outputs of an encoder -> the total loss and its components by name; float32 scalars.

    Components are the losses of the descriptors; for a single descriptor, the parts of its loss, if it has any.

    Args:
        losses: descriptor -> Cell (query (G, D), reference (G, D), logit scale (1,), targets, mask (G, G)) -> (loss,
            tuple of its parts). ``targets`` of the Cell names the columns of the data set's edges that it reads,
            ``component_names`` its parts. The descriptors are in the order of the encoder's logit scales.
        weights: of each loss in the total; None: the only loss is the total.
    """

    def __init__(self, losses: Mapping[str, nn.Cell], weights: Sequence[float] | None = None):
        super().__init__()
        self.losses, self.weights = nn.CellList(list(losses.values())), None if weights is None else tuple(weights)
        self.queries, self.references = (tuple(f"{side}.{name}" for name in losses) for side in SIDES)
        self.targets = tuple(dict.fromkeys(target for loss in losses.values() for target in loss.targets))
        parts = self.losses[0].component_names if weights is None else ()
        self.component_names = parts or tuple(losses)

    def construct(self, outputs, targets, mask_GG):
        """The total loss and {component: value}; ``targets`` maps the names in ``self.targets`` to arrays (G, ...)."""
        scale = outputs["logit_scale"]
        if self.weights is None:
            query_GD, reference_GD = outputs[self.queries[0]], outputs[self.references[0]]
            total, parts = self.losses[0](query_GD, reference_GD, scale, targets, mask_GG)
            return total, self.named(parts or (total,))
        values = ()
        for i in range(len(self.losses)):
            query_GD, reference_GD = outputs[self.queries[i]], outputs[self.references[i]]
            value, _ = self.losses[i](query_GD, reference_GD, scale[i : i + 1], targets, mask_GG)
            values += (value,)
        total = self.weights[0] * values[0]
        for i in range(1, len(values)):
            total = total + self.weights[i] * values[i]
        return total, self.named(values)

    def named(self, values):
        """{component: value}."""
        components = {}
        for i in range(len(self.component_names)):
            components[self.component_names[i]] = values[i]
        return components
