"""Baselines equal brute force over all orders of a few references, and answers counted by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from score_settings import score_settings

from mindloc.config.sections import DataConfig
from mindloc.data.readers import read_split
from mindloc.errors import ImageError
from mindloc.evaluation import baselines
from mindloc.evaluation.score import Distances
from mindloc.evaluation.truth import Truth, make_task


def every_order(reference_count, positives):
    """Ranks of the correct references in each of the equally likely orders."""
    return list(itertools.combinations(range(1, reference_count + 1), positives))


@given(st.integers(1, 9).flatmap(lambda count: st.tuples(st.just(count), st.integers(1, count))), st.integers(1, 12))
def test_chance_is_the_mean_over_all_orders(count_and_positives, k):
    count, positives = count_and_positives
    orders = every_order(count, positives)
    recall = np.mean([min(ranks) <= k for ranks in orders])
    np.testing.assert_allclose(baselines.chance_recall_at(np.array([positives]), count, k), recall, rtol=1e-12)
    precision = np.mean([np.mean([(i + 1) / rank for i, rank in enumerate(ranks)]) for ranks in orders])
    ours = baselines.chance_average_precision(np.array([positives]), count)
    np.testing.assert_allclose(ours, precision, rtol=1e-12)


def test_chance_averages_over_queries():
    # 1 of 4 and 2 of 4 tiles are correct: (1/4 + 2/4) / 2
    np.testing.assert_allclose(baselines.chance_recall_at(np.array([1, 2]), 4, 1), 0.375)


def test_commonest_counts_and_breaks_ties_by_name():
    assert baselines.commonest(["b", "c", "a", "b", "c"]) == [("b", 2), ("c", 2), ("a", 1)]


def make_case():
    truth = Truth({"pos": [np.array([0]), np.array([2])], "pos_semipos": [np.array([0, 1]), np.array([2])]}, 2)
    reference_N2 = np.array([[0.0, 0.0], [30.0, 40.0], [0.0, 100.0]])
    return truth, Distances(np.zeros((2, 2)), reference_N2, "plane_m")


def test_the_constant_answer_follows_the_training_pairs():
    truth, distances = make_case()
    order = {"pos": ["b", "elsewhere", "a"], "pos_semipos": ["b", "a"]}
    scores = baselines.score_constant(order, ["a", "b", "c"], truth, distances, score_settings(recall_at=(1, 2, 3)))
    pos, wide = scores.numbers["pos"], scores.numbers["pos_semipos"]
    # answers b, a, c for both: query 0 finds a at 2 (pos) and b at 1 (semi), query 1 finds c at 3
    assert [pos[f"recall@{k}"] for k in (1, 2, 3)] == [0.0, 0.5, 1.0]
    assert [wide[f"recall@{k}"] for k in (1, 2, 3)] == [0.5, 0.5, 1.0]
    assert pos["dis@1_m"] == 50.0 and pos["distinct_top1"] == 1  # b is 50 m away from both


def test_there_is_no_constant_answer_without_names_of_references():
    truth, distances = make_case()
    assert baselines.score_constant({"pos": ["x"]}, ["a", "b", "c"], truth, distances, score_settings()) is None


def test_chance_distances_are_those_of_all_pairs():
    truth, distances = make_case()
    numbers = baselines.score_chance(truth, 3, distances, score_settings()).numbers["pos"]
    assert numbers["dis@1_m"] == 50.0 and numbers["dis@1_median_m"] == 50.0  # 0, 50, 100 from both queries
    np.testing.assert_allclose(numbers["sdm@3"], np.mean(np.exp([0, -0.05, -0.1])))


def test_histograms_of_equal_colors_are_equal_at_any_size(color_split):
    drone, same, other = (
        baselines.color_histogram(color_split.root / name)
        for name in ("drone/images/2.png", "satellite/4_0_0_2.png", "satellite/4_0_0_5.png")
    )
    np.testing.assert_allclose([drone @ same, drone @ other, drone @ drone], [1.0, 0.0, 1.0], atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_broken_image_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(ImageError, match=r"x.png is"):
        baselines.color_histogram(tmp_path / "x.png")


def test_the_constant_answers_of_the_real_flights_have_the_known_scores(adm_root):
    """Counted independently: the five most frequent tiles answer 78 % (train) and 37 % (test); medians 129 m, 301 m."""
    flight = DataConfig(root=str(adm_root), map_px=4800, m_per_px=0.243)
    splits = {name: read_split(flight, name) for name in ("train", "test")}
    train = splits["train"]
    named = [train.reference.files[index] for index in train.semipositive.reference]
    order = {"pos_semipos": [name for name, _ in baselines.commonest(named)]}
    for name, recall, median_m in (("train", 0.78, 129), ("test", 0.37, 301)):
        split = splits[name]
        truth = Truth(make_task(split).right, len(split.query.files))
        distances = Distances(
            split.query.places.coordinate_N2, split.reference.places.coordinate_N2, split.reference.place_unit
        )
        settings = score_settings(mode="pos_semipos", bootstrap=10)
        numbers = baselines.score_constant(order, split.reference.files, truth, distances, settings).numbers[
            "pos_semipos"
        ]
        assert abs(numbers["recall@5"] - recall) < 0.005
        assert abs(numbers["dis@1_median_m"] - median_m) < 0.5
