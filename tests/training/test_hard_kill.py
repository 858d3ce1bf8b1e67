"""A training run with hard negatives that is killed in an epoch or a search, and resumed, ends bit-identical."""

import pytest
from test_kill_resume import Server, assert_same_bits, records

from mindloc.runtime.checkpoint import complete_checkpoints, load_state, load_weights


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("hard"), script="hard_run.py")
    yield server
    server.close()


@pytest.fixture(scope="module")
def whole(server):
    assert server.run("whole") == 0, (server.directory / "whole.txt").read_text()
    return server.directory / "whole"


def last_of(run):
    weights = load_weights(complete_checkpoints(run / "checkpoints")[-1])
    return weights, load_state(weights)


def assert_same_end(run, whole):
    (weights, state), (expected, expected_state) = last_of(run), last_of(whole)
    assert_same_bits(weights.arrays, expected.arrays)
    assert_same_bits(state.arrays, expected_state.arrays)
    assert state.facts == expected_state.facts
    assert records(run) == records(whole)
    assert {path.name for path in run.iterdir()} == {path.name for path in whole.iterdir()}


def test_every_epoch_but_the_first_reads_neighbors_computed_before_it(whole):
    lines = records(whole)
    assert [line["epoch"] for line in lines if line["kind"] == "neighbors"] == [1, 2, 3]
    mined = [line["sampling"]["mined"] for line in lines if line["kind"] == "epoch"]
    assert mined[0] == 0 and min(mined[1:]) > 0
    _, state = last_of(whole)
    assert state.facts["neighbors"]["done_epochs"] == 3 and state.arrays["neighbors"].shape == (12, 4)
    assert not (whole / "neighbors").exists()


# the number after a name is that of the call: an epoch has up to 4 steps, a search has 3 batches of each view
@pytest.mark.parametrize(
    "fault",
    [
        "epoch.mid:2",  # inside the first epoch that reads neighbors
        "extract.mid:2",  # in the first search, with the drone images
        "extract.mid:11",  # in the second, with the tiles
        "weights.before_write:6",  # a table was computed, but no checkpoint contains it
        "checkpoint.between_weights_and_state:9",
    ],
)
def test_a_killed_and_resumed_run_ends_bit_identical(server, whole, fault):
    name = fault.replace(".", "_").replace(":", "_")
    assert server.run(name, environment={"MINDLOC_FAULT": fault}) == -9
    assert server.run(name) == 0, (server.directory / f"{name}.txt").read_text()
    assert_same_end(server.directory / name, whole)


def test_a_run_killed_in_an_epoch_and_then_in_the_next_search(server, whole):
    assert server.run("twice", environment={"MINDLOC_FAULT": "epoch.mid:2"}) == -9
    _, state = last_of(server.directory / "twice")
    assert state.facts["progress"]["epoch"] == 1 and state.facts["progress"]["step_in_epoch"] > 0
    assert state.facts["neighbors"]["done_epochs"] == 1  # the table for the rest of the epoch
    assert server.run("twice", environment={"MINDLOC_FAULT": "extract.mid:2"}) == -9
    assert server.run("twice") == 0
    assert_same_end(server.directory / "twice", whole)


def test_a_failed_search_ends_the_training_although_the_loader_waits_for_it(server):
    directory = server.directory / "full"
    directory.mkdir()
    (directory / "neighbors").write_text("a file in the place of the directory of descriptors")
    assert server.run("full") == 1
    said = (server.directory / "full.txt").read_text()
    assert "DataError: can't write descriptor set" in said
    assert "not finished and cannot be joined" not in said
