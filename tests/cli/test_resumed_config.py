"""A run goes on though its config, of an earlier version, holds a value that nothing reads."""

import pytest

from mindloc.cli import train
from mindloc.cli.train import Training, trainer_words


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    text = "schedule: {power: 2.0}\ntrain: {epochs: 9, eval_every_epochs: 0}\n"  # a cosine reads no power
    (tmp_path / "run" / "config.yaml").write_text(text)
    return tmp_path / "run"


def test_by_the_scripts(run):
    training = Training(config=run / "config.yaml", data=run / "data", resumed=run, evaluates=True)
    words, config = trainer_words(training, [], ["--epochs", "12"], "")
    assert (config.schedule.power, config.train.epochs, config.train.eval_every_epochs) == (2.0, 12, 1)
    assert words[:2] == ["--resume", str(run)]


def test_by_hand(run, monkeypatch):
    class Reached(Exception):
        pass

    def use_device(*_):
        raise Reached

    monkeypatch.setattr(train, "use_device", use_device)  # what comes next
    with pytest.raises(Reached):
        train.main(["--resume", str(run)])


def test_as_an_experiment_it_is_refused(run, capsys):
    assert train.main(["--config", str(run / "config.yaml")]) == 2
    assert "schedule.power is 2.0; expected 1.0 with schedule.name=cosine" in capsys.readouterr().err
