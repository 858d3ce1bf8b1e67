"""Scores of descriptor sets: both modes, ties, queries that are left out, missing places."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from score_settings import score_settings

from mindloc.descriptors.sets import DescriptorSet, make_rows
from mindloc.errors import DataError
from mindloc.evaluation.score import score_sets
from mindloc.evaluation.truth import Truth

SETTINGS = score_settings(bootstrap=20)


def make_set(descriptor_ND, place_N2, view="drone", unit="plane_m", checkpoint="abc"):
    names = [f"{view}/{index}" for index in range(len(descriptor_ND))]
    card = {"view": view, "place_unit": unit, "checkpoint_sha256": checkpoint}
    return DescriptorSet(np.asarray(descriptor_ND, np.float32), make_rows(names, place_N2), card)


def make_truth(pos, semi):
    lists = {"pos": pos, "pos_semipos": semi}
    return Truth({mode: [np.array(items, np.int64) for items in rows] for mode, rows in lists.items()}, len(pos))


def test_numbers_by_hand():
    """Two queries, three tiles 0, 300 and 400 m away; query 0 prefers 0, 1, 2 and query 1 prefers 2, 1, 0."""
    references = make_set(np.eye(3), [[0, 0], [300, 0], [0, 400]], "satellite")
    queries = make_set([[3, 2, 1], [1, 2, 3]], [[0, 0], [0, 0]])
    scores = score_sets(queries, references, make_truth([[0], [1]], [[0], [1, 2]]), SETTINGS)
    pos, wide = scores.numbers["pos"], scores.numbers["pos_semipos"]
    assert pos["recall@1"] == 0.5 and pos["recall@5"] == 1.0 and wide["recall@1"] == 1.0
    assert pos["ap"] == (1 + 1 / 2) / 2 and wide["ap"] == 1.0
    assert pos["dis@1_m"] == 200.0 and pos["dis@1_median_m"] == 200.0  # 0 and 400
    assert pos["dis@3_m"] == pytest.approx(700 / 3)
    assert pos["sdm@1"] == pytest.approx((1 + np.exp(-0.4)) / 2)
    assert pos["distinct_top1"] == 2 and pos["tied_queries"] == 0
    assert pos["within_250m"] == 0.5 and pos["within_500m"] == 1.0


def test_a_constant_descriptor_scores_zero_and_the_tied_queries_are_counted():
    references = make_set(np.ones((50, 8)), np.zeros((50, 2)), "satellite")
    truth = make_truth([[i] for i in range(10)], [[i] for i in range(10)])
    numbers = score_sets(make_set(np.ones((10, 8)), np.zeros((10, 2))), references, truth, SETTINGS).numbers["pos"]
    assert numbers["recall@1"] == numbers["recall@10"] == 0.0
    assert numbers["tied_queries"] == 10


small_numbers = st.integers(-2, 2)  # few values: many ties


@given(
    st.lists(st.tuples(small_numbers, small_numbers), min_size=2, max_size=7),
    st.lists(st.tuples(small_numbers, small_numbers, st.sets(st.integers(0, 6), min_size=1)), min_size=1, max_size=4),
)
def test_a_tie_is_never_won(reference_rows, query_rows):
    """Scores equal those of a sort of each query's references, with wrong ones before correct ones of equal cosine."""
    vectors = [np.array([*row, 3]) for row in reference_rows]  # whole numbers: equal cosines are equal up to rounding
    right = [{index % len(vectors) for index in indices} for *_, indices in query_rows]
    queries = [np.array([a, b, 3]) for a, b, _ in query_rows]
    ranks = []
    for query, wanted in zip(queries, right, strict=True):
        cosine = [round(query @ v / np.linalg.norm(query) / np.linalg.norm(v), 12) for v in vectors]
        order = sorted(range(len(vectors)), key=lambda i: (-cosine[i], i in wanted))
        ranks.append([rank for rank, i in enumerate(order, 1) if i in wanted])
    truth = make_truth([sorted(wanted) for wanted in right], [sorted(wanted) for wanted in right])
    sets = make_set(queries, None, unit=None), make_set(vectors, None, "satellite", None)
    numbers = score_sets(*sets, truth, SETTINGS).numbers["pos"]
    for k in (1, 5):
        assert numbers[f"recall@{k}"] == pytest.approx(np.mean([of_query[0] <= k for of_query in ranks]))
    precision = [np.mean([(found + 1) / rank for found, rank in enumerate(of_query)]) for of_query in ranks]
    assert numbers["ap"] == pytest.approx(np.mean(precision))


def test_permuting_the_references_changes_no_number():
    random = np.random.default_rng(0)
    reference_ND, place_N2, query_QD = random.random((40, 6)), random.random((40, 2)) * 900, random.random((15, 6))
    right = [random.choice(40, 3, replace=False) for _ in range(15)]
    queries, order = make_set(query_QD, random.random((15, 2)) * 900), random.permutation(40)
    plain = score_sets(queries, make_set(reference_ND, place_N2, "satellite"), make_truth(right, right), SETTINGS)
    moved = [np.flatnonzero(np.isin(order, items)) for items in right]
    permuted = make_set(reference_ND[order], place_N2[order], "satellite")
    assert score_sets(queries, permuted, make_truth(moved, moved), SETTINGS).numbers == plain.numbers


def test_queries_without_a_correct_reference_are_left_out_and_counted():
    references = make_set(np.eye(3), np.zeros((3, 2)), "satellite")
    queries = make_set(np.eye(3), np.zeros((3, 2)))
    scores = score_sets(queries, references, make_truth([[0], [], []], [[0], [0], []]), SETTINGS)
    assert [scores.numbers[mode]["queries"] for mode in ("pos", "pos_semipos")] == [1, 2]
    assert [scores.numbers[mode]["queries_left_out"] for mode in ("pos", "pos_semipos")] == [2, 1]
    assert scores.numbers["pos_semipos"]["recall@1"] == 0.5


def test_a_mode_without_any_correct_reference_is_an_error_only_as_the_leading_mode():
    references, queries = make_set(np.eye(2), np.zeros((2, 2)), "satellite"), make_set(np.eye(2), np.zeros((2, 2)))
    truth = make_truth([[], []], [[0], [1]])
    assert list(score_sets(queries, references, truth, score_settings("pos_semipos", bootstrap=5)).numbers) == [
        "pos_semipos"
    ]
    with pytest.raises(DataError, match="no query has a correct reference in mode pos"):
        score_sets(queries, references, truth, SETTINGS)


def test_without_places_there_are_no_distances_but_ranks():
    references, queries = make_set(np.eye(2), None, "satellite", None), make_set(np.eye(2), None, unit=None)
    numbers = score_sets(queries, references, make_truth([[0], [1]], [[0], [1]]), SETTINGS).numbers["pos"]
    assert numbers["recall@1"] == 1.0
    assert not any(key.startswith(("dis@", "sdm@", "within_")) for key in numbers)


def test_a_missing_place_makes_the_distance_metrics_none():
    references, queries = (
        make_set(np.eye(2), [[0, 0], [np.nan, np.nan]], "satellite"),
        make_set(np.eye(2), [[0, 0]] * 2),
    )
    numbers = score_sets(queries, references, make_truth([[0], [1]], [[0], [1]]), SETTINGS).numbers["pos"]
    assert numbers["dis@1_m"] is None and numbers["sdm@3"] is None and numbers["within_10m"] is None


def test_latitude_and_longitude_give_meters_and_denseuavs_degrees():
    """One degree of latitude is 6371.0088 km * pi / 180 = 111.195 km; at 60 degrees one of longitude is half of it."""
    references = make_set(np.eye(2), [[61.0, 5.0], [60.0, 6.0]], "satellite", "lat_lon_deg")
    queries = make_set(np.eye(2), [[60.0, 5.0], [60.0, 5.0]], "drone", "lat_lon_deg")
    truth = make_truth([[0], [1]], [[0], [1]])
    scores = score_sets(queries, references, truth, SETTINGS)
    np.testing.assert_allclose(scores.distance["pos"][:, 0], [111_195, 55_597], rtol=1e-4)
    assert scores.numbers["pos"]["sdm@1_denseuav"] == pytest.approx(np.exp(-5e3))


def test_distances_across_the_180th_meridian_are_the_short_way():
    """0.002 degrees on the equator: 222.39 m, and exp(-5000 * 0.002) of DenseUAV's SDM."""
    references = make_set(np.eye(2), [[0.0, -179.999], [0.0, 179.997]], "satellite", "lat_lon_deg")
    queries = make_set(np.eye(2), [[0.0, 179.999]] * 2, "drone", "lat_lon_deg")
    scores = score_sets(queries, references, make_truth([[0], [1]], [[0], [1]]), SETTINGS)
    np.testing.assert_allclose(scores.distance["pos"][:, 0], [222.39, 222.39], rtol=1e-4)
    assert scores.numbers["pos"]["sdm@1_denseuav"] == pytest.approx(np.exp(-10))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"checkpoint": "def"}, "queries are from checkpoint abc, those of the references from def"),
        ({"unit": "lat_lon_deg"}, "queries are in plane_m, those of the references in lat_lon_deg"),
    ],
)
def test_sets_that_do_not_belong_together_are_named(other, message):
    references = make_set(np.eye(2), np.zeros((2, 2)), "satellite", **other)
    with pytest.raises(DataError, match=message):
        score_sets(make_set(np.eye(2), np.zeros((2, 2))), references, make_truth([[0], [1]], [[0], [1]]), SETTINGS)
