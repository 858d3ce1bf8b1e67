"""An engine with a reduction: what is projected, what is not changed, and what is an error."""

import numpy as np
import pytest

from mindloc.descriptors.reduction import Reduction
from mindloc.descriptors.sets import load_descriptor_sets
from mindloc.errors import DataError
from mindloc.inference.engine import ReducedEngine
from mindloc.inference.extract import extract


class ColorEngine:
    """Omega = mean color, phi = its first two numbers."""

    batch_size, descriptors = 4, ("omega", "phi")
    facts = {"engine": "colors", "precision": "fp32", "checkpoint_sha256": "abc"}

    def encode(self, batch):
        colors = {side: images.mean((2, 3)) for side, images in batch.items()}
        return {f"{s}.omega": color for s, color in colors.items()} | {f"{s}.phi": c[:, :2] for s, c in colors.items()}


class GlobalEngine(ColorEngine):
    descriptors = ("global",)

    def encode(self, batch):
        return {f"{side}.global": images.mean((2, 3)) for side, images in batch.items()}


# subtracts the mean (1, 0, 0) and keeps the first two of three numbers
REDUCTION = Reduction(np.array([1, 0, 0], np.float32), np.eye(3, 2, dtype=np.float32), 0.9, 7, 0, "abc", "f00d")
IMAGES = np.broadcast_to(np.array([[4, 4, 9], [1, 2, 9]], np.float32)[:, :, None, None], (2, 3, 5, 5))
# (4, 4, 9) - (1, 0, 0) -> (3, 4), length 5; (1, 2, 9) - (1, 0, 0) -> (0, 2), length 2
REDUCED = [[0.6, 0.8], [0.0, 1.0]]


@pytest.mark.parametrize(("engine", "name"), [(ColorEngine(), "omega"), (GlobalEngine(), "global")])
def test_the_recall_descriptor_is_projected_on_every_side(engine, name):
    encoded = ReducedEngine(engine, REDUCTION).encode({"query": IMAGES, "reference": IMAGES[::-1]})
    np.testing.assert_allclose(encoded[f"query.{name}"], REDUCED, atol=1e-6)
    np.testing.assert_allclose(encoded[f"reference.{name}"], REDUCED[::-1], atol=1e-6)


def test_the_other_descriptors_are_not_changed():
    encoded = ReducedEngine(ColorEngine(), REDUCTION).encode({"query": IMAGES})
    assert encoded["query.phi"].tolist() == [[4, 4], [1, 2]]


def test_cards_name_the_reduction(tmp_path):
    engine = ReducedEngine(ColorEngine(), REDUCTION)
    extract(engine, "query", [(IMAGES, 2)], ["a", "b"], None, tmp_path / "set", {"view": "drone", "place_unit": None})
    sets = load_descriptor_sets(tmp_path / "set")
    assert sets["omega"].card["reduction_sha256"] == "f00d" and sets["omega"].card["checkpoint_sha256"] == "abc"
    assert sets["omega"].card["dimension"] == 2


def test_cards_of_descriptors_that_are_not_reduced_name_no_reduction(tmp_path):
    engine = ReducedEngine(ColorEngine(), REDUCTION)
    extract(engine, "query", [(IMAGES, 2)], ["a", "b"], None, tmp_path / "set", {"view": "drone", "place_unit": None})
    card = load_descriptor_sets(tmp_path / "set")["phi"].card
    assert "reduction_sha256" not in card and card["checkpoint_sha256"] == "abc"


def test_descriptors_of_a_different_dimension_are_refused():
    with pytest.raises(DataError, match="takes descriptors of dimension 3, but these have 4"):
        ReducedEngine(ColorEngine(), REDUCTION).encode({"query": np.ones((1, 4, 5, 5), np.float32)})
