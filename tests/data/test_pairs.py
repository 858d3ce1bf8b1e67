"""Edges and splits against lists written by hand."""

from pathlib import Path

import numpy as np
import pytest

from mindloc.data.split import Edges, Split

# drone 0: tiles 2, 0; drone 1: none; drone 2: tiles 2, 1
EDGES = Edges(
    np.array([0, 2, 2, 4], np.int64), np.array([2, 0, 2, 1], np.int32), np.array([0.5, 0.2, 0.9, 0.3], np.float32)
)
POSITIVE = Edges(np.array([0, 1, 1, 2], np.int64), np.array([2, 2], np.int32), np.array([0.5, 0.9], np.float32))


def split() -> Split:
    return Split(
        root=Path("root"),
        drone_files=["a", "b", "c"],
        satellite_files=["s0", "s1", "s2", "s3"],
        drone_place=np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]),
        satellite_place=np.zeros((4, 2)),
        place_unit="plane_m",
        positive=POSITIVE,
        semipositive=EDGES,
        drone_metadata=[{"height": 1}, {}, {"height": 3}],
    )


def test_drone_of_every_edge():
    assert EDGES.drone().tolist() == [0, 0, 2, 2]
    assert EDGES.drone_count == 3
    assert EDGES.satellites_of(1).tolist() == []
    assert EDGES.satellites_of(2).tolist() == [2, 1]


def test_by_satellite_turns_the_edges_round():
    turned = EDGES.by_satellite(4)
    # tile 0: drone 0; tile 1: drone 2; tile 2: drones 0 and 2; tile 3: none
    assert turned.start.tolist() == [0, 1, 2, 4, 4]
    assert [turned.drones_of(tile).tolist() for tile in range(4)] == [[0], [2], [0, 2], []]
    np.testing.assert_array_equal(turned.weight, np.array([0.2, 0.3, 0.5, 0.9], np.float32))


def test_pair_list_is_in_file_order_with_its_weights():
    pair_P2, weight_P = split().pair_list("pos_semipos")
    assert pair_P2.tolist() == [[0, 2], [0, 0], [2, 2], [2, 1]]
    assert pair_P2.dtype == np.int32
    np.testing.assert_array_equal(weight_P, EDGES.weight)
    assert split().pair_list("pos")[0].tolist() == [[0, 2], [2, 2]]


def test_unknown_mode_is_named():
    with pytest.raises(ValueError, match="semipos"):
        split().edges("semipos")


def test_take_drones_keeps_each_picture_with_its_own_pairs():
    part = split().take_drones(np.array([2, 1]))
    assert part.drone_files == ["c", "b"]
    assert part.drone_place.tolist() == [[4.0, 5.0], [2.0, 3.0]]
    assert part.drone_metadata == [{"height": 3}, {}]
    assert part.pair_list("pos_semipos")[0].tolist() == [[0, 2], [0, 1]]
    np.testing.assert_array_equal(part.semipositive.weight, np.array([0.9, 0.3], np.float32))
    assert part.pair_list("pos")[0].tolist() == [[0, 2]]
    assert part.satellite_files == split().satellite_files


def test_paths_lie_under_the_root():
    assert split().drone_paths() == [Path("root/a"), Path("root/b"), Path("root/c")]
    assert split().satellite_paths()[3] == Path("root/s3")
