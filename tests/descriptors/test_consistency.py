"""Node consistency: by hand, by the definition, and its invariances."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindloc.descriptors.ranking import node_consistency
from mindloc.errors import DataError


def naive(query_E, tile_E, nodes):
    """The definition, one tile at a time."""
    query, tile = query_E.reshape(nodes, -1), tile_E.reshape(nodes, -1)

    def mean_cosine(order):
        pairs = [(query[k], tile[order[k]]) for k in range(nodes)]
        return np.mean([a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in pairs])

    return max(mean_cosine(order) for order in permutations(range(nodes)))


def test_by_hand():
    query = np.array([1.0, 0, 0, 1])  # nodes along x, along y
    tiles = np.array([[0, 2.0, 3, 0], [1, 1, 1, -1]])
    # the first tile has the same nodes in the other order; for the second, either assignment has cosines 1/sqrt(2) and
    # -1/sqrt(2), or 1/sqrt(2) twice: x to (1, -1) and y to (1, 1)
    np.testing.assert_allclose(node_consistency(query, tiles, 2), [1, 1 / np.sqrt(2)])


@pytest.mark.parametrize("nodes", [1, 2, 4, 6])
def test_it_is_the_definition(nodes):
    random = np.random.default_rng(nodes)
    query_E, tile_ME = random.standard_normal(nodes * 3), random.standard_normal((7, nodes * 3))
    np.testing.assert_allclose(node_consistency(query_E, tile_ME, nodes), [naive(query_E, t, nodes) for t in tile_ME])


def test_each_tile_has_its_own_assignment():
    random = np.random.default_rng(2)
    query_E, tile_ME = random.standard_normal(8 * 3), random.standard_normal((100, 8 * 3))
    together = node_consistency(query_E, tile_ME, 8)
    np.testing.assert_array_equal(together, [node_consistency(query_E, tile[None], 8)[0] for tile in tile_ME])


@given(nodes=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_the_order_of_the_nodes_does_not_matter(nodes, seed):
    random = np.random.default_rng(seed)
    query_KC, tile_KC = random.standard_normal((2, nodes, 4))
    one = node_consistency(query_KC.ravel(), tile_KC.reshape(1, -1), nodes)
    other = node_consistency(query_KC.ravel(), tile_KC[random.permutation(nodes)].reshape(1, -1), nodes)
    np.testing.assert_allclose(one, other)
    shuffled = query_KC[random.permutation(nodes)].reshape(1, -1)
    np.testing.assert_allclose(node_consistency(query_KC.ravel(), shuffled, nodes), [1.0])


def test_consistency_of_a_tile_with_itself_is_one():
    random = np.random.default_rng(1)
    nodes = random.standard_normal(8 * 3)
    np.testing.assert_allclose(node_consistency(nodes, nodes[None], 8), [1.0])
    np.testing.assert_allclose(node_consistency(nodes[:3], nodes[None, :3], 1), [1.0])


def test_a_node_of_zeros_has_cosine_zero():
    query = np.array([1.0, 0, 0, 0])
    np.testing.assert_allclose(node_consistency(query, query[None], 2), [0.5])


@pytest.mark.parametrize(("width", "tile_width", "nodes"), [(6, 6, 4), (6, 9, 3), (6, 6, 0)])
def test_a_width_that_is_not_a_multiple_of_the_nodes_raises(width, tile_width, nodes):
    with pytest.raises(DataError, match=f"width {width} and {tile_width} can't be compared as {nodes} nodes"):
        node_consistency(np.ones(width), np.ones((2, tile_width)), nodes)
