"""Pair and image counts are printed once and when they change; callbacks are in order."""

from types import SimpleNamespace

from mindspore.train import Callback

from mindloc.config import load_config
from mindloc.config.sections import TrainConfig
from mindloc.runtime.run_directory import RunDirectory
from mindloc.training.callbacks import NeighborsCallback, ReportCallback
from mindloc.training.reporting import Reporter
from mindloc.training.resume import Progress
from mindloc.training.trainer import Training, _callbacks


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


def test_a_callback_runs_after_those_whose_results_it_reads(tmp_path):
    dynamic = SimpleNamespace(dynamic=False)
    step = SimpleNamespace(component_names=(), loss_scale=dynamic, lr=None, encoder=None)
    training = Training(load_config(), step, make_data=None, evaluate=lambda directory: None)
    data, others = SimpleNamespace(steps=None), [NeighborsCallback(*[None] * 6), Callback()]
    run = RunDirectory.create(tmp_path, "run", "")
    names = [type(made).__name__ for made in _callbacks(training, run, Progress(), Lines(), data, others)]
    first, last = ["ProgressCallback", "ScheduleCallback"], ["EvalCallback", "NeighborsCallback", "Callback"]
    assert names == [*first, "ReportCallback", *last, "CheckpointCallback"]
    of_rank_1 = _callbacks(training, None, Progress(), Lines(), data, others)
    assert [type(made).__name__ for made in of_rank_1] == [*first, *last]
