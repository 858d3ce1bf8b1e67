"""metrics.jsonl: lines, incomplete lines, truncation."""

import json
import os

import pytest

from mindloc.errors import CheckpointError, MindlocError
from mindloc.training.reporting import MetricsLog, read_metrics


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for step in range(3):
        log.append("step", step=step, loss=0.1 * step)
    log.sync()
    log.close()
    return path


def test_lines_are_read_with_version_and_kind(path):
    records = read_metrics(path)
    assert [record["step"] for record in records] == [0, 1, 2]
    assert records[2]["loss"] == 0.2 and records[0]["kind"] == "step" and records[0]["version"] == 1


def test_opening_keeps_the_lines_before_the_checkpoint(path):
    log = MetricsLog(path, keep_lines=2)
    log.append("warning", text="w")
    log.close()
    assert [record["kind"] for record in read_metrics(path)] == ["step", "step", "warning"]
    assert log.lines == 3


def test_an_incomplete_last_line_is_ignored_and_removed(path):
    with open(path, "a") as file:
        file.write('{"version": 1, "kind": "st')
    assert len(read_metrics(path)) == 3
    MetricsLog(path, keep_lines=3).close()
    assert path.read_text().endswith("\n") and path.read_text().count("\n") == 3


def test_numbers_that_are_not_finite_become_null(tmp_path):
    log = MetricsLog(tmp_path / "m")
    log.append("step", loss=float("nan"), components={"a": float("inf")}, norms=[1.0, float("-inf")])
    log.close()
    record = json.loads((tmp_path / "m").read_text(), parse_constant=pytest.fail)
    assert (record["loss"], record["components"], record["norms"]) == (None, {"a": None}, [1.0, None])


def test_a_log_with_fewer_lines_than_its_checkpoint_is_an_error(path, tmp_path):
    with pytest.raises(CheckpointError, match="has 3 lines, but the checkpoint was written after 5"):
        MetricsLog(path, keep_lines=5)
    with pytest.raises(CheckpointError, match="has 0 lines"):
        MetricsLog(tmp_path / "absent", keep_lines=1)


def test_a_file_that_is_not_a_log_is_named(path, tmp_path):
    with pytest.raises(MindlocError, match="can't be read: No such file"):
        read_metrics(tmp_path / "absent")
    path.write_text("{}\n")
    with pytest.raises(MindlocError, match="line 1 is not a metrics record"):
        read_metrics(path)
    path.write_text('{"version": 2}\n')
    with pytest.raises(MindlocError, match="line 1 has version 2"):
        read_metrics(path)


def test_a_pipe_is_not_a_log(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")  # would wait for a writer for ever
    with pytest.raises(CheckpointError, match="metrics.jsonl is a pipe, expected a file"):
        MetricsLog(tmp_path / "metrics.jsonl")
