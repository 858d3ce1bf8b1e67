"""Edges and splits equal lists written by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mindloc.data.split import Edges, Places, Side, Split, split_checksum

# drone 0: tiles 2, 0; drone 1: none; drone 2: tiles 2, 1
EDGES = Edges(
    np.array([0, 2, 2, 4], np.int64),
    np.array([2, 0, 2, 1], np.int32),
    {"iou": np.array([0.5, 0.2, 0.9, 0.3], np.float32)},
)
POSITIVE = Edges(
    np.array([0, 1, 1, 2], np.int64), np.array([2, 2], np.int32), {"iou": np.array([0.5, 0.9], np.float32)}
)


def split() -> Split:
    return Split(
        root=Path("root"),
        query=Side("drone", ["a", "b", "c"], Places(np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]), "plane_m")),
        reference=Side("satellite", ["s0", "s1", "s2", "s3"], Places(np.zeros((4, 2)), "plane_m")),
        positive=POSITIVE,
        semipositive=EDGES,
    )


def test_the_query_of_every_edge():
    assert EDGES.query().tolist() == [0, 0, 2, 2]
    assert EDGES.query_count == 3
    assert EDGES.references_of(1).tolist() == []
    assert EDGES.references_of(2).tolist() == [2, 1]


def test_swapped_edges_are_stored_by_reference():
    turned = EDGES.swapped(4)
    # tile 0: drone 0; tile 1: drone 2; tile 2: drones 0 and 2; tile 3: none
    assert turned.start.tolist() == [0, 1, 2, 4, 4]
    assert [turned.references_of(tile).tolist() for tile in range(4)] == [[0], [2], [0, 2], []]
    np.testing.assert_array_equal(turned.columns["iou"], np.array([0.2, 0.3, 0.5, 0.9], np.float32))


def test_pairs_are_in_file_order():
    pair_P2 = split().edges("pos_semipos").pairs()
    assert pair_P2.tolist() == [[0, 2], [0, 0], [2, 2], [2, 1]]
    assert pair_P2.dtype == np.int32
    assert split().edges("pos").pairs().tolist() == [[0, 2], [2, 2]]


def test_unknown_mode_is_named():
    with pytest.raises(ValueError, match="semipos"):
        split().edges("semipos")


def test_take_queries_keeps_the_pairs_of_each_image():
    part = split().take_queries(np.array([2, 1]))
    assert part.query.files == ["c", "b"]
    assert part.query.places.coordinate_N2.tolist() == [[4.0, 5.0], [2.0, 3.0]]
    assert part.edges("pos_semipos").pairs().tolist() == [[0, 2], [0, 1]]
    np.testing.assert_array_equal(part.semipositive.columns["iou"], np.array([0.9, 0.3], np.float32))
    assert part.edges("pos").pairs().tolist() == [[0, 2]]
    assert part.reference.files == split().reference.files


def test_paths_are_below_the_root():
    assert split().paths("query") == [Path("root/a"), Path("root/b"), Path("root/c")]
    assert split().paths("reference")[3] == Path("root/s3")


def changed(array, *place):
    array = array.copy()
    array[place] += 1
    return array


def test_the_checksum_of_a_split_covers_all_that_determines_a_training_run():
    whole = split()
    places = replace(whole.query.places, coordinate_N2=changed(whole.query.places.coordinate_N2, 0, 1))
    sums = [
        split_checksum(other, mode)
        for other, mode in [
            (whole, "pos"),
            (whole, "pos_semipos"),
            (replace(whole, query=replace(whole.query, files=["a", "c", "b"])), "pos"),
            (replace(whole, query=replace(whole.query, files=["a", "b", "c", "s0"])), "pos"),
            (replace(whole, query=replace(whole.query, places=places)), "pos"),
            (replace(whole, query=replace(whole.query, places=None)), "pos"),
            (replace(whole, positive=replace(POSITIVE, reference=changed(POSITIVE.reference, 1))), "pos"),
            (replace(whole, semipositive=replace(EDGES, reference=changed(EDGES.reference, 1))), "pos"),
            (replace(whole, positive=replace(POSITIVE, columns={"iou": changed(POSITIVE.columns["iou"], 0)})), "pos"),
        ]
    ]
    assert len(set(sums)) == len(sums)
    assert split_checksum(replace(whole, root=Path("elsewhere")), "pos") == sums[0]
