"""Exact search: ranks of the correct items (the positives) of each query among all reference items, one or two stages.

Scores are cosines in float64, computed strip by strip, never the whole matrix. Scores that differ by no more than the
rounding of their sums are a tie, so that no rank or answer depends on the block size or on the threads of BLAS. **A tie
is never won**: a wrong item ranks before a correct one of equal score, even if an earlier stage ranked it behind. Wrong
items of equal score keep the order of the reference side, and so do correct ones. With a constant descriptor, all
correct items therefore rank last.

Shapes: Q queries, N reference items, B rows of a strip, D dimension, K answers kept, n answers that a second stage
re-ranks, P correct items of one query, E correct items of all queries. For node consistency: M tiles, K nodes, C width
of a node.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mindloc.errors import DataError
from mindloc.runtime.console import progress_bar

_STRIP_SCORES = 2**23  # float64 scores in memory at once: 64 MB
_STRIP_QUERIES = 1024
_REFERENCE_ROWS = 4096
_EPSILON = float(np.finfo(np.float64).eps)
_BLOCK_NUMBERS = 2**25  # float64 numbers of a side in memory at once: 256 MB for any dimension


@dataclass(frozen=True)
class Ranking:
    """Answers to Q queries; the correct items of query i have the ranks ``rank_E[start[i]:start[i + 1]]``."""

    start: np.ndarray  # (Q + 1,) int64
    rank_E: np.ndarray  # int64, 1-based, ascending within a query
    top_QK: np.ndarray  # int64 reference indices, best first, in the order of the ranks
    score_QK: np.ndarray  # float64, the scores of these answers
    tied_Q: np.ndarray  # bool: a wrong item has the same score as the best correct one

    def __len__(self) -> int:
        return len(self.top_QK)

    @property
    def positives_Q(self) -> np.ndarray:
        """Number of correct items of each query, int64."""
        return np.diff(self.start)

    @property
    def first_rank_Q(self) -> np.ndarray:
        """Rank of the first correct item of each query, 1-based.

        Raises:
            ValueError: a query has no correct item.
        """
        if len(self) and not self.positives_Q.all():
            raise ValueError("a query without a correct item has no first rank; leave it out with answerable()")
        return self.rank_E[self.start[:-1]]

    def answerable(self) -> tuple["Ranking", np.ndarray]:
        """The ranking of the queries that have a correct item, and the indices of these queries."""
        index = np.flatnonzero(self.positives_Q)
        start = np.concatenate(([0], np.cumsum(self.positives_Q[index])))
        kept = Ranking(start, self.rank_E, self.top_QK[index], self.score_QK[index], self.tied_Q[index])
        return kept, index


def rank_references(
    query_QD: np.ndarray,
    reference_ND: np.ndarray,
    right: dict[str, list[np.ndarray]],
    k: int,
    normalize: bool = True,
    strip_queries: int | None = None,
) -> dict[str, Ranking]:
    """One ranking for each definition of a correct item, all from one pass over the scores.

    Args:
        query_QD, reference_ND: rows of any float type and any length; may be memory-mapped.
        right: name of a definition -> reference indices of the correct items of each query (Q arrays, possibly empty).
        k: answers to keep per query; all N if k is larger.
        normalize: True scores by cosine (0 for a zero descriptor), False by the inner product.
        strip_queries: queries scored at once; None chooses by the number of reference items.

    Raises:
        DataError: the two dimensions differ, a side is empty, or an index is out of range.
    """
    _check(query_QD, reference_ND, right)
    k = min(k, len(reference_ND))
    placed: dict[str, list[PlacedAnswers]] = {name: [] for name in right}
    with progress_bar(total=len(query_QD), desc="ranking", unit="query") as bar:
        for first, score_BN, tolerance_B in _strips(query_QD, reference_ND, normalize, strip_queries):
            for offset, (score_N, tolerance) in enumerate(zip(score_BN, tolerance_B.tolist(), strict=True)):
                needed = k + max(len(items[first + offset]) for items in right.values())
                best = _best(score_N, min(needed, len(score_N)), tolerance)
                for name, items in right.items():
                    placed[name].append(place_right(score_N, best, items[first + offset], k, tolerance))
                bar.update()
    return {name: collect_answers(rows, k) for name, rows in placed.items()}


@dataclass(frozen=True)
class PlacedAnswers:
    """Answers to one query, and the ranks of its P correct items."""

    rank_P: np.ndarray  # int64, 1-based, ascending
    top_K: np.ndarray  # int64 indices, best first
    score_K: np.ndarray  # float64, the scores of these answers
    tied: bool  # a wrong item has the same score as the best correct one


def _check(query_QD: np.ndarray, reference_ND: np.ndarray, right: dict[str, list[np.ndarray]]) -> None:
    if query_QD.ndim != 2 or reference_ND.ndim != 2 or query_QD.shape[1] != reference_ND.shape[1]:
        raise DataError(
            f"queries of shape {query_QD.shape} can't be compared with reference items of shape {reference_ND.shape}; "
            "extract both with the same checkpoint"
        )
    if not len(query_QD) or not len(reference_ND):
        raise DataError(f"{len(query_QD)} queries and {len(reference_ND)} reference items; each side needs at least 1")
    for name, items in right.items():
        if len(items) != len(query_QD):
            raise DataError(
                f"correct items ({name}) are given for {len(items)} queries, but there are {len(query_QD)}; give a "
                "list for each query"
            )
        index = np.concatenate([np.asarray(item, np.int64) for item in items])
        if index.size and (index.min() < 0 or index.max() >= len(reference_ND)):
            raise DataError(
                f"correct items ({name}) have indices {index.min()}..{index.max()}, expected 0..{len(reference_ND) - 1}"
            )


def _strips(
    query_QD: np.ndarray, reference_ND: np.ndarray, normalize: bool, strip_queries: int | None
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield for each strip: first query's index, scores (B, N) float64, largest differences by rounding (B,)."""
    count, most = len(reference_ND), max(1, _BLOCK_NUMBERS // reference_ND.shape[1])
    rows = strip_queries or max(1, min(_STRIP_QUERIES, _STRIP_SCORES // count, len(query_QD), most))
    reference_rows = min(_REFERENCE_ROWS, most)
    buffer = np.empty((rows, count), np.float64)
    for first in range(0, len(query_QD), rows):
        query_BD = float64_rows(query_QD[first : first + rows], normalize)
        score_BN = buffer[: len(query_BD)]
        longest = 0.0
        for start in range(0, count, reference_rows):
            block_ND = float64_rows(reference_ND[start : start + reference_rows], normalize)
            np.matmul(query_BD, block_ND.T, out=score_BN[:, start : start + reference_rows])
            longest = max(longest, float(np.linalg.norm(block_ND, axis=1).max()))
        # Two sums of D products differ by rounding alone by at most 2 * D * u * |q| |g|, eps = 2 u.
        yield first, score_BN, query_QD.shape[1] * _EPSILON * longest * np.linalg.norm(query_BD, axis=1)


def float64_rows(row_XD: np.ndarray, normalize: bool) -> np.ndarray:
    """A float64 copy of rows (..., D); with ``normalize`` they have unit length, except that zero rows stay zero."""
    block = np.array(row_XD, np.float64)
    if normalize:
        block /= np.maximum(np.linalg.norm(block, axis=-1, keepdims=True), np.finfo(np.float64).tiny)
    return block


def best_first(score_N: np.ndarray, tolerance: float) -> np.ndarray:
    """Indices (N,) by descending score; scores that differ by no more than ``tolerance`` are in index order."""
    order_N = np.argsort(-score_N, kind="stable")
    sorted_N = score_N[order_N]
    apart_N = sorted_N[:-1] - sorted_N[1:] > tolerance
    if apart_N.all():
        return order_N
    tie_N = np.concatenate(([0], np.cumsum(apart_N)))  # number of each score's group of ties
    return order_N[np.lexsort((order_N, tie_N))]


def _best(score_N: np.ndarray, count: int, tolerance: float) -> np.ndarray:
    """Indices of the ``count`` highest scores and of all that tie with the last of them, in the order of best_first."""
    threshold = np.partition(score_N, len(score_N) - count)[len(score_N) - count]
    index = np.flatnonzero(score_N >= threshold - tolerance)
    return index[best_first(score_N[index], tolerance)]


def place_right(score_N: np.ndarray, best: np.ndarray, right: np.ndarray, k: int, tolerance: float) -> PlacedAnswers:
    """Ranks of one query's correct items, each behind every wrong item of the same score, and the top k answers.

    Args:
        best: indices as ``best_first`` returns them, at least the first k + the number of correct items.
        right: indices of the correct items.
        tolerance: scores that differ by no more than this are equal.
    """
    right = np.unique(np.asarray(right, np.int64))
    right = right[best_first(score_N[right], tolerance)]
    score_P = -np.sort(-score_N[right])
    ahead_P = np.array([_wrong_from(score_N, score_P, s - tolerance) for s in score_P], np.int64)
    rank_P = ahead_P + np.arange(1, len(right) + 1)
    better = _wrong_from(score_N, score_P, np.nextafter(score_P[0] + tolerance, np.inf)) if len(right) else 0
    top_K = np.full(k, -1, np.int64)
    within = rank_P <= k
    top_K[rank_P[within] - 1] = right[within]
    top_K[top_K < 0] = best[~np.isin(best, right)][: k - int(within.sum())]
    return PlacedAnswers(rank_P, top_K, score_N[top_K], tied=bool(len(right)) and bool(ahead_P[0] > better))


def _wrong_from(score_N: np.ndarray, score_P: np.ndarray, threshold: float) -> int:
    """Number of wrong items whose score is at least ``threshold``."""
    return int(np.count_nonzero(score_N >= threshold) - np.count_nonzero(score_P >= threshold))


def collect_answers(rows: list[PlacedAnswers], k: int) -> Ranking:
    """Combine the answers to single queries, k each, into the ranking of all queries."""
    return Ranking(
        start=np.concatenate(([0], np.cumsum([len(row.rank_P) for row in rows]))).astype(np.int64),
        rank_E=np.concatenate([row.rank_P for row in rows]),
        top_QK=np.array([row.top_K for row in rows]).reshape(len(rows), k),
        score_QK=np.array([row.score_K for row in rows]).reshape(len(rows), k),
        tied_Q=np.array([row.tied for row in rows], bool),
    )


ScoreOf = Callable[[int, np.ndarray], np.ndarray]  # query, reference indices (n,) -> their scores (n,) float64


def rerank_first(first: Ranking, n: int, score_of: ScoreOf, k: int, tolerance: float) -> Ranking:
    """The ranking after the first n answers of each query are sorted by new scores.

    Correct items beyond n keep their rank. Among equal scores, wrong items keep the order of the earlier stage, and so
    do correct items. The first n scores are those of this stage, the others those of the earlier stage. ``tied_Q``
    refers to this stage if a correct item is among the first n, otherwise to the earlier stage.

    Args:
        first: the earlier stage, with at least max(n, k) answers per query.
        k: answers to keep.
        tolerance: new scores that differ by no more than this, for example by rounding, are equal.

    Raises:
        ValueError: n is below 1, ``first`` contains too few answers, or a new score is NaN.
    """
    available = first.top_QK.shape[1]
    if not 1 <= n <= available or k > available:
        raise ValueError(
            f"stage one has {available} answers, so {n} can't be re-ranked and {k} kept; give 1 to {available}, or "
            "raise its k"
        )
    rows = []
    for query in progress_bar(range(len(first)), desc="re-ranking", unit="query"):
        rank_P = first.rank_E[first.start[query] : first.start[query + 1]]
        rows.append(_rerank_query(first, query, rank_P, n, score_of, k, tolerance))
    return collect_answers(rows, k)


def cosine_of(query_QE: np.ndarray, reference_NE: np.ndarray) -> tuple[ScoreOf, float]:
    """A function that computes cosines in float64 as new scores, and their largest difference by rounding.

    Args:
        query_QE, reference_NE: rows of any float type and any length; if memory-mapped, only the needed rows are read.
    """

    def score_of(query: int, items: np.ndarray) -> np.ndarray:
        return float64_rows(reference_NE[items], True) @ float64_rows(query_QE[query : query + 1], True)[0]

    return score_of, query_QE.shape[1] * _EPSILON  # two sums of E products, as in _strips


def recall_rank(first: Ranking, final: Ranking) -> np.ndarray:
    """(Q, K) 1-based rank that each answer of ``final`` had in the earlier stage ``first``.

    Raises:
        ValueError: ``final`` has an answer that ``first`` does not contain.
    """
    place_QK = np.empty(final.top_QK.shape, np.int64)
    for query, (earlier, top_K) in enumerate(zip(first.top_QK, final.top_QK, strict=True)):
        order = np.argsort(earlier)
        place_QK[query] = order[np.searchsorted(earlier, top_K, sorter=order).clip(max=len(order) - 1)]
        if (earlier[place_QK[query]] != top_K).any():
            raise ValueError(f"query {query} has answers that the earlier stage does not contain")
    return place_QK + 1


def _rerank_query(
    first: Ranking, query: int, rank_P: np.ndarray, n: int, score_of: ScoreOf, k: int, tolerance: float
) -> PlacedAnswers:
    items_K = first.top_QK[query]
    score_n = score_of(query, items_K[:n])
    if np.isnan(score_n).any():
        raise ValueError(f"new scores of query {query} are {score_n}; they must not be NaN")
    right = rank_P[rank_P <= n] - 1  # positions of the correct items in top_QK
    placed = place_right(score_n, best_first(score_n, tolerance), right, n, tolerance)
    return PlacedAnswers(
        rank_P=np.concatenate([placed.rank_P, rank_P[len(right) :]]),
        top_K=np.concatenate([items_K[placed.top_K], items_K[n:]])[:k],
        score_K=np.concatenate([placed.score_K, first.score_QK[query, n:]])[:k],
        tied=placed.tied if len(right) else bool(first.tied_Q[query]),
    )


def node_consistency(query_W: np.ndarray, tile_MW: np.ndarray, nodes: int) -> np.ndarray:
    """(M,) float64: mean cosine of the query's nodes with those of each tile, under the best one-to-one assignment.

    Args:
        query_W, tile_MW: concatenated nodes, W = K * C; a node of zeros has cosine 0 with every node.

    Raises:
        DataError: ``nodes`` is below 1 or does not divide the width, or the widths differ.
    """
    from scipy.optimize import linear_sum_assignment  # takes 0.25 s; only this function needs it

    query_W, tile_MW = np.asarray(query_W), np.asarray(tile_MW)
    if nodes < 1 or len(query_W) % nodes or tile_MW.shape[1:] != query_W.shape:
        raise DataError(
            f"vectors of width {len(query_W)} and {tile_MW.shape[-1]} can't be compared as {nodes} nodes; "
            "both need the same width, a multiple of the number of nodes (at least 1)"
        )
    query_KC = float64_rows(query_W.reshape(nodes, -1), True)
    tile_MKC = float64_rows(tile_MW.reshape(len(tile_MW), nodes, -1), True)
    cosine_MKK = np.einsum("kc,mlc->mkl", query_KC, tile_MKC)
    matched = (linear_sum_assignment(cosine_KK, maximize=True) for cosine_KK in cosine_MKK)
    sums = (cosine_KK[pairs].sum() for cosine_KK, pairs in zip(cosine_MKK, matched, strict=True))
    return np.fromiter(sums, np.float64, len(tile_MW)) / nodes
