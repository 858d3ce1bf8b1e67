"""Node consistency: by hand, by the definition, and unmoved by what must not matter."""

from itertools import permutations

import numpy as np
import pytest

from mindloc.errors import TileIndexError
from mindloc.retrieval.consistency import node_consistency


def naive(query_E, tile_E, nodes, query_centroids=None, tile_centroids=None):
    """The definition, one tile at a time."""
    query, tile = query_E.reshape(nodes, -1), tile_E.reshape(nodes, -1)

    def mean_cosine(order):
        pairs = [(query[k], tile[order[k]]) for k in range(nodes)]
        return np.mean([a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in pairs])

    best = max(permutations(range(nodes)), key=mean_cosine)
    if query_centroids is None:
        return mean_cosine(best)
    here, there = query_centroids.reshape(nodes, 2), tile_centroids.reshape(nodes, 2)
    gaps = [
        abs(np.linalg.norm(here[k] - here[other]) - np.linalg.norm(there[best[k]] - there[best[other]]))
        for k in range(nodes)
        for other in range(k + 1, nodes)
    ]
    return (mean_cosine(best) + 1 - np.mean(gaps) / np.sqrt(2)) / 2


def test_by_hand():
    query = np.array([1.0, 0, 0, 1])  # nodes along x, along y
    tiles = np.array([[0, 2.0, 3, 0], [1, 1, 1, -1]])
    # the first has the same nodes in the other order; in the second either assignment has cosines 1/sqrt(2) and
    # -1/sqrt(2), or 1/sqrt(2) twice: x to (1, -1) and y to (1, 1)
    np.testing.assert_allclose(node_consistency(query, tiles, 2), [1, 1 / np.sqrt(2)])
    # nodes that are sqrt(2) apart in the query and nowhere apart in the tile: the layout agrees by 1 - sqrt(2)/sqrt(2)
    scores = node_consistency(query, tiles[:1], 2, np.array([0, 0, 1, 1]), np.array([[0.5, 0.5, 0.5, 0.5]]))
    np.testing.assert_allclose(scores, [(1 + 0) / 2])


@pytest.mark.parametrize("nodes", [1, 2, 4, 6])
def test_it_is_the_definition(nodes):
    random = np.random.default_rng(nodes)
    query_E, tile_ME = random.standard_normal(nodes * 3), random.standard_normal((7, nodes * 3))
    np.testing.assert_allclose(node_consistency(query_E, tile_ME, nodes), [naive(query_E, t, nodes) for t in tile_ME])
    if nodes > 1:
        here, there = random.uniform(size=2 * nodes), random.uniform(size=(7, 2 * nodes))
        expected = [naive(query_E, t, nodes, here, c) for t, c in zip(tile_ME, there, strict=True)]
        np.testing.assert_allclose(node_consistency(query_E, tile_ME, nodes, here, there), expected)


def test_the_order_of_the_nodes_and_the_turn_of_the_tile_do_not_matter():
    random = np.random.default_rng(0)
    query_E, tile, places = random.standard_normal(20), random.standard_normal((5, 4)), random.uniform(size=(5, 2))
    order = random.permutation(5)
    turned = np.stack([places[:, 1], 1 - places[:, 0]], axis=1)  # by a quarter
    here = random.uniform(size=10)
    one = node_consistency(query_E, tile.reshape(1, -1), 5, here, places.reshape(1, -1))
    other = node_consistency(query_E, tile[order].reshape(1, -1), 5, here, turned[order].reshape(1, -1))
    np.testing.assert_allclose(one, other)


def test_a_tile_agrees_wholly_with_itself():
    random = np.random.default_rng(1)
    nodes, places = random.standard_normal(8 * 3), random.uniform(size=16)
    np.testing.assert_allclose(node_consistency(nodes, nodes[None], 8, places, places[None]), [1.0])
    np.testing.assert_allclose(node_consistency(nodes[:3], nodes[None, :3], 1, places[:2], places[None, 2:4]), [1.0])


def test_a_node_of_zeros_agrees_with_nothing():
    query = np.array([1.0, 0, 0, 0])
    np.testing.assert_allclose(node_consistency(query, query[None], 2), [0.5])


@pytest.mark.parametrize(("width", "tile_width", "nodes"), [(6, 6, 4), (6, 9, 3), (9, 9, 9), (6, 6, 0)])
def test_vectors_that_do_not_consist_of_nodes_are_refused(width, tile_width, nodes):
    with pytest.raises(TileIndexError, match=f"width {width} and {tile_width} can't be compared as {nodes} nodes"):
        node_consistency(np.ones(width), np.ones((2, tile_width)), nodes)
