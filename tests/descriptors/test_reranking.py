"""Re-ranked answers equal a sort in pure Python, and the limits of a second stage."""

import numpy as np
import pytest

from mindloc.descriptors.ranking import cosine_of, rank_references, recall_rank, rerank_first

QUERIES, REFERENCES = 30, 50


def make_case(seed=0, levels=4):
    """Scores of two stages from a few whole numbers, for many ties, and 0 to 5 correct items per query."""
    rng = np.random.default_rng(seed)
    first_QN, second_QN = rng.integers(0, levels, (2, QUERIES, REFERENCES)).astype(np.float64)
    right = [rng.choice(REFERENCES, rng.integers(0, 6), replace=False) for _ in range(QUERIES)]
    return first_QN, second_QN, right


def rank_scores(score_QN, right, k):
    """Stage one with given scores: they are the inner products of unit vectors with the descriptors."""
    return rank_references(np.eye(len(score_QN)), score_QN.T, {"pos": right}, k, normalize=False)["pos"]


def from_table(score_QN):
    return lambda query, items: score_QN[query, items]


def ranks_of(ranking, query):
    return ranking.rank_E[ranking.start[query] : ranking.start[query + 1]].tolist()


def naive_two_stages(first_N, second_N, right, n):
    """All reference indices: sorted by the first score, then the first n by the second; wrong ones first at ties."""
    right = set(right.tolist())
    order = sorted(range(len(first_N)), key=lambda i: (-first_N[i], i in right, i))
    place = {item: at for at, item in enumerate(order)}
    return sorted(order[:n], key=lambda i: (-second_N[i], i in right, place[i])) + order[n:]


@pytest.mark.parametrize("n", [1, 2, 7, 20, REFERENCES])
@pytest.mark.parametrize("k", [1, 10, 20])
def test_ranks_and_answers_follow_a_naive_sort(n, k):
    first_QN, second_QN, right = make_case()
    first = rank_scores(first_QN, right, max(n, k))
    final = rerank_first(first, n, from_table(second_QN), k, tolerance=0.0)
    for query in range(QUERIES):
        order = naive_two_stages(first_QN[query], second_QN[query], right[query], n)
        assert ranks_of(final, query) == sorted(order.index(item) + 1 for item in right[query])
        # correct items of equal score may be in either order: answers agree in score and correctness
        decided = [second_QN[query, i] if at < n else first_QN[query, i] for at, i in enumerate(order[:k])]
        assert final.score_QK[query].tolist() == decided
        is_right = np.isin(final.top_QK[query], right[query]).tolist()
        assert is_right == [item in right[query] for item in order[:k]]
        wrong = [item for item in order[:k] if item not in right[query]]
        assert final.top_QK[query][~np.array(is_right)].tolist() == wrong


def test_by_hand():
    """Stage one: 4 2 0 1 3. The first three get 0.1 0.9 0.5, so 2 0 4 1 3; items 1 and 4 are correct."""
    first = rank_scores(np.array([[3.0, 2.0, 4.0, 1.0, 5.0]]), [np.array([4, 1])], 5)
    assert first.top_QK.tolist() == [[4, 2, 0, 1, 3]] and first.rank_E.tolist() == [1, 4]
    final = rerank_first(first, 3, from_table(np.array([[0.5, 7.0, 0.9, 7.0, 0.1]])), 4, tolerance=0.0)
    assert final.top_QK.tolist() == [[2, 0, 4, 1]]
    assert final.rank_E.tolist() == [3, 4]  # item 1 was fourth, after the three, and keeps its rank
    assert final.score_QK.tolist() == [[0.9, 0.5, 0.1, 2.0]]  # the last score is that of stage one
    assert recall_rank(first, final).tolist() == [[2, 3, 1, 4]]


def test_tied_refers_to_the_stage_that_ranked_the_best_correct_item():
    """Query 0: re-ranked, tied with a wrong item. 1: no tie. 2: correct item beyond n, tied in stage one."""
    first_QN = np.array([[3.0, 2.0, 1.0, 0.0], [3.0, 3.0, 1.0, 0.0], [3.0, 2.0, 1.0, 1.0]])
    second_QN = np.array([[1.0, 1.0, 0.0, 0.0], [2.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    right = [np.array([0]), np.array([0]), np.array([3])]
    first = rank_scores(first_QN, right, 4)
    assert first.tied_Q.tolist() == [False, True, True]
    final = rerank_first(first, 2, from_table(second_QN), 4, tolerance=0.0)
    assert final.tied_Q.tolist() == [True, False, True]
    assert final.first_rank_Q.tolist() == [2, 1, 4]


@pytest.mark.parametrize("n", [2, 9, REFERENCES])
def test_with_a_constant_second_stage_correct_items_rank_last(n):
    """Every correct item among the first n ranks after all wrong ones there, despite the rounding of the cosines."""
    first_QN, _, right = make_case(1)
    first = rank_scores(first_QN, right, n)
    phi = np.full((REFERENCES, 768), 1e-3 / 3, np.float32)
    final = rerank_first(first, n, *with_keywords(phi[:QUERIES], phi, n))
    for query in range(QUERIES):
        before = ranks_of(first, query)
        within = sum(rank <= n for rank in before)
        assert ranks_of(final, query) == [*range(n - within + 1, n + 1), *before[within:]]
    kept, _ = first.answerable()
    assert ((final.answerable()[0].first_rank_Q == 1) <= (kept.first_rank_Q == 1)).all()


def with_keywords(query_QE, reference_NE, k):
    score_of, tolerance = cosine_of(query_QE, reference_NE)
    return score_of, k, tolerance


def make_descriptors(seed=2, dimension=6):
    rng = np.random.default_rng(seed)
    omega = [rng.standard_normal((count, 9)).astype(np.float32) for count in (QUERIES, REFERENCES)]
    phi = [rng.integers(-1, 2, (count, dimension)).astype(np.float32) for count in (QUERIES, REFERENCES)]
    right = [rng.choice(REFERENCES, rng.integers(1, 4), replace=False) for _ in range(QUERIES)]
    return omega, phi, right


def test_re_ranking_all_references_equals_the_second_stage_alone():
    """With integer phi there are many ties, and the ranks still agree."""
    omega, phi, right = make_descriptors()
    first = rank_references(*omega, {"pos": right}, REFERENCES)["pos"]
    final = rerank_first(first, REFERENCES, *with_keywords(*phi, REFERENCES))
    alone = rank_references(*phi, {"pos": right}, REFERENCES)["pos"]
    np.testing.assert_array_equal(final.rank_E, alone.rank_E)
    np.testing.assert_array_equal(final.tied_Q, alone.tied_Q)
    np.testing.assert_allclose(final.score_QK, alone.score_QK, atol=1e-12)
    assert alone.tied_Q.any()


def test_re_ranking_one_answer_changes_no_rank():
    first_QN, second_QN, right = make_case()
    first = rank_scores(first_QN, right, 12)
    final = rerank_first(first, 1, from_table(second_QN), 12, tolerance=0.0)
    for name in ("start", "rank_E", "top_QK", "tied_Q"):
        np.testing.assert_array_equal(getattr(final, name), getattr(first, name))


def test_recall_at_n_and_beyond_is_that_of_the_first_stage():
    first_QN, second_QN, right = make_case(4)
    n, first = 8, rank_scores(first_QN, right, 8)
    final = rerank_first(first, n, from_table(second_QN), 8, tolerance=0.0)
    before, after = first.answerable()[0].first_rank_Q, final.answerable()[0].first_rank_Q
    for k in range(n, REFERENCES + 1):
        np.testing.assert_array_equal(before <= k, after <= k)
    assert (before != after).any()


def test_permuting_the_references_changes_no_rank():
    omega, phi, right = make_descriptors(5)
    order = np.random.default_rng(0).permutation(REFERENCES)
    moved = [np.flatnonzero(np.isin(order, items)) for items in right]
    plain, permuted = (
        rerank_first(rank_references(omega[0], wide, {"pos": items}, 20)["pos"], 20, *with_keywords(phi[0], narrow, 5))
        for wide, narrow, items in ((omega[1], phi[1], right), (omega[1][order], phi[1][order], moved))
    )
    np.testing.assert_array_equal(plain.rank_E, permuted.rank_E)
    np.testing.assert_array_equal(plain.top_QK, order[permuted.top_QK])  # stage one has no ties here


def test_a_difference_within_the_tolerance_does_not_count():
    first = rank_scores(np.array([[3.0, 2.0]]), [np.array([0])], 2)
    second = from_table(np.array([[0.5 + 1e-13, 0.5]]))
    assert rerank_first(first, 2, second, 2, tolerance=1e-14).rank_E.tolist() == [1]
    lost = rerank_first(first, 2, second, 2, tolerance=1e-12)
    assert lost.rank_E.tolist() == [2] and lost.top_QK.tolist() == [[1, 0]]


def test_a_third_stage_re_ranks_the_second():
    """Stage one 0 1 2 3, stage two over three: 2 1 0 3, stage three over two: 1 2 0 3."""
    first = rank_scores(np.array([[4.0, 3.0, 2.0, 1.0]]), [np.array([1])], 4)
    second = rerank_first(first, 3, from_table(np.array([[1.0, 2.0, 3.0, 9.0]])), 4, tolerance=0.0)
    third = rerank_first(second, 2, from_table(np.array([[9.0, 2.0, 1.0, 9.0]])), 4, tolerance=0.0)
    assert third.top_QK.tolist() == [[1, 2, 0, 3]] and third.rank_E.tolist() == [1]
    assert third.score_QK.tolist() == [[2.0, 1.0, 1.0, 1.0]]
    assert recall_rank(first, third).tolist() == [[2, 3, 1, 4]]


def test_cosines_do_not_depend_on_lengths():
    query_QE, reference_NE = np.array([[3.0, 4.0]], np.float32), np.array([[0.0, 0.0], [8.0, 6.0]], np.float32)
    score_of, _ = cosine_of(query_QE, reference_NE)
    # (3 * 8 + 4 * 6) / (5 * 10); a zero descriptor has cosine 0
    np.testing.assert_allclose(score_of(0, np.array([1, 0])), [0.96, 0.0], rtol=1e-12)


@pytest.mark.parametrize(("n", "k"), [(0, 1), (6, 1), (1, 6)])
def test_more_answers_than_stage_one_kept_raise(n, k):
    first = rank_scores(np.arange(10.0)[None], [np.array([3])], 5)
    with pytest.raises(ValueError, match="stage one has .* answers"):
        rerank_first(first, n, from_table(np.zeros((1, 10))), k, tolerance=0.0)


def test_a_nan_score_raises():
    first = rank_scores(np.array([[3.0, 2.0]]), [np.array([1])], 2)
    with pytest.raises(ValueError, match="must not be NaN"):
        rerank_first(first, 2, from_table(np.array([[1.0, np.nan]])), 2, tolerance=0.0)


def test_answers_that_the_first_stage_lacks_raise():
    score_QN = np.arange(10.0)[None]
    short, whole = (rank_scores(score_QN, [np.array([3])], k) for k in (2, 10))
    with pytest.raises(ValueError, match="does not contain"):
        recall_rank(short, whole)
