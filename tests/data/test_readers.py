"""The readers in the registry, with train_ratio, a second root, and ground; and the sampler that a config selects."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mindloc import registry
from mindloc.config import Config
from mindloc.config.sections import DataConfig
from mindloc.data.readers import read_ground, read_split
from mindloc.data.sampler import SAMPLERS, build_sampler
from mindloc.errors import ConfigError, DataError

GTA, VISLOC = DataConfig(map_px=512, m_per_px=0.3), DataConfig(reader="visloc")


@pytest.fixture
def config(gta_root) -> Config:
    values = {"data.root": gta_root, "data.train_pairs": "train.json", "data.test_pairs": "train.json"}
    return Config().with_values({**values, "data.map_px": 1024, "data.m_per_px": 0.5, "train.batch_size": 2})


def test_train_ratio_applies_to_the_training_split_only(config):
    config = config.with_values({"data.train_ratio": 0.67})
    assert len(read_split(config.data, "train").query.files) == 2
    assert len(read_split(config.data, "test").query.files) == 3


def test_test_split_has_its_own_directory_and_scale(config):
    values = {
        "data.test_root": config.data.root,
        "data.root": "nowhere",
        "data.m_per_px": 9.0,
        "data.test_m_per_px": 0.5,
    }
    config = config.with_values(values)
    assert read_split(config.data, "test").reference.places.coordinate_N2.tolist() == [
        [128, 128],
        [128, 384],
        [384, 128],
        [384, 384],
    ]
    with pytest.raises(DataError, match="nowhere"):
        read_split(config.data, "train")


def test_the_reader_is_selected_by_name(config):
    config = config.with_values({"data.reader": "visloc"})
    with pytest.raises(DataError, match="drone_loc_lat_lon"):
        read_split(config.data, "train")


def sampler_of(config):
    split, train = read_split(config.data, "train"), config.train
    return build_sampler(split, config.data.train_mode, config.sampling, train.batch_size, train.seed)


@pytest.mark.parametrize("mode", ["exclusive", "exclusive_padded", "masked", "random"])
def test_sampler_of_every_mode(config, mode):
    assert len(SAMPLERS) == 4
    config = config.with_values({"sampling.mode": mode})
    sampler = sampler_of(config)
    assert (sampler.mode, sampler.batch_size) == (mode, 2)
    assert sampler.plan(0).report.total == 5


def test_training_on_positives_still_respects_semipositives(config, change_entries):
    # each drone image has its own positive; the second also overlaps the first one's tile a little, so the two pairs
    # can't share a batch although only positives are trained on
    def change(entries):
        del entries[2]
        for what, value in (("img", "1_0_0_0.png"), ("weight", 0.2), ("loc_x_y", [128.0, 128.0])):
            entries[1][f"pair_pos_semipos_sate_{what}_list"].append(value)

    change_entries(change)
    config = config.with_values({"data.train_mode": "pos"})
    with pytest.raises(DataError, match="no batch of 2 from 2 pairs"):
        sampler_of(config).plan(0)


def test_no_positive_to_train_on(config, change_entries):
    def change(entries):
        for entry in entries:
            for what in ("img", "weight", "loc_x_y"):
                entry[f"pair_pos_sate_{what}_list"] = []

    change_entries(change)
    config = config.with_values({"data.train_mode": "pos"})
    with pytest.raises(DataError, match=r"data\.train_mode=pos"):
        sampler_of(config)


def test_ground_in_meters_follows_from_side_and_scale():
    # 512 px at 0.3 m are 153.6 m, at zoom 3 eight tiles of 19.2 m a side; offset 128 of 256 is half a side
    ground = read_ground(GTA, Path("tiles"), ["3_0_2_1.png", "part/3_128_1_0.png"])
    assert ground.unit == "plane_m"
    np.testing.assert_allclose(ground.bounds_N4, [[38.4, 19.2, 57.6, 38.4], [28.8, 9.6, 48, 28.8]])
    np.testing.assert_allclose(ground.place_N2, [[48, 28.8], [38.4, 19.2]])
    assert str(ground) == "2 tiles from 28.8, 9.6 to 57.6, 38.4 (plane_m)"


def test_ground_in_degrees_follows_from_the_corners_of_maps(tmp_path):
    (tmp_path / "satellite_coordinates_range.csv").write_text(
        "mapname,LT_lat,LT_lon,RB_lat,RB_lon,width_px,height_px\nsatellite03.tif,32,119,31,120,512,1024\n"
    )
    ground = read_ground(VISLOC, tmp_path / "tiles", ["03_1_000_001.png", "part/03_2_001_003.png"])
    assert ground.unit == "lat_lon_deg"
    # zoom 1: one column of two tiles, 0.5 by 1 degrees; zoom 2: tiles of 0.25 by 0.5 degrees, column 1, row 3
    np.testing.assert_allclose(ground.bounds_N4, [[31, 119, 31.5, 120], [31, 119.5, 31.25, 120]])
    np.testing.assert_allclose(ground.place_N2, [[31.25, 119.5], [31.125, 119.75]])
    assert str(ground) == "2 tiles from 31, 119 to 31.5, 120 (lat_lon_deg)"


def test_a_name_that_is_not_a_tile_has_no_ground(tmp_path):
    with pytest.raises(DataError, match=r"tile name is 'picnic.png'; expected"):
        read_ground(GTA, tmp_path, ["picnic.png"])
    with pytest.raises(DataError, match=r"satellite_coordinates_range.csv is missing"):
        read_ground(VISLOC, tmp_path / "tiles", ["03_1_000_000.png"])


def test_names_without_places_are_an_error(monkeypatch, tmp_path):
    silent = dataclasses.replace(registry.READERS["gta_uav"], ground=None)
    monkeypatch.setitem(registry.READERS, "gta_uav", silent)
    with pytest.raises(ConfigError, match=r"state no places with data\.reader=gta_uav; leave --places out"):
        read_ground(GTA, tmp_path, ["3_0_2_1.png"])


def test_a_reader_returns_the_views_of_its_registry_entry(config, monkeypatch):
    other = dataclasses.replace(registry.READERS["gta_uav"], views=("visible", "infrared"))
    monkeypatch.setitem(registry.READERS, "gta_uav", other)
    with pytest.raises(ValueError, match="'drone', 'satellite'.*'visible', 'infrared'"):
        read_split(config.data, "train")
