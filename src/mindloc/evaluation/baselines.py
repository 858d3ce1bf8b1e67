"""Three baselines that can't recognize a place, for comparison in every report: chance, a constant, a color histogram.

With few or dense queries their scores can be high; a model that is not better than they are has learned nothing useful.

Shapes: Q queries, N references, K answers per query, M references measured per query.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from mindloc.data.images import read_image, resize
from mindloc.descriptors.ranking import rank_references
from mindloc.evaluation.metrics import one_percent, one_percent_vigor, sdm_at
from mindloc.evaluation.score import (
    Distances,
    MethodScores,
    Numbers,
    ScoreSettings,
    distance_numbers,
    known,
    score_rankings,
)
from mindloc.evaluation.truth import Truth

_BINS = (16, 8, 8)  # hue, saturation, value
_HISTOGRAM_SIDE_PX = 96


def chance_recall_at(positives_Q: np.ndarray, reference_count: int, k: int) -> float:
    """Expected Recall@k of a random order: 1 - prod_{i<k} (N - P - i) / (N - i), mean over queries."""
    place_K = np.arange(min(k, reference_count), dtype=np.float64)
    miss_QK = np.maximum(reference_count - positives_Q[:, None] - place_K, 0.0) / (reference_count - place_K)
    return float(np.mean(1.0 - miss_QK.prod(axis=1)))


def chance_average_precision(positives_Q: np.ndarray, reference_count: int) -> float:
    """Expected step AP of a random order, mean over queries.

    A correct reference at rank r has (r - 1)(P - 1)/(N - 1) other correct ones before it on average, and all ranks are
    equally likely, so E[AP] = mean over r of (1 + (r - 1)(P - 1)/(N - 1)) / r = (H + (P - 1)/(N - 1) (N - H)) / N with
    H = sum 1/r.
    """
    harmonic = float(np.sum(1.0 / np.arange(1, reference_count + 1)))
    share_Q = (positives_Q - 1) / max(reference_count - 1, 1)
    return float(np.mean((harmonic + share_Q * (reference_count - harmonic)) / reference_count))


def score_chance(
    truth: Truth, reference_count: int, distances: Distances | None, settings: ScoreSettings
) -> MethodScores:
    """Expected scores of random answers; distances are means over all pairs, or over a seeded sample of references."""
    scores = MethodScores({})
    for mode, right in truth.right.items():
        positives_Q = np.array([len(np.unique(references)) for references in right])
        query = np.flatnonzero(positives_Q)
        if len(query):
            numbers = _chance_rank_numbers(positives_Q[query], reference_count, settings)
            if distances:
                distance_QM = distances.to_any(query, settings.seed)
                numbers |= _chance_distance_numbers(distance_QM, settings)
                scores.distance[mode] = distance_QM.reshape(-1, 1)
            scores.numbers[mode] = known({**numbers, "queries_left_out": truth.query_total - len(query)})
    return scores


def _chance_rank_numbers(positives_Q: np.ndarray, reference_count: int, settings: ScoreSettings) -> Numbers:
    return {
        "queries": len(positives_Q),
        **{f"recall@{k}": chance_recall_at(positives_Q, reference_count, k) for k in settings.recalls},
        "recall@1%": chance_recall_at(positives_Q, reference_count, one_percent(reference_count)),
        "recall@1%_vigor": chance_recall_at(positives_Q, reference_count, one_percent_vigor(reference_count)),
        "ap": chance_average_precision(positives_Q, reference_count),
    }


def _chance_distance_numbers(distance_QM: np.ndarray, settings: ScoreSettings) -> Numbers:
    sdm, dis = float(sdm_at(distance_QM.reshape(-1, 1), 1).mean()), float(distance_QM.mean())  # of one random answer
    return {
        **{f"sdm@{k}": sdm for k in settings.eval.sdm_at},
        **{f"dis@{k}_m": dis for k in settings.eval.sdm_at},
        **distance_numbers(distance_QM.ravel()),
    }


def commonest(names: Iterable[str]) -> list[tuple[str, int]]:
    """The names with their counts, most frequent first; names with equal counts are in alphabetical order."""
    return sorted(Counter(names).items(), key=lambda item: (-item[1], item[0]))


def score_constant(
    order: dict[str, list[str]],
    reference_names: list[str],
    truth: Truth,
    distances: Distances | None,
    settings: ScoreSettings,
) -> MethodScores | None:
    """Scores of the same answers for every query: the references that occur in most training pairs of the mode.

    Args:
        order: mode -> names in the training pairs, most frequent first; names that no reference has are ignored.

    Returns:
        None if no reference has one of the names, for example because the training pairs are of a different area.
    """
    rankings = {}
    for mode, names in order.items():
        preference = {name: len(names) - place for place, name in enumerate(names)}
        preference_N1 = np.array([[float(preference.get(name, 0))] for name in reference_names])
        if not preference_N1.any():
            return None
        query_Q1 = np.ones((len(truth.right[mode]), 1))
        right = {mode: truth.right[mode]}
        rankings |= rank_references(query_Q1, preference_N1, right, settings.answers, normalize=False)
    return score_rankings(rankings, len(reference_names), distances, truth, settings)


def color_histogram(path: Path) -> np.ndarray:
    """(1024,) float32 unit vector: square roots of the joint histogram of hue, saturation and value.

    The cosine of two such vectors is the Bhattacharyya coefficient of their histograms.

    Raises:
        ImageError: the file is missing, truncated or not an image.
    """
    small = resize(read_image(path).pixels_HW3, (_HISTOGRAM_SIDE_PX, _HISTOGRAM_SIDE_PX))
    hsv = cv2.cvtColor(small, cv2.COLOR_RGB2HSV)
    count = cv2.calcHist([hsv], [0, 1, 2], None, list(_BINS), [0, 180, 0, 256, 0, 256]).ravel()
    return np.sqrt(count / count.sum()).astype(np.float32)
