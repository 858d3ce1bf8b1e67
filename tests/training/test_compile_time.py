"""Compile time is reported separately, is in no step time, and occurs once."""

import re
import time

import mindspore as ms
import pytest
import small_run
from mindspore import nn

from mindloc.runtime import compilation as compile_time
from mindloc.training.reporting import read_metrics
from mindloc.training.step import TrainStep

WAIT_S = 1.5


@pytest.fixture
def compiled(monkeypatch) -> list[TrainStep]:
    """The compiled steps in order; each compilation takes ``WAIT_S`` longer than without this fixture."""
    steps, compile_cell = [], nn.Cell.compile

    def compile_slowly(self, *args, **kwargs):
        # Model.train calls it before every step; later calls find the compiled graph
        if isinstance(self, TrainStep) and not self.compile_cache:
            steps.append(self)
            time.sleep(WAIT_S)
        return compile_cell(self, *args, **kwargs)

    ms.set_context(mode=ms.GRAPH_MODE)
    monkeypatch.setattr(nn.Cell, "compile", compile_slowly)
    return steps


def test_the_first_step_time_excludes_compiling_and_the_log_states_both(tmp_path, compiled, capsys):
    before = compile_time.compiled_s()
    small_run.run(tmp_path, epochs=1, log_every_steps=4, zero_shot_eval=False)
    assert len(compiled) == 1
    assert len(compiled[0].compile_cache) == 1  # Model.train reused the compiled graph
    assert compile_time.compiled_s() - before >= WAIT_S
    records = read_metrics(tmp_path / "metrics.jsonl")
    steps_s = sum(record["step_s"] for record in records if record["kind"] == "step")
    (epoch,) = (record for record in records if record["kind"] == "epoch")
    assert epoch["compile_s"] >= WAIT_S
    assert steps_s + epoch["compile_s"] <= epoch["epoch_s"]  # every second counts once
    log = (tmp_path / "log.txt").read_text()
    found = re.search(
        r"first step done ([\d.]+) s after the start: ([\d.]+) s imports and preparation, ([\d.]+) s evaluation and "
        r"first batch, ([\d.]+) s compiling, ([\d.]+) s the step",
        log,
    )
    whole, *parts = map(float, found.groups())
    assert sum(parts) == pytest.approx(whole, abs=0.26)  # five roundings
    assert parts[2] >= WAIT_S - 0.05
    compiled_s, process_s, share = re.search(r"compiling took ([\d.]+) s of ([\d.]+) s, (\d+) %", log).groups()
    assert float(process_s) >= float(compiled_s) >= WAIT_S
    assert int(share) == pytest.approx(100 * float(compiled_s) / float(process_s), abs=1)  # three roundings
    assert "first step done" in capsys.readouterr().out


@pytest.mark.slow
def test_compile_time_outside_an_epoch_does_not_count_in_it(tmp_path, compiled, monkeypatch):
    """Compilation in an evaluation before the first epoch or after an epoch, or in an earlier training run."""

    def evaluation_that_compiles(directory):
        with compile_time.compiling():
            time.sleep(WAIT_S)
        return {"recall@1": 0.1}

    monkeypatch.setattr(small_run, "score", evaluation_that_compiles)
    for name in ("first", "second"):
        small_run.run(tmp_path / name, epochs=2)
        epochs = [record for record in read_metrics(tmp_path / name / "metrics.jsonl") if record["kind"] == "epoch"]
        first, second = (epoch["compile_s"] for epoch in epochs)
        assert WAIT_S <= first <= epochs[0]["epoch_s"]  # the step
        assert second == 0


def test_an_error_while_compiling_is_counted_and_raised():
    before = compile_time.compiled_s()
    with pytest.raises(ValueError, match="no such operator"), compile_time.compiling():
        time.sleep(0.02)
        raise ValueError("no such operator")
    assert compile_time.compiled_s() - before >= 0.02
