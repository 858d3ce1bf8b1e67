"""Retrieval metrics from ranks and distances, in NumPy float64.

Ranks and answers follow one rule for ties (``CONVENTIONS["ties"]``, applied in ``descriptors/ranking.py``); ranks are
1-based. Fractions are 0 to 1, distances are meters. Papers define some metrics differently. ``CONVENTIONS`` gives the
definition of each number here and is part of every report; so are ``DISTANCE_CONVENTIONS`` if places are known, and
``TWO_STAGE_CONVENTIONS`` for a search in two stages.

Shapes: Q queries, K answers per query, E correct references of all queries (rows by ``start``, as in ``Ranking``).
"""

import numpy as np

CONVENTIONS = {
    "recall@K": "fraction of queries whose first correct reference ranks within K",
    "recall@1%": "CMC at the 0-based index round(0.01 N), N references (Game4Loc, University-1652, DenseUAV)",
    "recall@1%_vigor": "0-based rank < int(0.01 N) + 1 (VIGOR)",
    "ap": "mean over queries of scikit-learn's step AP: the mean precision at a query's correct references (Game4Loc)",
    "ap_trapezoid": "mean over queries of AP by the trapezoid rule (University-1652, Sample4Geo, DenseUAV)",
    "ties": "scores that differ by no more than the rounding of float64 are equal; of equal scores, wrong references "
    "rank before correct ones (pessimistic); otherwise ranks and answers follow the order of the reference set",
    "queries": "queries without a correct reference in the mode are left out and counted",
    "interval": "95 % percentile bootstrap over queries; frames of one flight are not independent, so it is optimistic",
}
DISTANCE_CONVENTIONS = {
    "sdm@K": "sum_i (K - i) exp(-0.001 d_i) / sum_i (K - i), i from 0, d_i meters to the i-th answer (Game4Loc)",
    "sdm@K_denseuav": "SDM with exp(-5000 d_i), d_i degrees (DenseUAV); only if places are latitude and longitude",
    "dis@K_m": "mean distance in meters to the first K answers' centers, mean over queries",
    "dis@1_median_m": "median over queries of the distance to the first answer's center",
    "distances of tied answers": "answers are in the order of the rule for ties, which is equal on every machine",
}
TWO_STAGE_CONVENTIONS = {
    "model": "the first N answers of stage one in the order of Phi's cosine (float64), the first M of these in the "
    "order of node consistency if M is not 0; then the other answers in the order of stage one",
    "stage_one recall@N": "fraction of queries with a correct reference among the N that stage two re-ranks: the upper "
    "limit of Recall@K for every K up to N, and equal to it for K = N",
    "won_queries, lost_queries": "queries whose first answer is correct after re-ranking and wrong in stage one, and "
    "vice versa",
    "ties in stage two": "pessimistic among the N too: of answers with equal Phi, wrong ones come before correct ones; "
    "otherwise the order of stage one decides",
}
SDM_PER_M = 0.001
SDM_PER_DEGREE = 5e3


def recall_at(first_rank_Q: np.ndarray, k: int) -> float:
    """Fraction of queries whose first correct reference ranks within ``k``."""
    return float(np.mean(first_rank_Q <= k))


def one_percent(reference_count: int) -> int:
    """The k of Recall@1%: CMC at the 0-based index round(0.01 N), half to even, as the public evaluators do."""
    return round(0.01 * reference_count) + 1


def one_percent_vigor(reference_count: int) -> int:
    """The k of VIGOR's Recall@1%: 0-based ranks below int(0.01 N) + 1."""
    return int(0.01 * reference_count) + 1


def average_precision_step(start: np.ndarray, rank_E: np.ndarray) -> np.ndarray:
    """(Q,) scikit-learn's AP of each query: the mean over its correct references of the precision at their ranks."""
    number_E, query_E, count_Q = _numbering(start)
    return np.bincount(query_E, number_E / rank_E, minlength=len(count_Q)) / count_Q


def average_precision_trapezoid(start: np.ndarray, rank_E: np.ndarray) -> np.ndarray:
    """(Q,) AP of each query as the area of trapezoids between the precisions before and at each correct reference."""
    number_E, query_E, count_Q = _numbering(start)
    before_E = np.where(rank_E > 1, (number_E - 1) / np.maximum(rank_E - 1, 1), 1.0)
    return np.bincount(query_E, (before_E + number_E / rank_E) / 2, minlength=len(count_Q)) / count_Q


def sdm_at(distance_QK: np.ndarray, k: int, per_unit: float = SDM_PER_M) -> np.ndarray:
    """(Q,) spatial distance metric over the first ``k`` answers (or as many as there are).

    Args:
        distance_QK: best answer first.
        per_unit: decay per unit of distance, ``SDM_PER_M`` or ``SDM_PER_DEGREE``.
    """
    distance_QK = distance_QK[:, :k]
    weight_K = np.arange(distance_QK.shape[1], 0, -1, dtype=np.float64)
    return np.exp(-per_unit * distance_QK) @ (weight_K / weight_K.sum())


def dis_at(distance_QK: np.ndarray, k: int) -> np.ndarray:
    """(Q,) mean distance of the first ``k`` answers."""
    return distance_QK[:, :k].mean(axis=1)


def bootstrap_interval(value_Q: np.ndarray, resamples: int, seed: int, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the mean over queries drawn with replacement; a function of the seed."""
    random = np.random.default_rng(seed)
    mean_R = [value_Q[random.integers(len(value_Q), size=len(value_Q))].mean() for _ in range(resamples)]
    low, high = np.quantile(mean_R, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _numbering(start: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(number of each correct reference within its query (from 1), its query, number of correct ones per query)."""
    count_Q = np.diff(start)
    query_E = np.repeat(np.arange(len(count_Q)), count_Q)
    return np.arange(len(query_E)) - start[query_E] + 1.0, query_E, count_Q
