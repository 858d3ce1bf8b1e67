"""Checkpoints: a round trip keeps all content, and one-line errors name each problem."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from mindloc.errors import CheckpointError
from mindloc.runtime.checkpoint import (
    complete_checkpoints,
    is_own_checkpoint,
    load_state,
    load_weights,
    read_tensor_file,
    resolve_checkpoint,
    save_state,
    save_weights,
    state_path,
    write_tensor_file,
)

ARRAYS = {
    "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.array(7, np.int32),
    "none": np.zeros((0, 4), np.float32),
    "turned": np.arange(6, dtype=np.float64).reshape(2, 3).T,
}
CONFIG = {"model": {"backbone": "tiny"}, "data": {"root": "Ä"}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights_e1_0.5000.safetensors"


def test_weights_come_back_with_config_and_facts(path):
    sha256 = save_weights(path, ARRAYS, CONFIG, epoch=1, score=0.5)
    weights = load_weights(path)
    assert weights.config == CONFIG and weights.facts == {"epoch": 1, "score": 0.5} and weights.sha256 == sha256
    assert weights.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert weights.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(weights.arrays[name], array)


def test_the_safetensors_library_reads_the_weights(path):
    save_weights(path, ARRAYS, CONFIG)
    np.testing.assert_array_equal(safetensors.numpy.load_file(path)["turned"], ARRAYS["turned"])


def test_equal_content_gives_equal_bytes(path, tmp_path):
    save_weights(path, ARRAYS, CONFIG)
    save_weights(tmp_path / "other", dict(reversed(ARRAYS.items())), CONFIG)
    assert path.read_bytes() == (tmp_path / "other").read_bytes()


def test_state_belongs_to_its_weights(path):
    sha256 = save_weights(path, ARRAYS, CONFIG)
    save_state(path, sha256, {"moment": ARRAYS["b.weight"]}, {"step": 12, "ema": None})
    state = load_state(load_weights(path))
    assert state.facts == {"step": 12, "ema": None}
    np.testing.assert_array_equal(state.arrays["moment"], ARRAYS["b.weight"])
    save_weights(path, {**ARRAYS, "a": np.array(8, np.int32)}, CONFIG)
    with pytest.raises(CheckpointError, match="does not belong to"):
        load_state(load_weights(path))


def test_weights_without_a_state_are_not_a_complete_checkpoint(tmp_path):
    for step in (30, 4):  # by step, not by name
        path = tmp_path / f"weights_e1_s{step}.safetensors"
        save_state(path, save_weights(path, ARRAYS, CONFIG), {}, {"step": step})
    path = tmp_path / "weights_e9_s99.safetensors"
    save_weights(path, ARRAYS, CONFIG)
    assert [found.name for found in complete_checkpoints(tmp_path)] == [
        "weights_e1_s4.safetensors",
        "weights_e1_s30.safetensors",
    ]
    with pytest.raises(CheckpointError, match="state.safetensors is missing, so .* can't be resumed"):
        load_state(load_weights(path))


@pytest.mark.parametrize("size", [0, 5, 40, 400, -1])
def test_a_truncated_file_is_named(path, size):
    save_weights(path, ARRAYS, CONFIG)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(
        CheckpointError, match=r"^checkpoint .* not a complete safetensors file [^\n]* truncated[^\n]*$"
    ):
        load_weights(path)


def test_a_path_that_is_not_a_checkpoint_is_named(path, tmp_path):
    with pytest.raises(CheckpointError, match="is missing; check the path"):
        load_weights(path)
    path.write_text("this is a text and no checkpoint " * 9)
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        load_weights(path)
    with pytest.raises(CheckpointError, match="is a directory; give a .safetensors file in it"):
        load_weights(tmp_path)


def test_weights_of_other_programs_are_not_a_checkpoint(path):
    safetensors.numpy.save_file({"w": np.zeros(3, np.float32)}, path)
    assert not is_own_checkpoint(path) and not is_own_checkpoint("any.pth")
    with pytest.raises(CheckpointError, match=f"was not written by mindloc .* --checkpoint_start {path}"):
        load_weights(path)
    save_weights(path, ARRAYS, CONFIG)
    assert is_own_checkpoint(path)


def test_a_newer_version_is_named(path):
    metadata = {"format": "mindloc.weights", "version": "3", "config": "{}", "facts": "{}"}
    safetensors.numpy.save_file({"w": np.zeros(3, np.float32)}, path, metadata)
    with pytest.raises(CheckpointError, match="has version '3', but this mindloc reads 2; update mindloc"):
        load_weights(path)


@pytest.mark.parametrize("config", ["{", "[]", "null"])
def test_a_broken_config_is_named(path, config):
    metadata = {"format": "mindloc.weights", "version": "2", "config": config, "facts": "{}"}
    write_tensor_file(path, {"w": np.zeros(3, np.float32)}, metadata, "weights")
    with pytest.raises(CheckpointError, match="has no readable config"):
        load_weights(path)


@pytest.mark.parametrize("seed", range(20))
def test_a_flipped_bit_is_noticed_in_weights_and_state(path, seed):
    sha256 = save_weights(path, ARRAYS, CONFIG)
    file = [path, save_state(path, sha256, ARRAYS, {"step": 1})][seed % 2]
    data = bytearray(file.read_bytes())
    place = np.random.default_rng(seed).integers(8 * len(data))
    data[place // 8] ^= 1 << place % 8
    file.write_bytes(data)
    with pytest.raises(CheckpointError):
        load_state(load_weights(path))


def test_a_damaged_older_state_is_ignored(tmp_path):
    for step in (1, 2):
        weights = tmp_path / f"weights_e{step}.safetensors"
        state = save_state(weights, save_weights(weights, ARRAYS, CONFIG), ARRAYS, {"step": step})
        os.utime(state, (step, step))
    (tmp_path / "weights_e1.state.safetensors").write_bytes(b"cut")
    os.utime(tmp_path / "weights_e1.state.safetensors", (1, 1))
    assert complete_checkpoints(tmp_path) == [tmp_path / "weights_e2.safetensors"]
    os.utime(tmp_path / "weights_e1.state.safetensors", (3, 3))  # now it may be the checkpoint to continue from
    with pytest.raises(CheckpointError, match="weights_e1.state.safetensors is not a complete safetensors file"):
        complete_checkpoints(tmp_path)


@pytest.mark.parametrize("suffix", [".ckpt", ".pth"])
def test_a_file_of_another_program_is_named_as_such(tmp_path, suffix):
    (tmp_path / f"encoder{suffix}").write_bytes(b"whole")
    with pytest.raises(
        CheckpointError, match=f"is a file of another program.* --checkpoint_start {tmp_path}/encoder{suffix}"
    ):
        load_weights(tmp_path / f"encoder{suffix}")


def test_weights_of_another_model_name_the_parameters(path):
    save_weights(path, ARRAYS, CONFIG)
    weights = load_weights(path)
    weights.require({name: array.shape for name, array in ARRAYS.items()})
    shapes = {"b.weight": (2, 4), "a": (), "c": (1,), "none": (0, 4)}
    message = r"1 missing \(c\); 1 unexpected \(turned\); 1 of other shape \(b.weight \(2, 3\) instead of \(2, 4\)\)"
    with pytest.raises(CheckpointError, match=message):
        weights.require(shapes)


def test_the_state_is_beside_its_weights(path):
    assert state_path(path).name == "weights_e1_0.5000.state.safetensors"
    assert json.dumps(CONFIG)  # plain values only, so that a checkpoint can contain it


def test_a_data_type_that_numpy_lacks_is_named(path):
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(CheckpointError, match="w has data type BF16, .* convert the file to float32"):
        read_tensor_file(path)


def test_a_training_state_given_as_weights_is_an_error(path):
    save_state(path, save_weights(path, ARRAYS, CONFIG), {}, {})
    with pytest.raises(CheckpointError, match="is a training state; give the weights file beside it"):
        load_weights(state_path(path))


def test_a_run_directory_resolves_to_its_best_weights_else_last_else_newest(tmp_path):
    directory = tmp_path / "run" / "checkpoints"
    with pytest.raises(CheckpointError, match="contains no complete checkpoint; give a run directory"):
        (tmp_path / "run").mkdir()
        resolve_checkpoint(tmp_path / "run")
    for step, name in ((1, "weights_e1"), (9, "weights_e9"), (5, "weights_e5")):
        weights = directory / f"{name}.safetensors"
        save_state(weights, save_weights(weights, ARRAYS, CONFIG), ARRAYS, {"step": step})
    said = []
    assert resolve_checkpoint(tmp_path / "run", said.append) == directory / "weights_e9.safetensors"
    for name in ("weights_end", "weights_best"):
        save_weights(directory / f"{name}.safetensors", ARRAYS, CONFIG)
        assert resolve_checkpoint(tmp_path / "run", said.append) == directory / f"{name}.safetensors"
    (tmp_path / "latest").symlink_to("run")  # as in work_dir: the message names the run itself
    assert resolve_checkpoint(tmp_path / "latest") == directory / "weights_best.safetensors"
    names = ("weights_e9", "weights_end", "weights_best")
    assert said == [f"checkpoint: {name}.safetensors of {tmp_path / 'run'}" for name in names]
    lone = directory / "weights_e1.safetensors"
    assert resolve_checkpoint(lone) == lone  # a file resolves to itself
    assert resolve_checkpoint(tmp_path / "absent") == tmp_path / "absent"  # reported when it is read


def test_a_pipe_or_a_device_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")  # would wait for a writer for ever
    with pytest.raises(CheckpointError, match="pipe.safetensors is a pipe, expected a file"):
        load_weights(tmp_path / "pipe.safetensors")
    with pytest.raises(CheckpointError, match="zero is a device, expected a file"):
        read_tensor_file(Path("/dev/zero"))


@pytest.mark.parametrize("facts", ["[" * 100_000, '{"step": "1"}', "[]", "{"])
def test_facts_that_no_training_wrote_are_refused(path, facts):
    save_weights(path, ARRAYS, CONFIG)
    metadata = {"format": "mindloc.state", "version": "2", "facts": facts}
    write_tensor_file(state_path(path), ARRAYS, metadata, "state")
    with pytest.raises(CheckpointError, match="has no readable facts|has step '1', expected a whole number"):
        complete_checkpoints(path.parent)


def test_a_state_that_is_a_link_to_itself_is_refused(path):
    save_weights(path, ARRAYS, CONFIG)
    state_path(path).symlink_to(state_path(path).name)
    assert complete_checkpoints(path.parent) == []
