"""Known flags set config keys, in their order with --set."""

import pytest

from mindloc.cli.command import command, read_words
from mindloc.cli.options import KNOWN_FLAGS, config_options
from mindloc.config import load_config
from mindloc.errors import ConfigError


@command("any")
@config_options()
def any_command(**values):
    pass


def config_of(*argv):
    read = read_words(any_command, "any", argv, "there is no more")
    return load_config(read.params["config"], read.params["overrides"])


def test_flags_and_set_apply_in_the_order_given():
    assert config_of("--epochs", "3", "--set", "train.epochs=4").train.epochs == 4
    assert config_of("--set", "train.epochs=4", "--epoch", "3").train.epochs == 3
    assert config_of("--epochs", "3", "--set", "train.epochs=4", "--epochs", "5").train.epochs == 5
    assert config_of("--no_custom_sampling", "--set", "sampling.mode=masked").sampling.mode == "masked"


def test_an_option_may_be_written_with_hyphens():
    assert config_of("--batch-size", "8", "--set", "train.batch_size=16").train.batch_size == 16
    assert config_of("--no-share-weights").model.share_weights is False


def test_a_data_root_on_the_command_line_contains_the_test_pairs_too():
    data = config_of("--set", "data.test_root=elsewhere", "--set", "data.test_map_px=9", "--data_root", "here").data
    assert (data.root, data.test_root, data.test_map_px) == ("here", None, None)


def test_flags_without_a_value():
    config = config_of("--no_share_weights", "--no_custom_sampling")
    assert config.model.share_weights is False
    assert config.sampling.mode == "random"


def test_the_public_name_of_the_backbone():
    assert config_of("--model", "vit_base_patch16_rope_reg1_gap_256.sbb_in1k").model.backbone == "base"


def test_the_public_words_for_the_side_of_the_queries():
    assert [config_of("--query_mode", word).eval.swap_sides for word in ("D2S", "S2D")] == [False, True]


def test_sizes_by_the_words_of_drone_data():
    data = config_of("--drone_size_px", "96,128", "--satellite_size_px", "[64, 64]").data
    assert (data.query_size_px, data.reference_size_px) == ((96, 128), (64, 64))


def test_devices_by_their_public_names():
    assert config_of("--device_id", "3").run.device_ids == (3,)
    assert config_of("--gpu_ids", "1,0").run.device_ids == (1, 0)


@pytest.mark.parametrize("ids", ["1,1", "-1", "", "0,x"])
def test_invalid_devices_are_refused(ids):
    with pytest.raises(ConfigError, match="run.device_ids"):
        config_of("--gpu_ids", ids)


def test_every_flag_sets_a_key_that_exists():
    for flag, (key, constant) in KNOWN_FLAGS.items():
        section, name = key.split(".")
        current = getattr(getattr(load_config(), section), name)
        if isinstance(current, tuple):
            current = ",".join(map(str, current))
        argv = [flag] if constant is not None else [flag, str(current if current is not None else "x")]
        config_of(*argv)  # an unknown key would raise
