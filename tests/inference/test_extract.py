"""Extraction with an engine that only averages: order, padding, card, and errors."""

import numpy as np
import pytest

from mindloc.descriptors.sets import load_descriptor_set, load_descriptor_sets
from mindloc.errors import DataError
from mindloc.inference.extract import extract


class MeanEngine:
    """Descriptor = mean color."""

    descriptors = ("global",)
    batch_size, facts = 2, {"engine": "mean", "precision": "fp32", "checkpoint_sha256": "abc"}

    def encode(self, batch):
        return {f"{side}.global": images.mean((2, 3)) for side, images in batch.items()}


FACTS = {"view": "drone", "place_unit": "plane_m", "config": {"model": {"backbone": "none"}}}


def batches():
    """Five images in batches of two; the last batch is padded with NaN that must not be used."""
    image_5 = np.random.default_rng(0).random((5, 3, 4, 4), np.float32)
    padded = np.concatenate([image_5, np.full((1, 3, 4, 4), np.nan, np.float32)])
    return image_5, [(padded[0:2], 2), (padded[2:4], 2), (padded[4:6], 1)]


def test_rows_follow_the_names_and_padding_is_dropped(tmp_path):
    image_5, stream = batches()
    names, place_52 = [f"drone/{i}.png" for i in range(5)], np.arange(10.0).reshape(5, 2)
    done = extract(MeanEngine(), "query", stream, names, place_52, tmp_path / "set", FACTS)
    loaded = load_descriptor_set(tmp_path / "set")
    np.testing.assert_allclose(loaded.descriptor_ND, image_5.mean((2, 3)), rtol=1e-6)
    assert loaded.names == names
    np.testing.assert_array_equal(loaded.place_N2(), place_52)
    expected = {"engine": "mean", "precision": "fp32", "checkpoint_sha256": "abc", **FACTS}
    assert {key: loaded.card[key] for key in expected} == expected
    assert done.count == 5 and done.images_per_s > 0


@pytest.mark.parametrize("count", [4, 6])
def test_a_number_of_images_that_differs_from_the_names_is_an_error(tmp_path, count):
    with pytest.raises(DataError):
        extract(MeanEngine(), "query", batches()[1], list("abcdef")[:count], None, tmp_path / "set", FACTS)
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_returns_nan_names_the_image(tmp_path):
    stream = [(np.full((1, 3, 4, 4), np.nan, np.float32), 1)]
    with pytest.raises(DataError, match=r"the descriptor of drone/a.png contains NaN"):
        extract(MeanEngine(), "query", stream, ["drone/a.png"], None, tmp_path / "set", FACTS)


class TwoStageEngine(MeanEngine):
    """Omega = mean color, Phi = its square; with centroids if requested."""

    descriptors = ("omega", "phi")

    def encode(self, batch):
        ((side, images),) = batch.items()
        color = images.mean((2, 3))
        made = {"omega": color, "phi": color**2, "centroids": color[:, :2]}
        return {f"{side}.{name}": made[name] for name in self.descriptors}


def test_several_descriptors_become_as_many_sets_of_one_extraction(tmp_path):
    image_5, stream = batches()
    names, engine = [f"drone/{i}.png" for i in range(5)], TwoStageEngine()
    engine.descriptors = ("omega", "phi", "centroids")
    extract(engine, "query", stream, names, None, tmp_path / "set", FACTS, bounds_N4=np.zeros((5, 4)))
    sets = load_descriptor_sets(tmp_path / "set")
    assert list(sets) == ["omega", "phi", "centroids"] and sets["phi"].names == names
    np.testing.assert_allclose(sets["phi"].descriptor_ND, image_5.mean((2, 3)) ** 2, rtol=1e-5)
    assert sets["omega"].bounds_N4().shape == (5, 4)

    extract(TwoStageEngine(), "query", batches()[1], names, None, tmp_path / "set", FACTS)
    again = load_descriptor_sets(tmp_path / "set")  # the older extraction's further set is gone
    assert list(again) == ["omega", "phi"]
    assert again["phi"].card["extraction"] == again["omega"].card["extraction"] != sets["phi"].card["extraction"]


def test_sets_of_a_different_kind_of_encoder_are_replaced(tmp_path):
    names = [f"drone/{i}.png" for i in range(5)]
    for engine, descriptors in (
        (MeanEngine(), ["global"]),
        (TwoStageEngine(), ["omega", "phi"]),
        (MeanEngine(), ["global"]),
    ):
        extract(engine, "query", batches()[1], names, None, tmp_path / "set", FACTS)
        assert list(load_descriptor_sets(tmp_path / "set")) == descriptors
