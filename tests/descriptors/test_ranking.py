"""Ranks equal a naive sort; ties are never won."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mindloc.descriptors.ranking import _best, best_first, rank_references
from mindloc.errors import DataError


def make_case(queries=40, references=90, dimension=8, seed=0):
    rng = np.random.default_rng(seed)
    query_QD, reference_ND = rng.standard_normal((queries, dimension)), rng.standard_normal((references, dimension))
    right = [rng.choice(references, rng.integers(0, 6), replace=False) for _ in range(queries)]
    return query_QD.astype(np.float32), reference_ND.astype(np.float32), right


def naive_order(score_N, right):
    """All reference indices, best first; among equal scores wrong items come first."""
    return sorted(range(len(score_N)), key=lambda i: (-score_N[i], i in set(right), i))


def naive_scores(query_QD, reference_ND):
    q, g = query_QD.astype(np.float64), reference_ND.astype(np.float64)
    return (q / np.linalg.norm(q, axis=1, keepdims=True)) @ (g / np.linalg.norm(g, axis=1, keepdims=True)).T


@st.composite
def cases(draw):
    """Whole numbers, so that inner products are exact and there are many ties; any correct items of each query."""
    queries, references, dimension = draw(st.integers(1, 6)), draw(st.integers(1, 12)), draw(st.integers(1, 4))
    few = st.integers(-2, 2)
    query_QD = draw(arrays(np.float32, (queries, dimension), elements=few))
    reference_ND = draw(arrays(np.float32, (references, dimension), elements=few))
    items = st.sets(st.integers(0, references - 1)).map(lambda found: np.array(sorted(found), np.int64))
    return query_QD, reference_ND, draw(st.lists(items, min_size=queries, max_size=queries))


@given(case=cases(), k=st.integers(1, 14), strip_queries=st.sampled_from([None, 1, 4]))
def test_ranks_answers_and_ties_are_those_of_a_naive_sort(case, k, strip_queries):
    query_QD, reference_ND, right = case
    found = rank_references(query_QD, reference_ND, {"pos": right}, k, normalize=False, strip_queries=strip_queries)[
        "pos"
    ]
    for i, score_N in enumerate(query_QD.astype(np.float64) @ reference_ND.T.astype(np.float64)):
        order = naive_order(score_N, right[i])
        assert found.rank_E[found.start[i] : found.start[i + 1]].tolist() == sorted(
            order.index(j) + 1 for j in right[i]
        )
        assert found.top_QK[i].tolist() == order[:k]
        assert found.score_QK[i].tolist() == score_N[order[:k]].tolist()
        wrong = np.delete(score_N, right[i])
        assert found.tied_Q[i] == (len(right[i]) > 0 and max(score_N[right[i]]) in wrong)


def test_cosines_follow_a_naive_sort():
    query_QD, reference_ND, right = make_case()
    ranking = rank_references(query_QD, reference_ND, {"pos": right}, k=5)["pos"]
    for i, score_N in enumerate(naive_scores(query_QD, reference_ND)):
        order = naive_order(score_N, right[i])
        expected = sorted(order.index(item) + 1 for item in right[i])
        assert ranking.rank_E[ranking.start[i] : ranking.start[i + 1]].tolist() == expected
        assert ranking.top_QK[i].tolist() == order[:5]
        np.testing.assert_allclose(ranking.score_QK[i], score_N[order[:5]], atol=1e-12)
    assert not ranking.tied_Q.any()


def test_scores_do_not_depend_on_the_block_size(monkeypatch):
    query_QD, reference_ND, right = make_case()
    reference_ND[50:] = reference_ND[:40]  # ties across blocks
    whole = rank_references(query_QD, reference_ND, {"pos": right}, k=5)["pos"]
    monkeypatch.setattr("mindloc.descriptors.ranking._BLOCK_NUMBERS", 7 * 8 + 3)  # seven rows of eight numbers
    blocks = rank_references(query_QD, reference_ND, {"pos": right}, k=5)["pos"]
    np.testing.assert_array_equal(blocks.rank_E, whole.rank_E)
    np.testing.assert_array_equal(blocks.top_QK, whole.top_QK)
    np.testing.assert_array_equal(blocks.tied_Q, whole.tied_Q)


def copies(kind):
    """Queries and reference items with many ties: one direction for all, exact copies, copies of different length."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal((1 if kind == "constant" else 12, 768)).astype(np.float32)
    reference_ND, query_QD = base[rng.integers(0, len(base), 150)], base[rng.integers(0, len(base), 30)]
    if kind == "scaled":
        reference_ND = reference_ND * np.exp2(rng.integers(-3, 4, (150, 1))).astype(np.float32)  # exact: powers of 2
    return query_QD, reference_ND, [np.array([i, 149 - i]) for i in range(30)]


def order_by_row(query_QD, reference_ND, right, k):
    """Answers by scores of 9 digits; among equal scores wrong items come first, then lower rows."""
    scores = naive_scores(query_QD, reference_ND).round(9)
    return [naive_order(score_N, items)[:k] for score_N, items in zip(scores, right, strict=True)]


@pytest.mark.parametrize("kind", ["constant", "exact", "scaled"])
@pytest.mark.parametrize(("strip_queries", "reference_rows"), [(None, 4096), (1, 4096), (7, 13), (None, 1)])
def test_answers_of_equal_score_are_in_the_order_of_the_rows(monkeypatch, kind, strip_queries, reference_rows):
    monkeypatch.setattr("mindloc.descriptors.ranking._REFERENCE_ROWS", reference_rows)  # BLAS sums in other orders
    query_QD, reference_ND, right = copies(kind)
    found = rank_references(query_QD, reference_ND, {"pos": right}, 20, strip_queries=strip_queries)["pos"]
    assert found.top_QK.tolist() == order_by_row(query_QD, reference_ND, right, 20)


@pytest.mark.parametrize("threads", ["1", "2"])
def test_answers_of_equal_score_do_not_depend_on_the_threads_of_blas(threads):
    case = copies("scaled")
    code = (
        "from test_ranking import copies, rank_references\n"
        "print(rank_references(*copies('scaled')[:2], {'pos': copies('scaled')[2]}, 20)['pos'].top_QK.tolist())"
    )
    environment = {"PYTHONPATH": ":".join([os.path.dirname(__file__), *sys.path]), "OPENBLAS_NUM_THREADS": threads}
    run = subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True, text=True)
    assert run.stdout.strip() == str(order_by_row(*case, 20))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.randoms(use_true_random=False), st.integers(1, 12))
def test_rounding_within_the_tolerance_changes_no_order(whole, random, count):
    """Each score is a whole number with a rounding error below half the tolerance."""
    noisy_N = np.array([value + random.uniform(-0.49, 0.49) * 1e-9 for value in whole])
    expected = sorted(range(len(whole)), key=lambda i: (-whole[i], i))
    assert best_first(noisy_N, 1e-9).tolist() == expected
    count = min(count, len(whole))
    last = whole[expected[count - 1]]
    assert _best(noisy_N, count, 1e-9).tolist() == [i for i in expected if whole[i] >= last]


def test_each_query_has_its_own_tolerance():
    """A query of length 1e20 in the same strip does not make the scores 1 and 2 of a short query equal."""
    query_QD, reference_ND = np.array([[1e20], [1.0]]), np.array([[1.0], [2.0]])
    right = [np.array([0]), np.array([0])]
    found = rank_references(query_QD, reference_ND, {"pos": right}, 2, normalize=False, strip_queries=2)["pos"]
    assert found.rank_E.tolist() == [2, 2] and not found.tied_Q.any()


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-3 / 3, 1e20])
def test_with_a_constant_descriptor_the_correct_item_ranks_last(value):
    """Every score is equal, so the correct item ranks last of 101, despite the rounding of the sums."""
    reference_ND = np.full((101, 768), value, np.float32)
    right = [np.array([i]) for i in range(9)]
    ranking = rank_references(reference_ND[:9], reference_ND, {"pos": right}, k=101)["pos"]
    assert (ranking.first_rank_Q == 101).all() and ranking.tied_Q.all()
    assert (ranking.top_QK[:, -1] == np.arange(9)).all()


def test_a_copy_of_the_correct_tile_ranks_before_it():
    query_QD, reference_ND, _ = make_case(dimension=768)
    reference_ND[50] = query_QD[0]  # the correct item, with the best possible score
    reference_ND[89] = 3.0 * query_QD[0]  # a wrong tile of the same direction, in the last rows of a BLAS block
    ranking = rank_references(query_QD[:1], reference_ND, {"pos": [np.array([50])]}, k=2)["pos"]
    assert ranking.first_rank_Q.tolist() == [2]
    assert ranking.top_QK.tolist() == [[89, 50]]


def test_permuting_the_references_changes_no_rank():
    query_QD, reference_ND, right = make_case(references=300)
    reference_ND[100:200] = reference_ND[:100]  # many ties
    plain = rank_references(query_QD, reference_ND, {"pos": right}, k=3)["pos"]
    order = np.random.default_rng(1).permutation(300)
    moved = [np.flatnonzero(np.isin(order, items)) for items in right]
    permuted = rank_references(query_QD, reference_ND[order], {"pos": moved}, k=3)["pos"]
    np.testing.assert_array_equal(permuted.rank_E, plain.rank_E)
    np.testing.assert_array_equal(permuted.tied_Q, plain.tied_Q)


def test_two_definitions_of_correct_in_one_pass_equal_two_passes():
    query_QD, reference_ND, wide = make_case()
    narrow = [items[: len(items) // 2] for items in wide]
    both = rank_references(query_QD, reference_ND, {"narrow": narrow, "wide": wide}, k=4)
    for name, right in (("narrow", narrow), ("wide", wide)):
        alone = rank_references(query_QD, reference_ND, {name: right}, k=4)[name]
        np.testing.assert_array_equal(both[name].rank_E, alone.rank_E)
        np.testing.assert_array_equal(both[name].top_QK, alone.top_QK)


def test_length_of_descriptors_does_not_matter():
    query_QD, reference_ND, right = make_case()
    plain = rank_references(query_QD, reference_ND, {"pos": right}, k=4)["pos"]
    scaled = rank_references(query_QD * 64, reference_ND / 256, {"pos": right}, k=4)["pos"]
    np.testing.assert_array_equal(plain.rank_E, scaled.rank_E)


def test_queries_without_a_correct_item_are_left_out():
    query_QD, reference_ND, right = make_case()
    ranking = rank_references(query_QD, reference_ND, {"pos": right}, k=4)["pos"]
    kept, index = ranking.answerable()
    assert index.tolist() == [i for i, items in enumerate(right) if len(items)]
    assert kept.positives_Q.tolist() == [len(right[i]) for i in index]
    with pytest.raises(ValueError, match="without a correct item"):
        _ = ranking.first_rank_Q


def test_k_above_the_number_of_reference_items_returns_all():
    ranking = rank_references(np.eye(2), np.eye(2), {"pos": [np.array([0]), np.array([1])]}, k=10)["pos"]
    assert ranking.top_QK.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("queries", "references", "right", "message"),
    [
        (np.ones((1, 3)), np.ones((2, 4)), [[0]], r"\(1, 3\) can't be compared with reference items of shape \(2, 4\)"),
        (np.ones((0, 3)), np.ones((2, 3)), [], "0 queries and 2 reference items"),
        (np.ones((1, 3)), np.ones((2, 3)), [[2]], r"have indices 2\.\.2, expected 0\.\.1"),
        (np.ones((1, 3)), np.ones((2, 3)), [], "given for 0 queries, but there are 1"),
    ],
)
def test_bad_input_is_named(queries, references, right, message):
    with pytest.raises(DataError, match=message):
        rank_references(queries, references, {"pos": [np.array(r) for r in right]}, k=1)


def test_searching_needs_no_mindspore():
    modules = "mindloc.descriptors.ranking, mindloc.descriptors.sets"
    code = f"import sys, {modules}; assert 'mindspore' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
