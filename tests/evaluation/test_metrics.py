"""Each metric equals the stored reference and a separately written definition."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from mindloc.descriptors.ranking import rank_references
from mindloc.evaluation import metrics


@pytest.fixture(scope="module")
def gta(request):
    """(ranking, distances to all answers, stored metrics) of the reference: 120 queries, 400 tiles."""
    reference_dir = request.getfixturevalue("reference_dir")
    stored = dict(np.load(reference_dir / "gta_eval.npz", allow_pickle=False))
    right = [np.array([int(i) for i in text.split(",")]) for text in stored["positives"]]
    ranking = rank_references(stored["query"], stored["gallery"], {"pos": right}, k=400)["pos"]
    distance_QN = np.linalg.norm(stored["query_xy"][:, None] - stored["gallery_xy"][ranking.top_QK], axis=2)
    return ranking, distance_QN, stored, right


def cosine(query_QD, gallery_ND):
    q, g = query_QD.astype(np.float64), gallery_ND.astype(np.float64)
    return (q @ g.T) / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(g, axis=1)


def test_reference_recall(gta):
    ranking, _, stored, _ = gta
    recalls = [metrics.recall_at(ranking.first_rank_Q, k) for k in (1, 5, 10)]
    np.testing.assert_allclose(recalls, stored["recall"], rtol=0, atol=1e-9)
    one_percent = metrics.recall_at(ranking.first_rank_Q, metrics.one_percent(400))
    np.testing.assert_allclose(one_percent, stored["recall_top1_percent"], rtol=0, atol=1e-9)


def test_reference_average_precision(gta):
    ranking, _, stored, _ = gta
    step = metrics.average_precision_step(ranking.start, ranking.rank_E).mean()
    trapezoid = metrics.average_precision_trapezoid(ranking.start, ranking.rank_E).mean()
    np.testing.assert_allclose(step, stored["ap_sklearn"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(trapezoid, stored["ap_trapezoid"], rtol=0, atol=1e-9)


def test_reference_distances(gta):
    _, distance_QN, stored, _ = gta
    sdm = [metrics.sdm_at(distance_QN, k).mean() for k in stored["ks"]]
    dis = [metrics.dis_at(distance_QN, k).mean() for k in stored["ks"]]
    np.testing.assert_allclose(sdm, stored["sdm"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(dis, stored["dis_m"], rtol=0, atol=1e-9)


def test_step_average_precision_is_scikit_learns(gta):
    ranking, _, stored, right = gta
    ours_Q = metrics.average_precision_step(ranking.start, ranking.rank_E)
    for ours, score_N, items in zip(ours_Q, cosine(stored["query"], stored["gallery"]), right, strict=True):
        truth_N = np.isin(np.arange(400), items)
        np.testing.assert_allclose(ours, average_precision_score(truth_N, score_N), atol=1e-12)


def naive_trapezoid(ranks):
    """AP by a walk down the list: each correct reference adds a trapezoid of width 1/P, from old to new precision."""
    area = 0.0
    for found, rank in enumerate(ranks):
        old = found / (rank - 1) if rank > 1 else 1.0
        area += (old + (found + 1) / rank) / 2 / len(ranks)
    return area


def test_trapezoid_average_precision_follows_a_walk_down_the_list(gta):
    ranking = gta[0]
    ours_Q = metrics.average_precision_trapezoid(ranking.start, ranking.rank_E)
    for i, ours in enumerate(ours_Q):
        ranks = ranking.rank_E[ranking.start[i] : ranking.start[i + 1]].tolist()
        np.testing.assert_allclose(ours, naive_trapezoid(ranks), atol=1e-12)


ranks_of_queries = st.lists(st.sets(st.integers(1, 60), min_size=1, max_size=8).map(sorted), min_size=1, max_size=6)


@given(ranks_of_queries)
def test_metrics_of_ranks_follow_their_definitions(queries):
    """The correct references of each query are at these ranks; each definition walks down the list."""
    start, rank_E = np.cumsum([0, *map(len, queries)]), np.concatenate(queries)
    step = [np.mean([(found + 1) / rank for found, rank in enumerate(ranks)]) for ranks in queries]
    np.testing.assert_allclose(metrics.average_precision_step(start, rank_E), step, rtol=1e-12)
    trapezoid = [naive_trapezoid(ranks) for ranks in queries]
    np.testing.assert_allclose(metrics.average_precision_trapezoid(start, rank_E), trapezoid, atol=1e-12)
    first_Q = np.array([ranks[0] for ranks in queries])
    for k in (1, 3, 60):
        assert metrics.recall_at(first_Q, k) == sum(any(rank <= k for rank in ranks) for ranks in queries) / len(
            queries
        )


def test_average_precisions_by_hand():
    start, rank_E = np.array([0, 2, 3]), np.array([1, 3, 4])
    # query 0: correct at 1 and 3: (1/1 + 2/3) / 2 = 5/6; query 1: correct at 4: 1/4
    np.testing.assert_allclose(metrics.average_precision_step(start, rank_E), [5 / 6, 1 / 4])
    # query 0: ((1 + 1)/2 + (1/2 + 2/3)/2) / 2 = (1 + 7/12) / 2 = 19/24; query 1: (0/3 + 1/4) / 2 = 1/8
    np.testing.assert_allclose(metrics.average_precision_trapezoid(start, rank_E), [19 / 24, 1 / 8])


def test_recall_by_hand():
    first_rank_Q = np.array([1, 2, 5, 6])
    assert [metrics.recall_at(first_rank_Q, k) for k in (1, 2, 5, 10)] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("reference_count", "cmc_within", "vigor_within"),
    [
        (49, 1, 1),  # round(0.49) = 0, int(0.49) = 0
        (50, 1, 1),  # round(0.5) = 0: half to even
        (51, 2, 1),  # round(0.51) = 1
        (150, 3, 2),  # round(1.5) = 2, int(1.5) = 1
        (400, 5, 5),  # index 4 is the fifth
    ],
)
def test_one_percent_follows_its_convention(reference_count, cmc_within, vigor_within):
    assert metrics.one_percent(reference_count) == cmc_within
    assert metrics.one_percent_vigor(reference_count) == vigor_within


def naive_sdm(distances, k, per_unit):
    above = sum((k - i) * math.exp(-per_unit * distances[i]) for i in range(k))
    return above / sum(k - i for i in range(k))


@pytest.mark.parametrize("per_unit", [metrics.SDM_PER_M, metrics.SDM_PER_DEGREE])
@given(st.lists(st.lists(st.floats(0, 5), min_size=5, max_size=5), min_size=1, max_size=4), st.integers(1, 5))
def test_sdm_and_dis_follow_their_formulas(per_unit, decays, k):
    distance_QK = np.array(decays) / per_unit
    expected = [naive_sdm(row, k, per_unit) for row in distance_QK]
    np.testing.assert_allclose(metrics.sdm_at(distance_QK, k, per_unit), expected, rtol=1e-12)
    np.testing.assert_allclose(metrics.dis_at(distance_QK, k), [sum(row[:k]) / k for row in distance_QK], rtol=1e-12)


def test_denseuav_weights_give_the_same_sum():
    """DenseUAV has weights 1 - i/K for answer i, divided by their sum: these are proportional to K - i."""
    distance_QK = np.random.default_rng(1).exponential(1e-4, (1, 3))
    weights = [1 - i / 3 for i in range(3)]
    expected = sum(w * math.exp(-5e3 * d) for w, d in zip(weights, distance_QK[0], strict=True)) / sum(weights)
    np.testing.assert_allclose(metrics.sdm_at(distance_QK, 3, metrics.SDM_PER_DEGREE), expected, rtol=1e-12)


def test_metrics_accept_fewer_answers_than_k():
    np.testing.assert_allclose(metrics.sdm_at(np.array([[0.0, 1000.0]]), 5), [(2 + math.exp(-1)) / 3])
    assert metrics.dis_at(np.array([[10.0, 20.0]]), 5).tolist() == [15.0]


def test_bootstrap_is_seeded_and_covers_the_mean():
    hit_Q = np.arange(200) % 4 == 0  # mean 0.25, standard error sqrt(0.25 * 0.75 / 200) = 0.0306
    low, high = metrics.bootstrap_interval(hit_Q, 2000, seed=5)
    assert (low, high) == metrics.bootstrap_interval(hit_Q, 2000, seed=5)
    assert (low, high) != metrics.bootstrap_interval(hit_Q, 2000, seed=6)
    np.testing.assert_allclose([low, high], [0.25 - 1.96 * 0.0306, 0.25 + 1.96 * 0.0306], atol=0.01)
