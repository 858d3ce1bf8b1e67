"""What every rank would refuse is refused before one is started."""

import pytest

from mindloc.cli import main
from mindloc.cli.train import check_beforehand
from mindloc.config import load_config
from mindloc.errors import CheckpointError, ConfigError, DeviceError, LaunchError


def config_of(*overrides):
    return load_config(None, ["train.batch_size=8", *overrides])


def test_what_fits_is_let_through():
    check_beforehand(config_of(), "CPU", ranks=2, resumed=None, begin_epoch=0)
    check_beforehand(config_of("train.precision=bf16"), "Ascend", ranks=2, resumed=None, begin_epoch=None)


def test_what_does_not_fit_the_ranks():
    with pytest.raises((ConfigError, LaunchError), match="train.batch_size"):
        check_beforehand(config_of(), "CPU", ranks=3, resumed=None, begin_epoch=None)
    with pytest.raises(DeviceError, match="take train.precision=fp32"):
        check_beforehand(config_of("train.precision=fp16"), "CPU", ranks=2, resumed=None, begin_epoch=None)
    with pytest.raises(CheckpointError, match="--begin_epoch is 2, but no run is resumed"):
        check_beforehand(config_of(), "CPU", ranks=2, resumed=None, begin_epoch=2)


def test_nothing_is_started_or_left_behind(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    words = ["2", str(tmp_path / "data"), str(tmp_path / "out"), "", "3", "--device_target", "CPU"]
    assert main(["launch", "train", *words, "--set", "train.precision=fp32"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: --begin_epoch is 3") and said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
