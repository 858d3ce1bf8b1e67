"""Two-stage search: the definition with NumPy, its limits, and the facts about stages in each answer."""

import dataclasses

import numpy as np
import pytest

from mindloc.descriptors.ranking import node_consistency
from mindloc.errors import TileIndexError
from mindloc.search.faiss_index import build_faiss_index
from mindloc.search.index import Box, IndexCard, Tiles
from mindloc.search.two_stage import two_stage_search

COUNT, WIDTH, NODES, NODE_WIDTH = 200, 12, 3, 4
CARD = IndexCard("flat", "omega", WIDTH, NODES * NODE_WIDTH, NODES, "plane_m", None, None)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def make(card=CARD):
    random = np.random.default_rng(0)
    place_N2 = random.uniform(0, 10, (COUNT, 2))
    rerank_NE = random.standard_normal((COUNT, NODES * NODE_WIDTH)) if card.rerank_dimension else None
    names = [str(index) for index in range(COUNT)]
    bounds_N4 = np.full((COUNT, 4), np.nan)
    tiles = Tiles(names, random.standard_normal((COUNT, WIDTH)), rerank_NE, place_N2, bounds_N4)
    return tiles, build_faiss_index(card, tiles)


def queries(count=6):
    random = np.random.default_rng(1)
    return random.standard_normal((count, WIDTH)), random.standard_normal((count, NODES * NODE_WIDTH))


def naive(tiles, query_D, query_E, n, k, m, inside_N=None):
    """The definition of a two-stage search: names, scores and ranks in stage one."""
    recall_N = unit(tiles.recall_ND) @ query_D / np.linalg.norm(query_D)
    allowed = range(COUNT) if inside_N is None else np.flatnonzero(inside_N)
    recalled = sorted(allowed, key=lambda row: -recall_N[row])[:n]
    score = {row: unit(tiles.rerank_NE)[row] @ query_E / np.linalg.norm(query_E) for row in recalled}
    ordered = sorted(recalled, key=lambda row: -score[row])
    first = ordered[:m]
    consistency = node_consistency(query_E, tiles.rerank_NE[first], NODES) if first else []
    score |= dict(zip(first, consistency, strict=True))
    ordered = (sorted(first, key=lambda row: -score[row]) + ordered[m:])[:k]
    return [str(r) for r in ordered], [score[r] for r in ordered], [recalled.index(r) + 1 for r in ordered]


@pytest.mark.parametrize("box", [None, Box((2, 2), (5, 7))])
@pytest.mark.parametrize(
    ("n", "k", "m"), [(50, 10, 0), (50, 10, 20), (50, 10, 4), (10, 10, 10), (1, 1, 1), (COUNT, 3, 0)]
)
def test_it_is_the_definition(n, k, m, box):
    tiles, index = make()
    inside_N = None if box is None else ((tiles.place_N2 >= box.low) & (tiles.place_N2 <= box.high)).all(axis=1)
    query_QD, query_QE = queries()
    found = two_stage_search(index, query_QD, query_QE, n, k, m, box)
    for query in range(len(query_QD)):
        names, scores, places = naive(tiles, query_QD[query], query_QE[query], n, k, m, inside_N)
        assert found.names[query] == names and found.compared[query] == min(m, len(names))
        np.testing.assert_allclose(found.scores[query], scores, atol=1e-6)
        np.testing.assert_array_equal(found.recall_rank[query], places)


def test_a_batch_equals_its_queries_one_by_one():
    _, index = make()
    query_QD, query_QE = queries()
    together = two_stage_search(index, query_QD, query_QE, 40, 8, 5)
    for query in range(len(query_QD)):
        alone = two_stage_search(index, query_QD[query : query + 1], query_QE[query : query + 1], 40, 8, 5)
        assert alone.names == together.names[query : query + 1]


def test_recalling_everything_leaves_the_decision_to_stage_two():
    tiles, index = make()
    query_QD, query_QE = queries()
    found = two_stage_search(index, query_QD, query_QE, COUNT, 1)
    best = (unit(query_QE) @ unit(tiles.rerank_NE).T).argmax(axis=1)
    assert found.names == [[str(row)] for row in best]


def test_without_rerank_vectors_stage_one_decides():
    _, index = make()
    query_QD, _ = queries()
    found = two_stage_search(index, query_QD, None, n=1, k=7)
    assert found.names == index.recall(query_QD, 7).names
    assert [places.tolist() for places in found.recall_rank] == [[1, 2, 3, 4, 5, 6, 7]] * 6
    assert found.recall_s > 0 and found.rerank_s == found.consistency_s == 0


def test_a_box_that_contains_fewer_tiles_has_fewer_answers():
    tiles, index = make()
    x, y = tiles.place_N2[5]
    query_QD, query_QE = queries()
    found = two_stage_search(index, query_QD, query_QE, 50, 10, 10, Box((x, y), (x, y)))
    assert found.names == [["5"]] * 6
    nowhere = two_stage_search(index, query_QD, query_QE, 50, 10, 10, Box((50, 50), (60, 60)))
    assert nowhere.names == [[]] * 6 and [len(places) for places in nowhere.recall_rank] == [0] * 6


def test_the_seconds_of_every_stage_are_measured():
    _, index = make()
    found = two_stage_search(index, *queries(), 50, 10, 10)
    assert found.recall_s > 0 and found.rerank_s > 0 and found.consistency_s > 0


@pytest.mark.parametrize(
    ("n", "k", "m", "message"),
    [
        (10, 11, 0, "11 answers are requested from 10 recalled tiles"),
        (10, 5, 11, "11 of them compared by nodes"),
        (COUNT + 1, 5, 0, "201 answers are requested, but the index has 200 tiles"),
        (10, 0, 0, "0 answers"),
        (10, 5, -1, "-1 of them compared"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(n, k, m, message):
    _, index = make()
    with pytest.raises(TileIndexError, match=message):
        two_stage_search(index, *queries(), n, k, m)


def test_the_tiles_are_not_counted_for_every_batch():
    """A Milvus server takes a fifth of a second to count them."""

    class Uncountable:
        def __init__(self, index):
            self.card, self.recall, self.rerank = index.card, index.recall, index.rerank
            self.rerank_vectors = index.rerank_vectors

    _, index = make()
    found = two_stage_search(Uncountable(index), *queries(), 50, 10, 10)
    assert found.names == two_stage_search(index, *queries(), 50, 10, 10).names


def test_an_index_that_lacks_what_a_stage_needs_says_so():
    query_QD, query_QE = queries()
    _, single = make(dataclasses.replace(CARD, rerank_dimension=None, nodes=None))
    with pytest.raises(TileIndexError, match="contains no re-rank vectors; search by stage one alone"):
        two_stage_search(single, query_QD, query_QE, 10, 5)
    _, without_nodes = make(dataclasses.replace(CARD, nodes=None))
    with pytest.raises(TileIndexError, match="does not say how many nodes"):
        two_stage_search(without_nodes, query_QD, query_QE, 10, 5, 3)
    _, index = make()
    with pytest.raises(TileIndexError, match="node consistency of 3 answers needs re-rank vectors"):
        two_stage_search(index, query_QD, None, 10, 5, 3)
    with pytest.raises(TileIndexError, match="6 recall vectors, but 5 re-rank vectors"):
        two_stage_search(index, query_QD, query_QE[:5], 10, 5)
