"""The resume point of a run, settings that may change, and the way out for a damaged checkpoint."""

import shlex
from pathlib import Path

import numpy as np
import pytest

from mindloc.config import Config, config_to_dict
from mindloc.config.loader import override_config
from mindloc.config.sections import DataConfig
from mindloc.errors import CheckpointError
from mindloc.runtime.checkpoint import State, Weights, save_state, save_weights, state_path
from mindloc.runtime.run_directory import RunDirectory
from mindloc.training.resume import Progress, ResumePoint, check_data, check_settings, find_resume_point


@pytest.mark.parametrize("damaged", ["weights", "state"])
def test_a_damaged_checkpoint_can_be_deleted_to_resume_from_the_one_before(tmp_path, damaged):
    run = RunDirectory.create(tmp_path, "run", "{}")
    for step in (1, 2):
        path = run.checkpoints / f"weights_e{step}_s{step}.safetensors"
        sha256 = save_weights(path, {"w": np.zeros(3, np.float32)}, {})
        save_state(path, sha256, {}, {"step": step, "progress": Progress(epoch=step, step=step).to_dict()})
    assert find_resume_point(run).progress.step == 2
    broken = path if damaged == "weights" else state_path(path)
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=f"{broken.name}.*delete its two files in {run.checkpoints}"):
        find_resume_point(run)
    path.unlink()
    state_path(path).unlink()
    assert find_resume_point(run).progress.step == 1


def other_value(value):
    """A different value of the same type."""
    if isinstance(value, (int, float)):
        return value + 1
    return [*value, 1] if isinstance(value, list) else f"other {value}"


def resume_inside_an_epoch(section: str, key: str, *overrides: str) -> list[str]:
    """Notes of a training that resumes inside epoch 2 with another value of the key, or then with overrides."""
    before, after = config_to_dict(Config()), config_to_dict(Config())
    after[section][key] = other_value(before[section][key])
    if overrides:
        after = config_to_dict(override_config(Config(), overrides))
    weights = Weights(Path("weights_e1_s9.safetensors"), {}, before, "c" * 64)
    point = ResumePoint(weights, State(Path("of_it"), {}, {}), Progress(epoch=1, step_in_epoch=2))
    return check_settings(point, after)


# settings that change which pairs exist, where they are (near ones share a batch), or which are left out
MOVE_PAIRS = ["reader", "train_pairs", "area", "cities", "map_px", "m_per_px", "train_mode", "train_ratio"]
MOVE_PAIRS += ["on_bad_image"]
# paths, evaluation, image sizes
MOVE_NONE = ["root", "test_root", "test_pairs", "test_cities", "test_map_px", "test_m_per_px", "test_mode"]
MOVE_NONE += ["query_size_px", "reference_size_px", "workers"]


def test_every_key_of_data_is_in_one_of_the_two_lists():
    assert sorted(MOVE_PAIRS + MOVE_NONE) == sorted(DataConfig.model_fields)


@pytest.mark.parametrize("key", MOVE_PAIRS)
def test_settings_that_move_training_pairs_must_not_change_inside_an_epoch(key):
    with pytest.raises(
        CheckpointError, match=f"inside epoch 2, whose order depends on data.{key}; resume with"
    ) as said:
        resume_inside_an_epoch("data", key)
    option, override = shlex.split(str(said.value).rpartition("resume with ")[2])
    assert option == "--set" and resume_inside_an_epoch("data", key, override) == []


@pytest.mark.parametrize("key", MOVE_NONE)
def test_settings_that_move_no_training_pair_may_change_inside_an_epoch(key):
    (line,) = resume_inside_an_epoch("data", key)
    assert line.startswith(f"data.{key} is now ")


@pytest.mark.parametrize(("section", "key"), [("sampling", "neighbors"), ("train", "seed"), ("train", "batch_size")])
def test_the_order_of_an_epoch_depends_on_more_than_the_data(section, key):
    with pytest.raises(CheckpointError, match=f"whose order depends on {section}.{key}"):
        resume_inside_an_epoch(section, key)


def test_training_pairs_may_change_between_epochs_only():
    def point(step_in_epoch):
        state = State(Path("of_it"), {}, {"data_checksum": "a"})
        progress = Progress(epoch=1, step_in_epoch=step_in_epoch)
        return ResumePoint(Weights(Path("weights_e1_s9.safetensors"), {}, {}, "c" * 64), state, progress)

    assert check_data(point(2), "a") == []
    assert check_data(point(0), "b") == ["the training pairs have changed since the checkpoint"]
    with pytest.raises(CheckpointError, match=r"inside epoch 2, and the training pairs have changed since; restore"):
        check_data(point(2), "b")


PROGRESS = Progress(epoch=1, step=9).to_dict()


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"progress": [1]}, r"has progress '\[1\]', expected counters by name"),
        ({"progress": {**PROGRESS, "step": "9"}}, "has step '9', of a wrong type"),
        ({"progress": {**PROGRESS, "best_score": [0]}}, "has best_score '.0.', of a wrong type"),
        ({"progress": {**PROGRESS, "epoch": -1}}, "has epoch -1, expected 0 or more"),
        ({"progress": PROGRESS, "lines": "x"}, "has lines 'x', expected a number"),
    ],
)
def test_a_state_with_a_counter_of_a_wrong_type_is_refused(tmp_path, facts, says):
    run = RunDirectory.create(tmp_path, "run", "{}")
    path = run.checkpoints / "weights_e1_s9.safetensors"
    save_state(path, save_weights(path, {}, {}), {}, {"step": 9, **facts})
    with pytest.raises(CheckpointError, match=f"{says}.*delete its two files"):
        find_resume_point(run)
