"""The builders hand on exactly what the config says."""

import cv2
import numpy as np
import pytest

from mindloc.config import Config
from mindloc.data.readers import build_images, build_sampler, build_split
from mindloc.data.sampler import SAMPLERS
from mindloc.errors import DataError


@pytest.fixture
def config(gta_root) -> Config:
    values = {"data.root": gta_root, "data.train_pairs": "train.json", "data.test_pairs": "train.json"}
    return Config().with_values({**values, "data.map_px": 1024, "data.m_per_px": 0.5, "train.batch_size": 2})


def test_training_split_takes_the_share_and_the_test_split_does_not(config):
    config = config.with_values({"data.train_ratio": 0.67})
    assert len(build_split(config, "train").query.files) == 2
    assert len(build_split(config, "test").query.files) == 3


def test_test_split_has_its_own_folder_and_scale(config):
    values = {"data.test_root": config.data.root, "data.root": "nowhere", "data.test_m_per_px": 1.0}
    config = config.with_values(values)
    # twice the scale of the training map: centers at 256 and 768 m
    assert build_split(config, "test").reference.places.coordinate_N2.tolist() == [
        [256, 256],
        [256, 768],
        [768, 256],
        [768, 768],
    ]
    with pytest.raises(DataError, match="nowhere"):
        build_split(config, "train")


def test_reader_is_chosen(config):
    config = config.with_values({"data.reader": "visloc"})
    with pytest.raises(DataError, match="drone_loc_lat_lon"):
        build_split(config, "train")


@pytest.mark.parametrize("mode", ["exclusive", "exclusive_padded", "masked", "random"])
def test_sampler_of_every_mode(config, mode):
    assert len(SAMPLERS) == 4
    config = config.with_values({"sampling.mode": mode})
    sampler = build_sampler(config, build_split(config, "train"))
    assert (sampler.mode, sampler.batch_size) == (mode, 2)
    assert sampler.plan(0).report.total == 5


def test_training_on_positives_still_respects_semipositives(config, change_entries):
    # both drone pictures have a positive of their own; the second one also overlaps the first one's tile a little, so
    # the two pairs can't share a batch although only positives are trained on
    def change(entries):
        del entries[2]
        for what, value in (("img", "1_0_0_0.png"), ("weight", 0.2), ("loc_x_y", [128.0, 128.0])):
            entries[1][f"pair_pos_semipos_sate_{what}_list"].append(value)

    change_entries(change)
    config = config.with_values({"data.train_mode": "pos"})
    with pytest.raises(DataError, match="no batch of 2 from 2 pairs"):
        build_sampler(config, build_split(config, "train")).plan(0)


def test_no_positive_to_train_on(config, change_entries):
    def change(entries):
        for entry in entries:
            for what in ("img", "weight", "loc_x_y"):
                entry[f"pair_pos_sate_{what}_list"] = []

    change_entries(change)
    config = config.with_values({"data.train_mode": "pos"})
    with pytest.raises(DataError, match=r"data\.train_mode=pos"):
        build_sampler(config, build_split(config, "train"))


@pytest.mark.parametrize(("view", "lightest"), [("query", -1.0), ("reference", 1.0)])
def test_only_drone_pictures_lose_their_border(config, tmp_path, view, lightest):
    # a black picture with a white frame of an eighth; black is (0 - .5) / .5 = -1, white 1
    picture = np.full((32, 32, 3), 255, np.uint8)
    picture[4:28, 4:28] = 0
    cv2.imwrite(str(tmp_path / "framed.png"), picture)
    sizes = {"data.query_size_px": (16, 16), "data.reference_size_px": (16, 16)}
    config = config.with_values({"augment.cut_border": 0.125, **sizes})
    ((batch, count),) = build_images(config, view, [tmp_path / "framed.png"], batch_size=1)
    assert (count, batch.shape, batch.min(), batch.max()) == (1, (1, 3, 16, 16), -1.0, lightest)
