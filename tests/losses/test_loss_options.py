"""Each loss that a config can name is the one that is built."""

import pytest

from mindloc.config import load_config
from mindloc.losses.criterion import CosineEmbedding, CosineTriplet, Infonce, WeightedInfonce, build_criterion


@pytest.mark.parametrize(
    ("override", "part", "kind"),
    [
        ("loss.omega=cosine_embedding", "omega", CosineEmbedding),
        ("loss.omega=weighted_infonce", "omega", WeightedInfonce),
        ("loss.omega=infonce", "omega", Infonce),
        ("loss.phi=cosine_triplet", "phi", CosineTriplet),
        ("loss.phi=weighted_infonce", "phi", WeightedInfonce),
        ("loss.phi=infonce", "phi", Infonce),
    ],
)
def test_every_loss_of_two_stages(override, part, kind):
    criterion = build_criterion(load_config(None, ["head.name=two_stage", override]))
    assert type(getattr(criterion, part)) is kind
