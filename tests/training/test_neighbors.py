"""Neighbor tables equal a naive sort of all tiles."""

import tracemalloc

import numpy as np
import pytest

from mindloc.data.hard_negatives import NO_NEIGHBOR
from mindloc.geo.points import distance_m
from mindloc.training import neighbors
from mindloc.training.neighbors import nearest_by_descriptor, nearest_on_map

NOTHING = (np.zeros(0, np.int64), np.zeros(0, np.int64))


def naive(score_QN: np.ndarray, k: int, excluded: set) -> list[list[int]]:
    """Tiles by decreasing score, then index, without excluded ones, padded with -1."""
    table = []
    for query, score_N in enumerate(score_QN):
        items = [item for item in range(len(score_N)) if (query, item) not in excluded]
        items.sort(key=lambda item, score=score_N: (-score[item], item))
        table.append((items + [-1] * k)[:k])
    return table


def some_cells(queries: int, items: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    cells = np.argwhere(np.random.default_rng(5).random((queries, items)) < share)
    return tuple(np.random.default_rng(6).permutation(cells).T)


@pytest.mark.parametrize("block_scores", [1, 200, 2**24])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_neighbors_by_descriptor_follow_the_definition(monkeypatch, block_scores, share):
    monkeypatch.setattr(neighbors, "_BLOCK_SCORES", block_scores)
    random = np.random.default_rng(0)
    query_QD, reference_ND = random.standard_normal((37, 8)), random.standard_normal((50, 8)) * 7
    cells = some_cells(37, 50, share)
    cosine_QN = (
        (query_QD @ reference_ND.T) / np.linalg.norm(query_QD, axis=1)[:, None] / np.linalg.norm(reference_ND, axis=1)
    )
    expected = naive(cosine_QN, 9, set(zip(*(index.tolist() for index in cells), strict=True)))
    assert nearest_by_descriptor(query_QD, reference_ND, 9, cells).tolist() == expected


def test_equal_scores_are_in_the_references_order():
    reference_ND = np.array([[1, 0], [0, 1], [2, 0], [1, 0], [3, 0]], np.float32)  # 0, 2, 3 and 4 have cosine 1
    assert nearest_by_descriptor(np.array([[5.0, 0]]), reference_ND, 5, NOTHING).tolist() == [[0, 2, 3, 4, 1]]


def test_more_neighbors_than_references_are_padded():
    table = nearest_by_descriptor(np.eye(2), np.eye(2), 3, (np.array([1]), np.array([0])))
    assert table.tolist() == [[0, 1, NO_NEIGHBOR], [1, NO_NEIGHBOR, NO_NEIGHBOR]]
    assert table.dtype == np.int32


@pytest.mark.parametrize("queries", [0, 2])
def test_an_empty_reference_side_has_no_neighbors(queries):
    for table in (
        nearest_by_descriptor(np.ones((queries, 3)), np.zeros((0, 3), np.float32), 2, NOTHING),
        nearest_on_map(np.ones((queries, 2)), np.zeros((0, 2)), "lat_lon_deg", 2, NOTHING),
    ):
        assert table.tolist() == [[NO_NEIGHBOR, NO_NEIGHBOR]] * queries
        assert table.dtype == np.int32 and table.shape == (queries, 2)


@pytest.mark.parametrize(
    ("unit", "low", "high"),
    [("plane_m", (0, 0), (11_000, 11_000)), ("lat_lon_deg", (31.0, 121.0), (31.2, 121.3)),
     ("lat_lon_deg", (-20.0, 179.9), (-19.9, 180.1))],
)  # fmt: skip
def test_neighbors_on_the_map_follow_the_definition(unit, low, high):
    random = np.random.default_rng(1)
    query_Q2, reference_N2 = random.uniform(low, high, (40, 2)), random.uniform(low, high, (300, 2))
    if unit == "lat_lon_deg":
        query_Q2[:, 1] = (query_Q2[:, 1] + 180) % 360 - 180  # across the 180th meridian
        reference_N2[:, 1] = (reference_N2[:, 1] + 180) % 360 - 180
    cells = some_cells(40, 300, 0.2)
    expected = naive(
        -distance_m(query_Q2, reference_N2, unit), 12, set(zip(*map(np.ndarray.tolist, cells), strict=True))
    )
    assert nearest_on_map(query_Q2, reference_N2, unit, 12, cells).tolist() == expected


def test_a_block_is_in_memory_once_with_its_indices(monkeypatch):
    monkeypatch.setattr(neighbors, "_BLOCK_SCORES", 2**20)
    random = np.random.default_rng(2)
    query_QD, reference_ND = (random.standard_normal((rows, 4)).astype(np.float32) for rows in (4096, 1024))
    tracemalloc.start()
    nearest_by_descriptor(query_QD, reference_ND, 4, NOTHING)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # scores (4 bytes) and indices (8 bytes) of a block are 12 MiB; the rest (rows, kept columns) is less than 1 MiB
    assert peak < 13 * 2**20


def test_an_unknown_unit_is_an_error():
    with pytest.raises(ValueError, match="place unit is 'feet'"):
        nearest_on_map(np.zeros((1, 2)), np.zeros((1, 2)), "feet", 1, NOTHING)
