"""Each loss that a config can name is the one that is built."""

import pytest

from mindloc.config import load_config
from mindloc.losses.cosine import CosineEmbedding, CosineTriplet
from mindloc.losses.criterion import build_criterion
from mindloc.losses.infonce import Infonce, WeightedInfonce


@pytest.mark.parametrize(
    ("override", "place", "kind"),
    [
        ("loss.omega=cosine_embedding", 0, CosineEmbedding),
        ("loss.omega=weighted_infonce", 0, WeightedInfonce),
        ("loss.omega=infonce", 0, Infonce),
        ("loss.phi=cosine_triplet", 1, CosineTriplet),
        ("loss.phi=weighted_infonce", 1, WeightedInfonce),
        ("loss.phi=infonce", 1, Infonce),
    ],
)
def test_every_loss_of_two_stages(override, place, kind):
    criterion = build_criterion(load_config(None, ["head.name=two_stage", override]))
    assert criterion.component_names[place] == override.removeprefix("loss.").partition("=")[0]
    assert type(criterion.losses[place]) is kind
