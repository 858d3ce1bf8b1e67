"""Pair and image counts are printed once and when they change; the order of callbacks is checked."""

from types import SimpleNamespace

import pytest
from mindspore.train import Callback

from mindloc.config.sections import TrainConfig
from mindloc.training.callbacks import EvalCallback, ProgressCallback, ReportCallback, check_order
from mindloc.training.reporting import Reporter
from mindloc.training.resume import Progress


class Lines(Reporter):
    def __init__(self):
        super().__init__(None)
        self.lines, self.recorded = [], []

    def say(self, text):
        self.lines.append(text)

    def record(self, kind, **values):
        self.recorded.append((kind, values.get("text")))


def callback(reports):
    lines, progress = Lines(), Progress(step=7)
    data = SimpleNamespace(report=lambda epoch: reports[epoch], steps=lambda epoch: 4, bad_images={})
    step = SimpleNamespace(component_names=(), loss_scale=SimpleNamespace(dynamic=False))
    return ReportCallback(lines, progress, data, step, TrainConfig()), lines, data, progress


def test_the_sampler_report_is_printed_when_it_changes():
    made, lines, _, progress = callback(["3 kept", "3 kept", "2 kept"])
    for progress.epoch in range(3):
        made.on_train_epoch_begin(None)
    assert lines.lines == ["3 kept", "2 kept"]


def test_each_skipped_image_has_one_warning_and_is_counted():
    made, lines, data, progress = callback(["all kept"])
    progress.step_in_epoch = 2  # stopped inside an epoch, which has no record
    made.on_train_epoch_end(None)
    assert lines.lines == []
    data.bad_images = {"a.png": "a.png is truncated"}
    made.on_train_epoch_end(None)
    made.on_train_epoch_end(None)
    warnings = ["a.png is truncated", "skipped images so far: 1; the loss ignores their pairs"]
    assert lines.lines == [f"warning: {text}" for text in warnings]
    assert lines.recorded == [("warning", text) for text in warnings]


def test_a_callback_before_one_whose_results_it_reads_is_an_error():
    counting, evaluation = ProgressCallback(Progress(), None, None, None), EvalCallback(*[None] * 6)
    check_order([counting, Callback(), evaluation])
    with pytest.raises(ValueError, match="EvalCallback is before ProgressCallback"):
        check_order([evaluation, Callback(), counting])
