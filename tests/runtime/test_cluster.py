"""The launcher's environment of a rank, and the check that all ranks have the same content."""

import numpy as np
import pytest

from mindloc.errors import LaunchError
from mindloc.runtime.cluster import ALONE, Cluster, announced_device, announced_ranks

WORKER = {"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "4", "DEVICE_ID": "3"}
FROM_TABLE = {"RANK_TABLE_FILE": "rank_table.json", "RANK_ID": "1", "RANK_SIZE": "8", "DEVICE_ID": "1"}


@pytest.mark.parametrize(
    ("environment", "ranks"),
    [
        ({}, 1),
        (WORKER, 4),
        ({**WORKER, "MS_ROLE": "MS_SCHED"}, 4),
        (FROM_TABLE, 8),
        ({"RANK_TABLE_FILE": "rank_table.json"}, 1),  # only a table, perhaps left in the shell
        ({"RANK_ID": "1", "RANK_SIZE": "8"}, 1),
        ({"MS_WORKER_NUM": "4"}, 1),
    ],
)
def test_announced_ranks(environment, ranks):
    assert announced_ranks(environment) == ranks


def test_announced_device():
    assert announced_device(WORKER) == 3 and announced_device(FROM_TABLE) == 1
    assert announced_device({"MS_ROLE": "MS_SCHED"}) == 0  # the scheduler has no card


@pytest.mark.parametrize("text", ["", "two", "-1", "\u0663", "9" * 5000])
def test_a_variable_that_is_not_a_number_is_named(text):
    with pytest.raises(LaunchError, match="MS_WORKER_NUM is .* expected a number"):
        announced_ranks({**WORKER, "MS_WORKER_NUM": text})
    with pytest.raises(LaunchError, match="DEVICE_ID is"):
        announced_device({**WORKER, "DEVICE_ID": text})


class TwoRanks(Cluster):
    """The first of two ranks; ``other`` is the content of the second."""

    other: dict

    def gather(self, rows):
        theirs = Recording(1, 2)
        theirs.require_agreement(self.other)
        return np.concatenate([rows, theirs.rows])


class Recording(Cluster):
    """A cluster that records the rows it would have sent."""

    def gather(self, rows):
        object.__setattr__(self, "rows", rows)
        return np.concatenate([rows, rows])


def agreement(own, other):
    cluster = TwoRanks(0, 2)
    object.__setattr__(cluster, "other", other)
    cluster.require_agreement(own)


def test_ranks_with_the_same_content_continue():
    agreement({"config": "a", "weights": b"\0\1"}, {"config": "a", "weights": b"\0\1"})
    ALONE.require_agreement({"config": "a"})


def test_content_that_differs_is_named():
    with pytest.raises(LaunchError, match="weights"):
        agreement({"config": "a", "weights": b"\0\1"}, {"config": "a", "weights": b"\0\2"})
