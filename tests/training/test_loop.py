"""The loop on MindSpore's Model: names and number of checkpoints, user callbacks, resume, warnings, full disk."""

import dataclasses
import errno
import os
from pathlib import Path

import numpy as np
import pytest
import small_run
import yaml
from mindspore.train import Callback, LambdaCallback, LossMonitor, TimeMonitor

from mindloc.errors import CheckpointError, DataError
from mindloc.runtime.checkpoint import complete_checkpoints, load_state, load_weights
from mindloc.runtime.run_directory import RunDirectory
from mindloc.training.reporting import describe_step, in_lines, read_metrics
from mindloc.training.resume import Progress, check_settings, find_resume_point, restated_schedule

CONFIG = {"model": {"backbone": "tiny", "pretrained": None}, "train": {"seed": 1, "epochs": 3}, "run": {"name": None}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Three epochs of 4, 6 and 5 steps with scores 0.2, 0.5, 0.3; saved at steps 3, 6, 9 and after each epoch."""
    directory = tmp_path_factory.mktemp("finished")
    small_run.run(directory)
    return directory


def of_kind(directory: Path, kind: str) -> list[dict]:
    return [record for record in read_metrics(directory / "metrics.jsonl") if record["kind"] == kind]


def test_best_and_last_are_kept_under_their_names(finished):
    names = {path.name for path in (finished / "checkpoints").iterdir()}
    assert names == {
        "weights_e2_0.5000.safetensors",  # the best: only weights
        "weights_e2_s12.safetensors",  # the two newest, complete
        "weights_e2_s12.state.safetensors",
        "weights_e3_0.3000.safetensors",  # the last is saved although it is not the best
        "weights_e3_0.3000.state.safetensors",
        "weights_best.safetensors",
        "weights_end.safetensors",
    }
    best, end = (load_weights(finished / "checkpoints" / f"weights_{name}.safetensors") for name in ("best", "end"))
    assert (best.facts["epoch"], best.facts["score"]) == (2, 0.5)
    assert (end.facts["epoch"], end.facts["score"]) == (3, 0.3)
    assert best.config == yaml.safe_load((finished / "config.yaml").read_text())


def test_the_last_epoch_does_not_lower_the_best_score(finished):
    state = load_state(load_weights(complete_checkpoints(finished / "checkpoints")[-1]))
    assert state.facts["progress"]["best_score"] == 0.5
    assert state.facts["progress"]["best_epoch"] == 2


def test_every_step_has_a_line(finished):
    steps = of_kind(finished, "step")
    assert [record["step"] for record in steps] == list(range(1, 16))
    assert [record["epoch"] for record in steps] == [1] * 4 + [2] * 6 + [3] * 5
    assert steps[0]["lr"] == 0.0  # the warm-up starts at 0 ...
    assert steps[2]["lr"] == pytest.approx(0.01)  # ... and ends after 2 of this epoch's 4 steps
    for record in steps:
        assert record["loss"] == pytest.approx(np.mean(list(record["components"].values())), rel=1e-5)


def test_epochs_and_evaluations_have_lines(finished):
    epochs, steps = of_kind(finished, "epoch"), of_kind(finished, "step")
    assert [record["steps"] for record in epochs] == [4, 6, 5]
    assert epochs[1]["means"]["loss"] == pytest.approx(np.mean([r["loss"] for r in steps if r["epoch"] == 2]))
    assert epochs[1]["sampling"] == {"kept": 18}
    assert [record["tag"] for record in of_kind(finished, "evaluation")] == ["zero_shot", "e1", "e2", "e3"]


def test_the_console_shows_loss_rate_time_speed_and_remaining_time(tmp_path, capsys):
    small_run.run(tmp_path, epochs=1, log_every_steps=4)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch"))
    for part in ("epoch 1/1 step 4/4", "loss ", "lr 5.0e-03", "/step", "ETA 0:00:00"):
        assert part in line and len(line) <= 80
    assert line in (tmp_path / "log.txt").read_text()


def test_lines_of_a_long_training_have_at_most_80_columns():
    record = {"loss": 12.34567, "lr": 1e-4, "step_s": 1.234, "skipped_steps": 0}
    line = describe_step("epoch 10/10 step 1750/1750", record, 8 * 3600)
    assert line == "epoch 10/10 step 1750/1750  loss 12.3457  lr 1.0e-04  1.23 s/step  ETA 8:00:00"
    huge = {"loss": 12345.6789, "lr": 1e-12, "step_s": 123.456, "skipped_steps": 12345}
    lines = in_lines(describe_step("epoch 100/100 step 12345/12345", huge, 1e7)).splitlines()
    assert lines == [
        "epoch 100/100 step 12345/12345  loss 12345.6789  lr 1.0e-12  123.46 s/step",
        "  skipped 12345  ETA 2777:46:40",
    ]
    assert max(map(len, [line, *lines])) <= 80


def test_scores_of_an_evaluation_are_in_lines_of_80_columns():
    recalls = [f"recall@{k} 0.1234" for k in (5, 10)]
    items = ["evaluation e100: recall@1 0.1234", *recalls, "dis@1_median_m 1234", "(12.3 s)"]
    lines = in_lines("  ".join(items)).splitlines()
    assert lines == ["  ".join(items[:3]), "  " + "  ".join(items[3:])] and len(lines[0]) == 67
    assert in_lines("a" * 90 + "  b").splitlines() == ["a" * 90, "  b"]  # a longer item is on its own line
    assert in_lines("note " * 20).splitlines() == [" ".join(["note"] * 16), "  note note note note"]  # 79 and 21 wide


def test_mindspore_callbacks_of_the_user_work(tmp_path, capsys):
    seen = []
    own = LambdaCallback(
        on_train_step_end=lambda context: seen.append(
            (context.original_args().cur_step_num, context.original_args().batch_num)
        )
    )
    small_run.run(tmp_path, epochs=2, callbacks=[LossMonitor(1), TimeMonitor(), own])
    assert seen == [(step, 4) for step in range(1, 5)] + [(step, 6) for step in range(5, 11)]  # true step counts
    printed = capsys.readouterr().out
    assert "epoch: 2 step: " in printed and "loss is" in printed
    assert "per step time" in printed


class StopAt(Callback):
    def __init__(self, step: int):
        self.step = step

    def on_train_step_end(self, run_context):
        if run_context.original_args().cur_step_num == self.step:
            run_context.request_stop()


def test_a_run_stopped_inside_an_epoch_is_saved_and_resumed(tmp_path, finished):
    progress = small_run.run(tmp_path, callbacks=[StopAt(7)])
    assert (progress.epoch, progress.step_in_epoch, progress.step) == (1, 3, 7)
    small_run.run(tmp_path)
    ours, theirs = (
        load_weights(directory / "checkpoints/weights_end.safetensors") for directory in (tmp_path, finished)
    )
    np.testing.assert_array_equal(ours.arrays["weight"], theirs.arrays["weight"])


def test_a_complete_run_resumes_for_more_epochs(tmp_path, capsys):
    small_run.run(tmp_path, epochs=1)
    assert small_run.run(tmp_path, epochs=1).step == 4
    assert "nothing left to train: 1 of 1 epochs" in capsys.readouterr().out
    assert small_run.run(tmp_path, epochs=2).step == 10
    assert [record["tag"] for record in of_kind(tmp_path, "evaluation")] == ["zero_shot", "e1", "e2"]


def test_a_changed_schedule_is_logged(tmp_path):
    before, after = {"epochs": 5, "lr": 0.1}, {"epochs": 20, "lr": 0.1}
    text = restated_schedule(before, after, Progress(epoch=5))
    assert text.startswith("schedule changed after 5 epochs: epochs 5 -> 20;")
    assert restated_schedule(before, dict(before), Progress()) is None


def resume_point(directory: Path, **progress):
    point = find_resume_point(RunDirectory(directory))
    weights = dataclasses.replace(point.weights, config=CONFIG)
    return dataclasses.replace(point, weights=weights, progress=Progress(**progress))


def test_another_model_is_an_error(finished):
    other = {**CONFIG, "model": {"backbone": "base", "pretrained": None}}
    with pytest.raises(CheckpointError, match="belongs to another model: model.backbone is base, its own is tiny"):
        check_settings(resume_point(finished), other)


def test_another_head_is_an_error_also_where_its_weights_would_fit(finished):
    """head.similarity changes the computation but no shape."""
    before, after = ({**CONFIG, "head": {"name": "two_stage", "similarity": kind}} for kind in ("dot", "cosine"))
    point = resume_point(finished)
    point = dataclasses.replace(point, weights=dataclasses.replace(point.weights, config=before))
    with pytest.raises(CheckpointError, match="another model: head.similarity is cosine, its own is dot"):
        check_settings(point, after)


def test_another_order_is_an_error_inside_an_epoch_and_logged_between_epochs(finished):
    other = {**CONFIG, "train": {"seed": 2, "epochs": 3}}
    with pytest.raises(CheckpointError, match="was saved inside epoch 2, .*resume with --set train.seed=1"):
        check_settings(resume_point(finished, epoch=1, step_in_epoch=2), other)
    assert check_settings(resume_point(finished, epoch=1), other) == ["train.seed is now 2 (was 1)"]


def test_settings_that_do_not_affect_the_training_are_not_logged(finished):
    assert check_settings(resume_point(finished), {**CONFIG, "run": {"name": "x"}, "new": {"key": 1}}) == []


def test_a_step_whose_loss_is_not_finite_is_skipped_counted_and_reported(tmp_path, monkeypatch, capsys):
    draw = small_run.batch

    def batch(epoch, step, rows=small_run.BATCH):
        query, *rest = draw(epoch, step, rows)
        return (query * np.float32(np.nan) if step == 1 else query), *rest

    monkeypatch.setattr(small_run, "batch", batch)
    monkeypatch.setattr(small_run, "PRECISION", "fp32")  # without loss scaling, where an overflow is a problem
    progress = small_run.run(tmp_path, epochs=1)
    assert progress.skipped_steps == 1
    assert [record["finite"] for record in of_kind(tmp_path, "step")] == [True, False, True, True]
    assert of_kind(tmp_path, "step")[1]["loss"] is None
    assert np.isfinite(of_kind(tmp_path, "epoch")[0]["means"]["loss"])
    assert "step 2: the gradient is not finite" in of_kind(tmp_path, "warning")[0]["text"]
    assert "warning: step 2" in capsys.readouterr().out


def test_an_epoch_shorter_than_planned_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(small_run.SmallData, "steps", lambda self, epoch: 9)
    with pytest.raises(DataError, match="epoch 1 had 4 steps, but its sampler planned 9"):
        small_run.run(tmp_path, epochs=1, eval_every_epochs=0)


def test_a_full_disk_keeps_the_older_checkpoint(tmp_path, monkeypatch):
    small_run.run(tmp_path, epochs=1)
    before = {path.name: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()}

    replace = os.replace

    def full(source, destination):
        if str(destination).endswith(".safetensors"):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, destination)

    with monkeypatch.context() as patch:
        patch.setattr("mindloc.runtime.files.os.replace", full)
        with pytest.raises(CheckpointError, match=r"^can't write .*No space left on device; free some space[^\n]*$"):
            small_run.run(tmp_path, epochs=2, checkpoint_every_steps=0)
    assert {path.name: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()} == before
    assert small_run.run(tmp_path, epochs=2, checkpoint_every_steps=0).step == 10  # with free space it continues
