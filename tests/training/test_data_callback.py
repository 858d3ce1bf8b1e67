"""What became of pairs and pictures is said: once, and again only when it changes."""

from types import SimpleNamespace

from mindloc.training.data_callback import DataCallback


class Lines:
    def __init__(self):
        self.said, self.warned, self.logged = [], [], []

    def say(self, text):
        self.said.append(text)

    def warn(self, text):
        self.warned.append(text)

    def append(self, kind, **values):
        self.logged.append((kind, values["text"]))


def callback(reports):
    lines, progress = Lines(), SimpleNamespace(epoch=0, step=7)
    data = SimpleNamespace(report=lambda epoch: reports[epoch], bad_pictures={})
    return DataCallback(data, lines, lines, progress), lines, data, progress


def test_the_sampler_report_is_said_when_it_changes():
    made, lines, _, progress = callback(["3 kept", "3 kept", "2 kept"])
    for progress.epoch in range(3):
        made.on_train_epoch_begin(None)
    assert lines.said == ["3 kept", "2 kept"]


def test_each_skipped_picture_is_warned_of_once_and_counted():
    made, lines, data, _ = callback(["all kept"])
    made.on_train_epoch_end(None)
    assert lines.warned == []
    data.bad_pictures = {"a.png": "a.png is truncated"}
    made.on_train_epoch_end(None)
    made.on_train_epoch_end(None)
    assert lines.warned == ["a.png is truncated", "skipped pictures so far: 1; their pairs count in no loss"]
    assert lines.logged == [("warning", text) for text in lines.warned]
