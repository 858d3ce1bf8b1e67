"""Checks that every rank would make are made before one starts; a run with an unread config value can be continued."""

import pytest

from mindloc.cli import main
from mindloc.cli.train import TrainingCommand, check_before_start
from mindloc.config import load_config
from mindloc.errors import CheckpointError, ConfigError, DeviceError, LaunchError


def config_of(*overrides):
    return load_config(None, ["train.batch_size=8", *overrides])


def test_valid_settings_pass_the_checks():
    check_before_start(config_of(), "CPU", ranks=2, resumed=None, begin_epoch=0)
    check_before_start(config_of("train.precision=bf16"), "Ascend", ranks=2, resumed=None, begin_epoch=None)


def test_settings_that_do_not_fit_the_ranks_are_errors():
    with pytest.raises((ConfigError, LaunchError), match="train.batch_size"):
        check_before_start(config_of(), "CPU", ranks=3, resumed=None, begin_epoch=None)
    with pytest.raises(DeviceError, match="use train.precision=fp32"):
        check_before_start(config_of("train.precision=fp16"), "CPU", ranks=2, resumed=None, begin_epoch=None)
    with pytest.raises(CheckpointError, match="--begin_epoch is 2, but a new run starts with epoch 0"):
        check_before_start(config_of(), "CPU", ranks=2, resumed=None, begin_epoch=2)


def test_nothing_is_started_or_left_behind(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    words = ["2", str(tmp_path / "data"), str(tmp_path / "out"), "", "3", "--device_target", "CPU"]
    assert main(["launch", "train", *words, "--set", "train.precision=fp32"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: --begin_epoch is 3") and said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.fixture
def run(tmp_path):
    """A run whose config has a value that no part reads: a cosine schedule has no power."""
    (tmp_path / "run").mkdir()
    text = "schedule: {power: 2.0}\ntrain: {epochs: 9, eval_every_epochs: 0}\n"
    (tmp_path / "run" / "config.yaml").write_text(text)
    return tmp_path / "run"


def test_the_run_continues_by_the_scripts(run):
    training = TrainingCommand(data=run / "data", resumed=run, evaluates=True, own=("train.epochs=12",))
    config = training.config
    assert (config.schedule.power, config.train.epochs, config.train.eval_every_epochs) == (2.0, 12, 1)
    assert training.words[:2] == ["--resume", str(run)]


def test_the_run_continues_by_train(run, monkeypatch):
    class Reached(Exception):
        pass

    def use_device(*_):
        raise Reached

    monkeypatch.setattr("mindloc.cli.train.use_device", use_device)  # what comes next
    with pytest.raises(Reached):
        main(["train", "--resume", str(run)])


def test_the_config_is_refused_for_a_new_run(run, capsys):
    assert main(["train", "--config", str(run / "config.yaml")]) == 2
    assert "schedule.power is 2.0; expected 1.0 with schedule.name=cosine" in capsys.readouterr().err
