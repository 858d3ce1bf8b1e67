"""A second look at each query's first answers: they get new scores and change places, everything behind them stays.

As in ``ranking.py``, **a tie is never won**: among the first n, a wrong item whose new score equals a right one's, up
to rounding, ranks before it, wherever the earlier stage had them. A constant second descriptor wins nothing.

Suffixes: Q queries, N gallery items, n answers looked at again, K answers kept, E length of a second descriptor.
"""

from collections.abc import Callable

import numpy as np

from mindloc.retrieval.ranking import PlacedAnswers, Ranking, collect_answers, float64_rows, place_right

ScoreOf = Callable[[int, np.ndarray], np.ndarray]  # query, gallery indices (n,) -> their scores (n,) float64


def rerank_first(first: Ranking, n: int, score_of: ScoreOf, k: int, tolerance: float) -> Ranking:
    """The ranking after the first n answers of each query were ordered by new scores.

    Right items beyond n keep their rank. Wrong items with equal scores keep the order of the earlier stage. A score is
    of the stage that decided: of this one up to n, of the earlier one behind. ``tied_Q`` speaks of this stage where a
    right item is among the first n, of the earlier one elsewhere.

    Args:
        first: the earlier stage; must hold max(n, k) answers.
        k: answers to keep.
        tolerance: new scores that differ by no more are equal, such as by rounding alone.

    Raises:
        ValueError: n is below 1, ``first`` holds too few answers, or a new score is NaN (which nothing could beat).
    """
    held = first.top_QK.shape[1]
    if not 1 <= n <= held or k > held:
        raise ValueError(f"the first {n} answers of {held} can't be ranked anew and {k} kept; rank more in stage one")
    rows = []
    for query in range(len(first)):
        rank_P = first.rank_E[first.start[query] : first.start[query + 1]]
        rows.append(_rerank_query(first, query, rank_P, n, score_of, k, tolerance))
    return collect_answers(rows, k)


def cosine_of(query_QE: np.ndarray, gallery_NE: np.ndarray) -> tuple[ScoreOf, float]:
    """Cosines in float64 as new scores, and the difference that rounding alone can make.

    Args:
        query_QE, gallery_NE: any float type, any length; memmaps welcome, of which only the rows asked for are read.
    """

    def score_of(query: int, items: np.ndarray) -> np.ndarray:
        return float64_rows(gallery_NE[items], True) @ float64_rows(query_QE[query : query + 1], True)[0]

    return score_of, query_QE.shape[1] * np.finfo(np.float64).eps  # two sums of E products, as in ranking.py


def recall_rank(first: Ranking, final: Ranking) -> np.ndarray:
    """(Q, K) place, 1-based, that each answer of ``final`` had in the earlier stage ``first``.

    Raises:
        ValueError: an answer that ``first`` does not hold.
    """
    place_QK = np.empty(final.top_QK.shape, np.int64)
    for query, (earlier, top_K) in enumerate(zip(first.top_QK, final.top_QK, strict=True)):
        order = np.argsort(earlier)
        place_QK[query] = order[np.searchsorted(earlier, top_K, sorter=order).clip(max=len(order) - 1)]
        if (earlier[place_QK[query]] != top_K).any():
            raise ValueError(f"query {query} has answers that the earlier stage does not hold")
    return place_QK + 1


def _rerank_query(
    first: Ranking, query: int, rank_P: np.ndarray, n: int, score_of: ScoreOf, k: int, tolerance: float
) -> PlacedAnswers:
    items_K = first.top_QK[query]
    score_n = score_of(query, items_K[:n])
    if np.isnan(score_n).any():
        raise ValueError(f"new scores of query {query} are {score_n}; NaN has no rank")
    right = rank_P[rank_P <= n] - 1  # ranks say where in top_QK the right items are
    placed = place_right(score_n, np.argsort(-score_n, kind="stable"), right, n, tolerance)
    return PlacedAnswers(
        rank_P=np.concatenate([placed.rank_P, rank_P[len(right) :]]),
        top_K=np.concatenate([items_K[placed.top_K], items_K[n:]])[:k],
        score_K=np.concatenate([placed.score_K, first.score_QK[query, n:]])[:k],
        tied=placed.tied if len(right) else bool(first.tied_Q[query]),
    )
