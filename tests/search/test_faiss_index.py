"""Tile indexes on FAISS: exact kinds equal NumPy; disk, removal and boxes work for every kind; damage is named."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import faiss
import fault_points
import numpy as np
import pytest

from mindloc.descriptors.ranking import rank_references
from mindloc.errors import TileIndexError
from mindloc.reading import checksum as checksum_of
from mindloc.reading import json_checksum
from mindloc.runtime import files as atomic
from mindloc.search import faiss_index, index_directory
from mindloc.search.faiss_index import build_faiss_index, load_faiss_index
from mindloc.search.faiss_kinds import KINDS, FaissParameters, resolve
from mindloc.search.index import Box, IndexCard, TileFacts, Tiles

COUNT, WIDTH, RERANK_WIDTH = 600, 16, 6
CARD = IndexCard("flat", "omega", WIDTH, RERANK_WIDTH, 3, "plane_m", "c" * 64, "d" * 64)
# with so many lists and candidates, the approximate kinds compare all tiles
THOROUGH = FaissParameters(nlist=6, nprobe=6, pq_bytes=8, ef_search=COUNT, ef_construction=200)
EXACT_KINDS = ("flat", "ivf_flat", "hnsw")  # exact with THOROUGH


def make_tiles(count=COUNT, seed=0, prefix="tile"):
    """Random tiles on a plane of 100 by 100 m; every seventh without a place."""
    random = np.random.default_rng(seed)
    place_N2 = random.uniform(0, 100, (count, 2))
    place_N2[::7] = np.nan
    return Tiles(
        names=[f"{prefix}/{index}.png" for index in range(count)],
        recall_ND=random.standard_normal((count, WIDTH)) * random.uniform(0.5, 3, (count, 1)),
        rerank_NE=random.standard_normal((count, RERANK_WIDTH)),
        place_N2=place_N2,
        bounds_N4=np.concatenate([place_N2 - 1, place_N2 + 1], axis=1),
    )


def build(kind, tiles=None, parameters=THOROUGH):
    return build_faiss_index(dataclasses.replace(CARD, kind=kind), tiles or make_tiles(), parameters)


def queries(count=9, width=WIDTH, seed=5):
    return np.random.default_rng(seed).standard_normal((count, width))


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def naive_recall(tiles, query_QD, k, allowed_N=None):
    """Names and cosines by the definition."""
    score_QN = unit(query_QD) @ unit(tiles.recall_ND).T
    allowed = np.arange(len(tiles.names)) if allowed_N is None else np.flatnonzero(allowed_N)
    best = [allowed[np.argsort(-score_N[allowed])][:k] for score_N in score_QN]
    return [[tiles.names[row] for row in rows] for rows in best], [s[r] for s, r in zip(score_QN, best, strict=True)]


def cut(tiles, part):
    rows = range(len(tiles.names))[part]
    arrays = (tiles.recall_ND, tiles.rerank_NE, tiles.place_N2, tiles.bounds_N4)
    return Tiles([tiles.names[row] for row in rows], *(array[part] for array in arrays))


def assert_same_answers(one, other, k=10, box=None):
    found, expected = one.recall(queries(), k, box), other.recall(queries(), k, box)
    assert found.names == expected.names
    for score_K, expected_K in zip(found.scores, expected.scores, strict=True):
        np.testing.assert_allclose(score_K, expected_K, atol=1e-6)


@pytest.fixture(scope="module", params=KINDS)
def saved(request, tmp_path_factory):
    """An index of each kind and the directory it was saved to; tests must not change them."""
    index = build(request.param)
    directory = tmp_path_factory.mktemp(request.param) / "tiles_index"
    index.save(directory)
    return index, directory


@pytest.mark.parametrize("kind", EXACT_KINDS)
def test_recall_is_the_order_of_cosines(kind):
    tiles, index = make_tiles(), build(kind)
    found = index.recall(queries(), 10)
    names, scores = naive_recall(tiles, queries(), 10)
    assert found.names == names
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)


def test_whole_vectors_in_addition_to_codes_make_answers_exact():
    coded, refined = build("ivf_pq"), build("ivf_pq", parameters=dataclasses.replace(THOROUGH, refine=COUNT // 10))
    names, scores = naive_recall(make_tiles(), queries(), 10)
    assert coded.recall(queries(), 10).names != names
    found = refined.recall(queries(), 10)
    assert found.names == names
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)
    assert refined.statistics()["bytes_per_vector"] == 8 + 8 + 4 * WIDTH and len(
        refined.recall(queries(), 600).names[0]
    )


@pytest.mark.parametrize(
    ("kind", "parameters"), [("ivf_pq", {"refine": 10**9, "nprobe": 10**9}), ("hnsw", {"ef_search": 2**31 - 1})]
)
def test_an_effort_above_the_number_of_tiles_costs_no_memory(kind, parameters):
    """A card may state any effort; k times this many candidates would need terabytes."""
    index = build(kind, parameters=dataclasses.replace(THOROUGH, **parameters))
    box = Box((20, 20), (70, 70))
    for found, expected in (
        (index.recall(queries(), 10), build("flat").recall(queries(), 10)),
        (index.recall(queries(), 10, box), build("flat").recall(queries(), 10, box)),
    ):
        assert found.names == expected.names


@pytest.mark.parametrize("memory_map", [True, False])
def test_every_kind_answers_the_same_after_saving_and_loading(saved, memory_map):
    index, directory = saved
    loaded = load_faiss_index(directory, memory_map)
    assert loaded.card == index.card and loaded.count == COUNT and loaded.parameters == index.parameters
    assert_same_answers(loaded, index)
    assert_same_answers(loaded, index, box=Box((20, 20), (70, 70)))
    names = [f"tile/{index}.png" for index in (7, 8, 599)]
    np.testing.assert_array_equal(loaded.rerank_vectors(names), index.rerank_vectors(names))
    assert loaded.facts(names) == index.facts(names)
    assert loaded.statistics() == {**index.statistics(), "memory_mapped": memory_map}


def test_a_memory_mapped_index_can_be_saved_again(saved, tmp_path):
    index, directory = saved
    load_faiss_index(directory).save(tmp_path / "copy")
    for name in ("vectors.faiss", "phi.npy", "names.json", "alive.npy", "places.npy", "bounds.npy"):
        assert (tmp_path / "copy" / name).read_bytes() == (directory / name).read_bytes()


def test_a_memory_mapped_index_says_how_to_change_it(saved):
    loaded = load_faiss_index(saved[1])
    for change in (lambda: loaded.add(make_tiles(2)), lambda: loaded.remove(["tile/1.png"])):
        with pytest.raises(
            TileIndexError, match="memory-mapped and can only be searched; load it with memory_map=False"
        ):
            change()
    assert loaded.count == COUNT


def test_an_index_loaded_into_memory_can_be_changed(saved):
    loaded = load_faiss_index(saved[1], memory_map=False)
    newer = make_tiles(30, seed=3, prefix="later")
    loaded.add(newer)
    names = [newer.names[0], "tile/1.png", newer.names[29]]
    expected = unit(np.stack([newer.rerank_NE[0], make_tiles().rerank_NE[1], newer.rerank_NE[29]]))
    np.testing.assert_allclose(loaded.rerank_vectors(names), expected, atol=1e-6)
    assert loaded.count == COUNT + 30


@pytest.mark.parametrize("kind", EXACT_KINDS)
@pytest.mark.parametrize("side_m", [8, 40, 99])
def test_a_box_filters_like_a_filter_by_hand(kind, side_m):
    tiles, index = make_tiles(), build(kind)
    low, high = 50 - side_m / 2, 50 + side_m / 2
    inside_N = ((tiles.place_N2 >= low) & (tiles.place_N2 <= high)).all(axis=1)
    found = index.recall(queries(), 20, Box((low, low), (high, high)))
    names, scores = naive_recall(tiles, queries(), 20, inside_N)
    assert len(names[0]) == min(20, inside_N.sum()) and found.names == names
    for score_K, expected_K in zip(found.scores, scores, strict=True):
        np.testing.assert_allclose(score_K, expected_K, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_box_is_searched_completely_for_any_effort(kind):
    tiles, lazy = make_tiles(), FaissParameters(nlist=12, nprobe=1, pq_bytes=8, ef_search=1)
    index = build(kind, tiles, lazy)
    x_N = tiles.place_N2[:, 0]
    for low, high in ((0, 100), (30, 60), (50, 51)):
        inside = {name for name, x in zip(tiles.names, x_N, strict=True) if low <= x <= high}
        for names in index.recall(queries(), 100, Box((low, -1), (high, 101))).names:
            assert len(names) == len(set(names)) == min(100, len(inside)) and set(names) <= inside


def test_edges_belong_to_the_box_and_an_empty_box_has_no_answers():
    tiles = make_tiles()
    x, y = tiles.place_N2[1]
    for kind in KINDS:
        index = build(kind, tiles)
        assert index.recall(queries(2), 5, Box((x, y), (x, y))).names == [["tile/1.png"]] * 2
        nothing = index.recall(queries(2), 5, Box((200, 200), (300, 300)))
        assert nothing.names == [[], []] and [len(score_K) for score_K in nothing.scores] == [0, 0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gone", [1, 300, 595])
def test_removed_tiles_are_never_found(kind, gone):
    tiles, index = make_tiles(), build(kind)
    index.remove(tiles.names[:gone])
    assert index.count == COUNT - gone and index.statistics()["dead_rows"] == gone
    for query_QD in (tiles.recall_ND[:20], queries()):
        for names in index.recall(query_QD, min(50, COUNT - gone)).names:
            assert len(names) == min(50, COUNT - gone) and not set(names) & set(tiles.names[:gone])
    with pytest.raises(TileIndexError, match="tile tile/0.png is not in the index"):
        index.facts(["tile/0.png"])


def test_removing_an_unknown_name_removes_nothing():
    index = build("flat")
    with pytest.raises(TileIndexError, match="tile nobody is not in the index"):
        index.remove(["tile/1.png", "nobody"])
    assert index.count == COUNT and index.facts(["tile/1.png"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_tile_replaces_an_older_one_of_the_same_name(kind, tmp_path):
    tiles, index = make_tiles(), build(kind)
    newer = dataclasses.replace(make_tiles(50, seed=8), place_N2=np.full((50, 2), 7.0))
    index.add(newer)
    index.save(tmp_path / "tiles_index")
    for found in (index, load_faiss_index(tmp_path / "tiles_index")):
        (names,) = found.recall(queries(1), COUNT).names
        assert found.count == COUNT and sorted(names) == sorted(tiles.names)
        assert [names[0] for names in found.recall(newer.recall_ND, 1).names] == newer.names
        np.testing.assert_allclose(found.rerank_vectors(newer.names), unit(newer.rerank_NE), atol=1e-6)
        assert {facts.place for facts in found.facts(newer.names)} == {(7.0, 7.0)}


def test_adding_in_batches_equals_building_at_once():
    tiles = make_tiles()
    grown = build("flat", cut(tiles, slice(0, 100)))
    for start in range(100, COUNT, 125):
        grown.add(cut(tiles, slice(start, start + 125)))
    batches = build("flat", (cut(tiles, slice(start, start + 200)) for start in range(0, COUNT, 200)))
    for index in (grown, batches):
        assert_same_answers(index, build("flat"), k=COUNT)
        np.testing.assert_array_equal(index.rerank_vectors(tiles.names), build("flat").rerank_vectors(tiles.names))


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_an_index_may_start_empty(kind):
    index = build(kind, cut(make_tiles(), slice(0, 0)))
    with pytest.raises(TileIndexError, match="contains no tiles; add some"):
        index.recall(queries(), 1)
    index.add(make_tiles())
    assert_same_answers(index, build(kind))


@pytest.mark.parametrize("memory_map", [True, False])
def test_an_empty_index_can_be_saved_and_loaded(tmp_path, memory_map):
    build("flat", cut(make_tiles(), slice(0, 0))).save(tmp_path / "tiles_index")
    assert load_faiss_index(tmp_path / "tiles_index", memory_map).count == 0


def twins(copies=5, seed=3):
    """Tiles of which every one occurs several times, in a random order."""
    row_N = np.random.default_rng(seed).permutation(np.repeat(np.arange(COUNT // copies), copies))
    tiles = make_tiles()
    names = [f"{number}_of_{row}" for number, row in enumerate(row_N)]
    return Tiles(names, tiles.recall_ND[row_N], tiles.rerank_NE[row_N], tiles.place_N2[row_N], tiles.bounds_N4[row_N])


@pytest.mark.parametrize("count", [1, 30])  # of queries at once: FAISS computes many in a different way than few
@pytest.mark.parametrize("k", [1, 7, 10, 120])
def test_equal_tiles_are_chosen_and_ordered_as_in_an_evaluation(count, k):
    tiles, query_QD = twins(), queries(30)
    expected = rank_references(query_QD, tiles.recall_ND, {"none": [np.empty(0, int)] * 30}, k)["none"].top_QK
    index = build("flat", tiles)
    found = [names for part in np.split(query_QD, 30 // count) for names in index.recall(part, k).names]
    assert found == [[tiles.names[row] for row in row_K] for row_K in expected]


def test_among_equal_tiles_removed_ones_and_those_outside_the_box_are_passed_over():
    tiles = dataclasses.replace(make_tiles(), recall_ND=np.ones((COUNT, WIDTH)))
    index = build("flat", tiles)
    index.remove(tiles.names[:5])
    assert index.recall(queries(), 3).names == [tiles.names[5:8]] * 9
    box = Box((0, 0), (50, 100))
    inside = [name for name, place in zip(tiles.names[5:], tiles.place_N2[5:], strict=True) if place[0] <= 50]
    assert index.recall(queries(), 3, box).names == [inside[:3]] * 9


@pytest.mark.parametrize("kind", KINDS)
def test_equal_scores_are_in_the_order_of_the_tiles(kind):
    tiles = twins()
    index, row_of = build(kind, tiles), {name: row for row, name in enumerate(tiles.names)}
    found = index.recall(queries(), 50)
    tied = 0
    for names, score_K in zip(found.names, found.scores, strict=True):
        row_K = np.array([row_of[name] for name in names])
        equal_K = score_K[1:] == score_K[:-1]
        assert (np.diff(row_K)[equal_K] > 0).all() and (np.diff(score_K) <= 0).all()
        tied += equal_K.sum()
    assert tied >= 9 * 30  # each tile occurs five times: four of five pairs of neighbors are tied


def test_rerank_is_the_order_of_cosines_among_each_querys_own_tiles():
    tiles, index = make_tiles(), build("flat")
    query_QE, random = queries(width=RERANK_WIDTH), np.random.default_rng(1)
    own = [[tiles.names[row] for row in random.permutation(COUNT)[:40]] for _ in query_QE]
    found = index.rerank(query_QE, own, 12)
    score_of = dict(zip(tiles.names, (unit(query_QE) @ unit(tiles.rerank_NE).T).T, strict=True))
    for query, names in enumerate(own):
        expected = sorted(names, key=lambda name: -score_of[name][query])[:12]
        assert found.names[query] == expected
        np.testing.assert_allclose(found.scores[query], [score_of[n][query] for n in expected], atol=1e-6)


def test_equal_rerank_scores_keep_the_order_of_stage_one():
    tiles = make_tiles()
    index = build("flat", dataclasses.replace(tiles, rerank_NE=np.ones((COUNT, RERANK_WIDTH))))
    own = tiles.names[30:10:-1]
    assert index.rerank(queries(1, RERANK_WIDTH), [own], 20).names == [own]


def test_a_phi_of_zeros_has_cosine_zero_with_every_query():
    """Such a phi is of an image similar to no center; its tile is recalled, and ranks after all cosines above 0."""
    tiles = make_tiles(3)
    tiles.rerank_NE[1] = 0
    index, own = build("flat", tiles), list(tiles.names)
    found = index.rerank(tiles.rerank_NE[[0, 1]], [own, own], 3)
    assert found.scores[0][found.names[0].index(own[1])] == 0.0 and found.names[0][0] == own[0]
    assert found.names[1] == own and not found.scores[1].any()


def test_facts_are_those_of_the_added_tiles():
    tiles, index = make_tiles(), build("flat")
    x, y = tiles.place_N2[1].tolist()
    assert index.facts(["tile/0.png", "tile/1.png"]) == [
        TileFacts("tile/0.png", None, None),
        TileFacts("tile/1.png", (x, y), (x - 1, y - 1, x + 1, y + 1)),
    ]


def swapped(**changes):
    return dataclasses.replace(make_tiles(3, prefix="new"), **changes)


@pytest.mark.parametrize(
    ("tiles", "message"),
    [
        (swapped(recall_ND=np.ones((3, 9))), r"shape \(3, 9\), but the index contains vectors of width 16"),
        (swapped(recall_ND=np.full((3, WIDTH), np.nan)), "row 0 of the recall vectors of tiles contains NaN"),
        (swapped(recall_ND=np.zeros((3, WIDTH))), "is all zeros"),
        (swapped(recall_ND=np.ones((2, WIDTH))), "2 recall vectors, but 3 tile names"),
        (swapped(rerank_NE=np.full((3, RERANK_WIDTH), np.inf)), "row 0 of the re-rank vectors of tiles contains NaN"),
        (swapped(rerank_NE=None), "tiles have no re-rank vectors, but the index does"),
        (swapped(names=["a", "b", "a"]), "tile a appears twice"),
        (swapped(names=["a", "b", 3]), "tile name 3 is not text"),
        (swapped(place_N2=np.ones((2, 2))), r"places has shape"),
        (swapped(place_N2=np.array([[1, 2], [np.nan, 3], [4, 5]])), "a row with some NaN"),
    ],
)
def test_tiles_that_do_not_fit_change_nothing(tiles, message):
    index = build("flat")
    with pytest.raises(TileIndexError, match=message):
        index.add(tiles)
    assert_same_answers(index, build("flat"), k=COUNT)
    assert index.rerank_vectors(["tile/599.png"]).shape == (1, RERANK_WIDTH)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        (lambda index: index.recall(queries(), COUNT + 1), "601 answers are requested, but the index has 600"),
        (lambda index: index.recall(queries(), 0), "0 answers are requested"),
        (lambda index: index.recall(queries(0), 1), "no queries were given"),
        (lambda index: index.recall(queries(width=5), 1), r"queries have shape \(9, 5\)"),
        (lambda index: index.recall(np.full((2, WIDTH), np.nan), 1), "row 0 of the queries contains NaN"),
        (lambda index: index.recall(queries(), 1, Box((5, 5), (4, 6))), "upside down"),
        (lambda index: index.rerank(queries(), [["tile/1.png"]] * 9, 1), r"queries have shape \(9, 16\)"),
        (
            lambda index: index.rerank(queries(2, RERANK_WIDTH), [["tile/1.png"]], 1),
            "1 lists of tiles for 2 queries",
        ),
        (
            lambda index: index.rerank(queries(1, RERANK_WIDTH), [["nobody"]], 1),
            "tile nobody is not in the index",
        ),
    ],
)
def test_queries_that_can_not_be_answered_are_one_line(search, message):
    for kind in KINDS:
        with pytest.raises(TileIndexError, match=message) as caught:
            search(build(kind))
        assert "\n" not in str(caught.value)


def test_an_index_without_places_or_rerank_vectors_says_so():
    card = dataclasses.replace(CARD, rerank_dimension=None, nodes=None, place_unit=None)
    unknown = {"rerank_NE": None, "place_N2": np.full((COUNT, 2), np.nan), "bounds_N4": np.full((COUNT, 4), np.nan)}
    index = build_faiss_index(card, dataclasses.replace(make_tiles(), **unknown))
    with pytest.raises(TileIndexError, match="has no places"):
        index.recall(queries(), 1, Box((0, 0), (1, 1)))
    with pytest.raises(TileIndexError, match="contains no re-rank vectors"):
        index.rerank(queries(1, RERANK_WIDTH), [["tile/1.png"]], 1)
    with pytest.raises(TileIndexError, match="the index card has no place_unit"):
        index.add(dataclasses.replace(make_tiles(), rerank_NE=None))


@pytest.mark.parametrize(
    ("kind", "count", "parameters", "message"),
    [
        ("tree", 9, {}, "index kind is 'tree'; expected one of flat, ivf_flat, ivf_pq, hnsw"),
        ("ivf_pq", 10, {}, "learns 256 codes and needs as many tiles, but 10 were given"),
        ("ivf_pq", 600, {"pq_bytes": 5}, "pq_bytes 5 does not divide the vectors' width 16"),
        ("ivf_flat", 0, {}, "learns from tiles, but none were given"),
        ("ivf_flat", 10, {"nlist": 11}, "nlist 11 exceeds the 10 tiles"),
        ("ivf_flat", 600, {"nlist": 51, "train_rows": 50}, "nlist 51 exceeds the 50 tiles to learn from"),
        ("ivf_pq", 600, {"train_rows": 255}, "learns 256 codes and needs as many tiles, but 255 were given"),
        ("ivf_flat", 10, {"nprobe": -1}, "nprobe is -1"),
        ("hnsw", 10, {"links": 1}, "links is 1; give a whole number from 2 to 1024"),
        ("hnsw", 10, {"links": 1025}, "links is 1025"),
        ("hnsw", 10, {"ef_construction": 2**31}, "ef_construction is 2147483648"),
        ("ivf_flat", 600, {"seed": 2**31}, "seed is 2147483648; give a whole number from 0 to 2147483647"),
    ],
)
def test_kinds_that_can_not_be_built_are_one_line(kind, count, parameters, message, capfd):
    with pytest.raises(TileIndexError, match=message) as caught:
        build(kind, cut(make_tiles(), slice(0, count)), FaissParameters(**parameters))
    assert "\n" not in str(caught.value) and capfd.readouterr().err == ""


def test_few_tiles_make_few_lists(capfd):
    index = build("ivf_flat", cut(make_tiles(), slice(0, 10)), FaissParameters())
    assert index.parameters.nlist == 1 and sorted(index.recall(queries(1), 10).names[0]) == sorted(make_tiles(10).names)
    assert capfd.readouterr().err == ""  # where FAISS warns of centers with few training rows


def test_a_small_sample_to_learn_from_makes_few_lists(capfd):
    # 600 tiles would have 15 lists of 39 tiles to learn from, but 80 tiles are enough for two
    index = build("ivf_flat", parameters=FaissParameters(train_rows=80))
    assert index.parameters.nlist == 2 and index.count == COUNT
    assert len(build("ivf_pq", parameters=FaissParameters(train_rows=256)).recall(queries(1), 9).names[0]) == 9
    assert capfd.readouterr().err == ""


def test_parameters_follow_count_and_width():
    chosen = resolve("ivf_pq", 768, 10_000, FaissParameters())
    # 10 000 tiles would have 4 * 100 lists, but each needs 39 tiles to learn from: 10 000 // 39 = 256
    assert chosen.nlist == 256 and chosen.pq_bytes == 192
    assert resolve("ivf_flat", 768, 1_000_000, FaissParameters()).nlist == 4000
    # 4 * sqrt(10 million) = 12 649, but 39 of 262 144 tiles for each are enough for 6721
    assert resolve("ivf_flat", 768, 10_000_000, FaissParameters(), learned=262_144).nlist == 6721
    assert resolve("ivf_pq", 50, 10_000, FaissParameters()).pq_bytes == 10  # 50 // 4 = 12, next divisor below: 10


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        (
            ("e" * 64, "d" * 64, WIDTH),
            "built with checkpoint cccccccccccc, but the queries have checkpoint eeeeeeeeeeee",
        ),
        (("c" * 64, None, WIDTH), "built with reduction dddddddddddd, but the queries have reduction none"),
        (("c" * 64, "d" * 64, 99), "built with width 16, but the queries have width 99"),
    ],
)
def test_queries_of_a_different_origin_are_refused(origin, message):
    CARD.require_fit("c" * 64, "d" * 64, WIDTH)
    with pytest.raises(TileIndexError, match=message):
        CARD.require_fit(*origin)


def edit_card(directory, change, checksum=None):
    """Change the card, with a checksum that fits unless the change sets one."""
    card = json.loads((directory / "card.json").read_text())
    change(card)
    stated = card.pop("checksum")
    card["checksum"] = stated if checksum == "old" else json_checksum(card)
    (directory / "card.json").write_text(json.dumps(card))


def flip_last_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


FILES = ("vectors.faiss", "phi.npy", "names.json", "places.npy", "bounds.npy", "alive.npy")
DAMAGES = [
    *[(lambda directory, name=name: (directory / name).unlink(), f"{name} is missing") for name in FILES],
    *[(lambda directory, name=name: flip_last_byte(directory / name), f"{name} was changed since") for name in FILES],
    *[
        (
            lambda directory, name=name: os.truncate(directory / name, (directory / name).stat().st_size // 2),
            f"{name} has .* bytes",
        )
        for name in FILES
    ],
    (lambda directory: (directory / "card.json").unlink(), "contains no tile index; .* index build"),
    (lambda directory: (directory / "card.json").write_text("{"), "card.json can't be read"),
    (lambda directory: (directory / "card.json").write_text("[" * 100_000), "card.json can't be read"),
    (lambda directory: (directory / "card.json").write_text('{"version": 1}'), "is not the card of a tile index"),
    (
        lambda directory: edit_card(directory, lambda card: card.update(version=3)),
        "has version 3, this program reads 2",
    ),
    (
        lambda directory: edit_card(directory, lambda card: card["parameters"].update(nprobe=2), checksum="old"),
        "card.json was changed since it was saved",
    ),
    (lambda directory: edit_card(directory, lambda card: card["index"].pop("kind")), "lacks facts"),
    (lambda directory: edit_card(directory, lambda card: card["index"].update(dimension="16")), "lacks facts"),
    (lambda directory: edit_card(directory, lambda card: card["parameters"].update(nprobe=1.5)), "lacks facts"),
    (
        lambda directory: edit_card(directory, lambda card: card["parameters"].update(ef_search=2**31)),
        "ef_search is 2147",
    ),
    (lambda directory: edit_card(directory, lambda card: card["index"].update(nodes="3")), "lacks facts"),
    (lambda directory: edit_card(directory, lambda card: card["index"].update(rerank_dimension=0)), "lacks facts"),
    (lambda directory: edit_card(directory, lambda card: card["index"].update(place_unit="feet")), "lacks facts"),
    (lambda directory: edit_card(directory, lambda card: card["index"].update(kind="milvus")), "has kind 'milvus'"),
    (lambda directory: edit_card(directory, lambda card: card["index"].update(kind="hnsw")), "json says kind hnsw"),
    (lambda directory: edit_card(directory, lambda card: card["index"].update(dimension=8)), "says kind .* of width 8"),
    (lambda directory: edit_card(directory, lambda card: card["index"].update(rerank_dimension=4)), "is not float32"),
    (
        lambda directory: edit_card(directory, lambda card: card["index"].update(rerank_dimension=None)),
        "does not list exactly",
    ),
    (lambda directory: edit_card(directory, lambda card: card["files"].update({"../x": {}})), "does not list exactly"),
    (
        lambda directory: edit_card(directory, lambda card: card.update(count=5)),
        "tiles that its card.json does not count",
    ),
    (lambda directory: edit_card(directory, lambda card: card.update(rows=5)), "is not a list of 5 names"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
@pytest.mark.parametrize("memory_map", [True, False])
def test_a_damaged_index_is_named(tmp_path, damage, message, memory_map):
    build("flat").save(tmp_path / "tiles_index")
    damage(tmp_path / "tiles_index")
    with pytest.raises(TileIndexError, match=message) as caught:
        load_faiss_index(tmp_path / "tiles_index", memory_map)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("memory_map", [True, False])
@pytest.mark.parametrize("keep", [0, 5, 40, 2000, -100])
def test_a_file_with_a_wrong_size_inside_is_named_although_its_checksum_is_correct(saved, tmp_path, memory_map, keep):
    """The message of FAISS is reported in one line."""
    import shutil

    directory = shutil.copytree(saved[1], tmp_path / "tiles_index")
    data = (directory / "vectors.faiss").read_bytes()[:keep]
    (directory / "vectors.faiss").write_bytes(data)
    facts = {"bytes": len(data), "checksum": checksum_of(data).hexdigest()}
    edit_card(directory, lambda card: card["files"].update({"vectors.faiss": facts}))
    with pytest.raises(TileIndexError, match=r"vectors.faiss can't be read by FAISS \([^()]+.*\); build") as caught:
        load_faiss_index(directory, memory_map)
    assert "\n" not in str(caught.value)


def test_a_missing_index_is_one_line(tmp_path):
    with pytest.raises(TileIndexError, match="is missing; check the path"):
        load_faiss_index(tmp_path / "nowhere")


def test_a_directory_that_contains_something_else_is_never_replaced(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(TileIndexError, match="contains mine.txt, so it is not a tile index"):
        build("flat").save(tmp_path)
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_saving_again_replaces_the_older_index(tmp_path):
    build("flat").save(tmp_path / "tiles_index")
    build("hnsw", make_tiles(20)).save(tmp_path / "tiles_index")
    assert load_faiss_index(tmp_path / "tiles_index").count == 20
    assert os.listdir(tmp_path) == ["tiles_index"]


def test_an_index_may_be_saved_over_its_own_file(tmp_path):
    build("ivf_flat").save(tmp_path / "tiles_index")
    loaded = load_faiss_index(tmp_path / "tiles_index", memory_map=False)
    loaded.remove(["tile/3.png"])
    loaded.save(tmp_path / "tiles_index")
    assert load_faiss_index(tmp_path / "tiles_index").count == COUNT - 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_is_really_full_leaves_the_older_index(tmp_path, kind):
    """The system does not let the file grow, as on a full disk."""
    build(kind).save(tmp_path / "tiles_index")
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from mindloc.errors import TileIndexError\n"
        "from mindloc.search.faiss_index import load_faiss_index\n"
        "index = load_faiss_index(sys.argv[1])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)\n"
        "try:\n"
        "    index.save(sys.argv[1])\n"
        "except TileIndexError as error:\n"
        "    print(error)\n"
    )
    for limit in (0, 9000):
        answer = run_python(code, tmp_path / "tiles_index", limit)
        assert answer.returncode == 0, answer.stderr
        assert answer.stdout.count("\n") == 1 and "index: File too large; free some space" in answer.stdout
        assert os.listdir(tmp_path) == ["tiles_index"]
        assert_same_answers(load_faiss_index(tmp_path / "tiles_index"), build(kind))


@pytest.mark.parametrize("point", fault_points.INDEX)
def test_a_kill_while_saving_leaves_the_older_index(tmp_path, point):
    build("flat").save(tmp_path / "tiles_index")
    code = (
        "import sys\n"
        "from mindloc.search.faiss_index import load_faiss_index\n"
        "index = load_faiss_index(sys.argv[1], memory_map=False)\n"
        "index.remove(['tile/3.png'])\n"
        "index.save(sys.argv[1])\n"
    )
    assert run_python(code, tmp_path / "tiles_index", fault=point).returncode == -signal.SIGKILL
    assert_same_answers(load_faiss_index(tmp_path / "tiles_index"), build("flat"), k=COUNT)
    assert run_python(code, tmp_path / "tiles_index").returncode == 0
    assert load_faiss_index(tmp_path / "tiles_index").count == COUNT - 1
    assert os.listdir(tmp_path) == ["tiles_index"]


def test_a_reader_leaves_the_older_index_to_the_writer_that_put_it_aside(tmp_path, monkeypatch):
    directory, read = tmp_path / "tiles_index", []
    build("flat").save(directory)
    monkeypatch.setattr(atomic, "fault_point", lambda point: read.append(load_faiss_index(directory).count))
    build("flat", make_tiles(20)).save(directory)
    assert read == [COUNT]  # between the two renames
    assert load_faiss_index(directory).count == 20 and os.listdir(tmp_path) == ["tiles_index"]


@pytest.mark.parametrize("step", ["_read_facts", "_check_files", "_read_table"])
@pytest.mark.parametrize("memory_map", [True, False])
def test_an_index_that_is_replaced_while_it_is_read_is_read_again(tmp_path, monkeypatch, step, memory_map):
    newer, directory = build("flat", make_tiles(seed=3)), tmp_path / "tiles_index"
    build("flat").save(directory)
    original = getattr(index_directory, step)

    def replaced_meanwhile(*arguments):
        done = original(*arguments)
        monkeypatch.setattr(index_directory, step, original)
        newer.save(directory)
        return done

    monkeypatch.setattr(index_directory, step, replaced_meanwhile)
    loaded = load_faiss_index(directory, memory_map)
    assert_same_answers(loaded, newer)
    assert loaded.facts(["tile/5.png"]) == newer.facts(["tile/5.png"])
    np.testing.assert_array_equal(loaded.rerank_vectors(["tile/5.png"]), newer.rerank_vectors(["tile/5.png"]))


def test_a_disk_error_while_the_older_index_is_restored_is_one_line(tmp_path, monkeypatch):
    build("flat").save(tmp_path / "tiles_index")
    (tmp_path / "tiles_index").rename(tmp_path / ".tiles_index.old")  # as a kill between the renames leaves it

    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "rename", refuse)
    assert load_faiss_index(tmp_path / "tiles_index").count == COUNT
    with pytest.raises(TileIndexError, match="can't write .*index: Read-only file system"):
        build("flat").save(tmp_path / "tiles_index")


def run_python(code, *arguments, fault=""):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MINDLOC_FAULT": fault}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_an_error_half_way_leaves_the_older_index(tmp_path, monkeypatch):
    index = build("flat")
    index.save(tmp_path / "tiles_index")
    monkeypatch.setattr(faiss, "write_index", lambda index, writer: (_ for _ in ()).throw(RuntimeError("power cut")))
    with pytest.raises(RuntimeError, match="power cut"):
        index.save(tmp_path / "tiles_index")
    assert os.listdir(tmp_path) == ["tiles_index"]
    assert_same_answers(load_faiss_index(tmp_path / "tiles_index"), index)


def test_only_the_rows_to_learn_from_are_read(monkeypatch):
    read, original = [], faiss_index.checked_unit_rows

    def checked_unit_rows(row_ND, *words):
        read.append(len(row_ND))
        return original(row_ND, *words)

    monkeypatch.setattr(faiss_index, "checked_unit_rows", checked_unit_rows)
    tiles = make_tiles()
    build("ivf_flat", [cut(tiles, slice(0, 400)), cut(tiles, slice(400, COUNT))], FaissParameters(train_rows=50))
    assert len(read) == 2 and sum(read) == 50


def test_fewer_vectors_than_names_are_refused_before_they_are_learned_from():
    with pytest.raises(TileIndexError, match="599 recall vectors, but 600 tile names"):
        build("ivf_flat", dataclasses.replace(make_tiles(), recall_ND=make_tiles().recall_ND[1:]))


def test_the_same_seed_learns_the_same_lists(tmp_path):
    for kind in ("ivf_flat", "ivf_pq"):
        few = dataclasses.replace(THOROUGH, train_rows=300)
        for directory, seed in (("a", 0), ("b", 0), ("c", 1)):
            build(kind, parameters=dataclasses.replace(few, seed=seed)).save(tmp_path / directory)
        a, b, c = ((tmp_path / directory / "vectors.faiss").read_bytes() for directory in "abc")
        assert a == b != c


def test_a_directory_whose_name_is_not_unicode_is_one_line(tmp_path):
    directory = tmp_path / os.fsdecode(b"\x80")
    build("flat").save(directory)
    with pytest.raises(TileIndexError, match="has a name that is not UTF-8, which FAISS can't open; rename"):
        load_faiss_index(directory)
