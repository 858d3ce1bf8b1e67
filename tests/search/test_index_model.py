"""An index on FAISS equals a dictionary: after any adding, replacing, removing and saving, both answer alike."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mindloc.search.faiss_index import build_faiss_index, load_faiss_index
from mindloc.search.faiss_kinds import FaissParameters
from mindloc.search.index import Box, IndexCard, TileFacts, Tiles

WIDTH, RERANK_WIDTH = 5, 3
NAMES = st.lists(st.sampled_from("abcdefgh"), max_size=5, unique=True)
STEPS = st.lists(st.tuples(st.sampled_from(["add", "add", "remove", "save"]), NAMES), max_size=12)


def make_tiles(names, random):
    """Vectors of unit length; every other tile without a place."""
    recall_ND, rerank_NE = (random.standard_normal((len(names), width)) for width in (WIDTH, RERANK_WIDTH))
    place_N2 = random.integers(0, 4, (len(names), 2)).astype(np.float64)
    place_N2[::2] = np.nan
    bounds_N4 = np.concatenate([place_N2 - 1, place_N2 + 1], axis=1)
    return Tiles(names, unit(recall_ND), unit(rerank_NE), place_N2, bounds_N4)


def unit(row_ND):
    return row_ND / np.linalg.norm(row_ND, axis=1, keepdims=True)


def facts_of(tiles, row):
    place, bounds = tiles.place_N2[row], tiles.bounds_N4[row]
    known = not np.isnan(place).any()
    return TileFacts(tiles.names[row], tuple(place) if known else None, tuple(bounds) if known else None)


def names_by_cosine(model, query_D, box=None):
    """The definition of recall: the tiles in the box by descending cosine."""

    def inside(place):
        return box is None or (place and np.all(np.less_equal(box.low, place) & np.less_equal(place, box.high)))

    found = [name for name, (_, _, facts) in model.items() if inside(facts.place)]
    return sorted(found, key=lambda name: -(model[name][0] @ query_D))


def check(index, model, random):
    assert index.count == len(model)
    if not model:
        return
    query_D = unit(random.standard_normal((1, WIDTH)))[0]
    for box in (None, Box((1, 0), (2, 3))):
        (found,) = index.recall(query_D[None], len(model), box).names
        assert found == names_by_cosine(model, query_D, box)
    names = list(random.permutation(list(model)))
    assert index.facts(names) == [model[name][2] for name in names]
    np.testing.assert_allclose(index.rerank_vectors(names), [model[name][1] for name in names], atol=1e-6)
    query_E = unit(random.standard_normal((1, RERANK_WIDTH)))
    (ordered,) = index.rerank(query_E, [names], len(names)).names
    assert ordered == sorted(names, key=lambda name: -(model[name][1] @ query_E[0]))


@given(steps=STEPS, kind=st.sampled_from(["flat", "hnsw"]), seed=st.integers(0, 2**32 - 1))
def test_an_index_answers_like_a_dictionary_of_tiles(steps, kind, seed):
    random, model = np.random.default_rng(seed), {}
    card = IndexCard(kind, "omega", WIDTH, RERANK_WIDTH, None, "plane_m", None, None)
    index = build_faiss_index(card, make_tiles([], random), FaissParameters(ef_search=200))
    with TemporaryDirectory() as directory:
        for step, names in steps:
            if step == "add":
                tiles = make_tiles(names, random)
                index.add(tiles)
                for row, name in enumerate(names):
                    model[name] = tiles.recall_ND[row], tiles.rerank_NE[row], facts_of(tiles, row)
            elif step == "remove":
                present = [name for name in names if name in model]
                index.remove(present)
                for name in present:
                    del model[name]
            else:
                index.save(Path(directory) / "index")
                check(load_faiss_index(Path(directory) / "index"), model, random)
                index = load_faiss_index(Path(directory) / "index", memory_map=False)
            check(index, model, random)
