"""Compute scores from descriptor sets and the truth, without images, a model or a device.

A search in stages is scored from disk too: Omega recalls N answers, Phi re-ranks them, and node consistency re-ranks
the first M of them. Its scores are those of three methods: ``model``, the final answers; ``stage_one``, Omega alone;
``phi``, all references ranked by Phi. Stage one is the upper limit: later stages can't find what it does not recall.

Shapes: Q queries, N references, K answers per query.
"""

from dataclasses import dataclass, field

import numpy as np
from pydantic import BaseModel, ConfigDict

from mindloc.config.sections import EvalConfig, SearchConfig
from mindloc.descriptors.ranking import (
    Ranking,
    ScoreOf,
    cosine_of,
    node_consistency,
    rank_references,
    recall_rank,
    rerank_first,
)
from mindloc.descriptors.sets import DescriptorSet
from mindloc.errors import DataError
from mindloc.evaluation import metrics
from mindloc.evaluation.truth import Truth
from mindloc.geo.points import PlaceUnit, distance_m, lon_from, paired_distance_m
from mindloc.vocabulary import PairMode

WITHIN_M = (10, 25, 50, 100, 250, 500)
_PAIRS_MEASURED = 4_000_000  # maximum number of distances that describe a random answer

Numbers = dict[str, float | int | None]
DescriptorSets = dict[str, DescriptorSet]  # result of load_descriptor_sets


class ScoreSettings(BaseModel):
    """What to compute: the sections ``eval`` and ``search`` of the config, and two keys of other sections."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: PairMode = "pos"  # first in the report, and selects the best epoch; both modes are always computed
    seed: int = 1
    eval: EvalConfig = EvalConfig()
    search: SearchConfig = SearchConfig()

    @property
    def recalls(self) -> tuple[int, ...]:
        """The ranks K whose Recall@K is computed: those of the config, and 1, which selects the best epoch."""
        return tuple(dict.fromkeys((1, *self.eval.recall_at)))

    @property
    def answers(self) -> int:
        """Number of answers to keep per query: enough for the metrics and the contact sheet."""
        return max(5, *self.eval.recall_at, *self.eval.sdm_at)

    def stages(self, reference_count: int) -> "Stages":
        """The stages of a search in that number of references."""
        recall_n = min(self.search.recall_n, reference_count)
        return Stages(recall_n, min(self.search.consistency_m, recall_n))


@dataclass(frozen=True)
class Stages:
    """How many answers of each query a stage re-ranks; at most the number of references."""

    recall_n: int
    consistency_m: int  # 0: there is no third stage


@dataclass(frozen=True)
class MethodScores:
    """The scores of one method in each mode, over the queries that have a correct reference in that mode."""

    numbers: dict[str, Numbers]  # mode -> metric -> value
    ranking: dict[str, Ranking] = field(default_factory=dict)  # of the queries scored
    query: dict[str, np.ndarray] = field(default_factory=dict)  # mode -> indices of these queries
    distance: dict[str, np.ndarray] = field(default_factory=dict)  # mode -> (Q, K) meters; empty without places
    # after re-ranking: mode -> (Q, K) rank of each answer in stage one; (Q,) rank of the first correct one in stage one
    recall_rank: dict[str, np.ndarray] = field(default_factory=dict)
    recall_first_rank: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Distances:
    """Distances from queries to references, by their places."""

    query_Q2: np.ndarray
    reference_N2: np.ndarray
    unit: PlaceUnit

    def to_answers(self, query: np.ndarray, top_QK: np.ndarray) -> np.ndarray:
        """(Q, K) meters from each query to its answers."""
        return paired_distance_m(self.query_Q2[query][:, None], self.reference_N2[top_QK], self.unit)

    def to_answers_deg(self, query: np.ndarray, top_QK: np.ndarray) -> np.ndarray:
        """(Q, K) Euclidean distances in degrees as in DenseUAV, the short way across the 180th meridian."""
        query_Q12, answer_QK2 = self.query_Q2[query][:, None], self.reference_N2[top_QK]
        off_lon_QK = query_Q12[..., 1] - lon_from(answer_QK2[..., 1], query_Q12[..., 1])
        return np.hypot(query_Q12[..., 0] - answer_QK2[..., 0], off_lon_QK)

    def to_any(self, query: np.ndarray, seed: int) -> np.ndarray:
        """(Q, M) meters from each query to every reference or, if there are many, to the same M drawn at random."""
        reference_N2 = self.reference_N2
        most = max(1, _PAIRS_MEASURED // len(query))
        if most < len(reference_N2):
            reference_N2 = reference_N2[np.random.default_rng(seed).choice(len(reference_N2), most, replace=False)]
        return distance_m(self.query_Q2[query], reference_N2, self.unit)


def distances_of(queries: DescriptorSet, references: DescriptorSet) -> Distances | None:
    """The distances by the places of the sets; None if a set has no places.

    Raises:
        DataError: the two sets state places in different units.
    """
    units = (queries.card["place_unit"], references.card["place_unit"])
    if None in units:
        return None
    if units[0] != units[1]:
        raise DataError(
            f"places of the queries are in {units[0]}, those of the references in {units[1]}; extract both from one "
            "data set"
        )
    return Distances(queries.place_N2(), references.place_N2(), units[0])


def score_sets(
    queries: DescriptorSet, references: DescriptorSet, truth: Truth, settings: ScoreSettings
) -> MethodScores:
    """All metrics in both modes.

    Raises:
        DataError: checkpoint, reduction or place unit of the sets differ, or no query has a correct reference.
    """
    require_comparable(queries, references)
    ranking = rank_references(queries.descriptor_ND, references.descriptor_ND, truth.right, settings.answers)
    return score_rankings(ranking, references.count, distances_of(queries, references), truth, settings)


def require_comparable(queries: DescriptorSet, references: DescriptorSet) -> None:
    """Check that one checkpoint and one reduction produced the descriptors of both sets.

    Raises:
        DataError: the checkpoints or the reductions differ.
    """
    for fact, maker in (("checkpoint_sha256", "checkpoint"), ("reduction_sha256", "reduction")):
        origins = (queries.card.get(fact), references.card.get(fact))
        if origins[0] != origins[1]:
            raise DataError(
                f"descriptors of the queries are from {maker} {origins[0]}, those of the references from {origins[1]}; "
                "extract both again"
            )


def score_rankings(
    rankings: dict[str, Ranking],
    reference_count: int,
    distances: Distances | None,
    truth: Truth,
    settings: ScoreSettings,
) -> MethodScores:
    """All metrics from one ranking of all queries per mode; a mode in which no query can be scored is left out.

    Args:
        distances: None if unknown; then the metrics of distances are left out.

    Raises:
        DataError: no query has a correct reference in ``settings.mode``.
    """
    scores = MethodScores({})
    for mode, every in rankings.items():
        ranking, query = every.answerable()
        if len(query):
            numbers = _rank_numbers(ranking, reference_count, settings)
            if distances:
                distance_QK = distances.to_answers(query, ranking.top_QK)
                numbers |= _answer_distance_numbers(distance_QK, settings)
                scores.distance[mode] = distance_QK
                if distances.unit == "lat_lon_deg":
                    numbers |= _denseuav_numbers(distances.to_answers_deg(query, ranking.top_QK), settings)
            scores.numbers[mode] = known(numbers | {"queries_left_out": truth.query_total - len(query)})
            scores.ranking[mode], scores.query[mode] = ranking, query
    if settings.mode not in scores.numbers:
        raise DataError(
            f"no query has a correct reference in mode {settings.mode}; check the pair file or use another mode"
        )
    return scores


def known(numbers: Numbers) -> Numbers:
    """The numbers, with None for those that can't be computed, such as distances if a place is missing."""
    return {
        key: None if isinstance(value, float) and not np.isfinite(value) else value for key, value in numbers.items()
    }


def distance_numbers(distance_Q: np.ndarray) -> Numbers:
    """The median distance of the first answers, and the fractions within fixed distances."""
    within = {f"within_{limit}m": float(np.mean(distance_Q <= limit)) for limit in WITHIN_M}
    if np.isnan(distance_Q).any():
        within = dict.fromkeys(within)
    return {"dis@1_median_m": float(np.median(distance_Q)), **within}


def _rank_numbers(ranking: Ranking, reference_count: int, settings: ScoreSettings) -> Numbers:
    first_Q = ranking.first_rank_Q
    low, high = metrics.bootstrap_interval(first_Q == 1, settings.eval.bootstrap, settings.seed)
    return {
        "queries": len(ranking),
        **{f"recall@{k}": metrics.recall_at(first_Q, k) for k in settings.recalls},
        "recall@1_low": low,
        "recall@1_high": high,
        "recall@1%": metrics.recall_at(first_Q, metrics.one_percent(reference_count)),
        "recall@1%_vigor": metrics.recall_at(first_Q, metrics.one_percent_vigor(reference_count)),
        "ap": float(metrics.average_precision_step(ranking.start, ranking.rank_E).mean()),
        "ap_trapezoid": float(metrics.average_precision_trapezoid(ranking.start, ranking.rank_E).mean()),
        "distinct_top1": len(np.unique(ranking.top_QK[:, 0])),
        "tied_queries": int(ranking.tied_Q.sum()),
    }


def _answer_distance_numbers(distance_QK: np.ndarray, settings: ScoreSettings) -> Numbers:
    return {
        **{f"sdm@{k}": float(metrics.sdm_at(distance_QK, k).mean()) for k in settings.eval.sdm_at},
        **{f"dis@{k}_m": float(metrics.dis_at(distance_QK, k).mean()) for k in settings.eval.sdm_at},
        **distance_numbers(distance_QK[:, 0]),
    }


def _denseuav_numbers(degrees_QK: np.ndarray, settings: ScoreSettings) -> Numbers:
    return {
        f"sdm@{k}_denseuav": float(metrics.sdm_at(degrees_QK, k, metrics.SDM_PER_DEGREE).mean())
        for k in settings.eval.sdm_at
    }


@dataclass(frozen=True)
class _Stage:
    """A stage after the first."""

    looks_at: int  # number of answers that it re-ranks
    score_of: ScoreOf
    rounding: float  # scores that differ by no more are equal


def score_two_stage(
    queries: DescriptorSets, references: DescriptorSets, truth: Truth, settings: ScoreSettings
) -> dict[str, MethodScores]:
    """Scores of ``model``, ``stage_one`` and ``phi``, each in both modes.

    The numbers of ``model`` also have ``won_queries`` (correct first answers that stage one does not have) and
    ``lost_queries`` (the reverse); those of ``stage_one`` also have recall@N.

    Raises:
        DataError: descriptors, checkpoint, reduction or place unit of the sets differ, the numbers of nodes are
            unusable, or no query has a correct reference.
    """
    _require_fit(queries, references)
    omega, count = (queries["omega"], references["omega"]), references["omega"].count
    stages = settings.stages(count)
    later = _later_stages(queries, references, stages)
    kept = min(max(stages.recall_n, settings.answers), count)
    first = rank_references(omega[0].descriptor_ND, omega[1].descriptor_ND, truth.right, kept)
    final = {mode: _rerank(ranking, later, min(settings.answers, kept)) for mode, ranking in first.items()}
    distances = distances_of(*omega)
    scores = {
        "model": score_rankings(final, count, distances, truth, settings),
        "stage_one": score_rankings(first, count, distances, truth, settings),
        "phi": score_sets(queries["phi"], references["phi"], truth, settings),
    }
    for mode in scores["model"].numbers:
        _compare(scores["model"], scores["stage_one"], mode, stages.recall_n)
    return scores


def _require_fit(queries: DescriptorSets, references: DescriptorSets) -> None:
    if queries.keys() != references.keys():
        raise DataError(
            f"queries have the descriptors {', '.join(queries)}, the references {', '.join(references)}; "
            "extract both with the same checkpoint"
        )
    for name in queries:
        require_comparable(queries[name], references[name])


def _later_stages(queries: DescriptorSets, references: DescriptorSets, stages: Stages) -> list[_Stage]:
    score_of, rounding = cosine_of(queries["phi"].descriptor_ND, references["phi"].descriptor_ND)
    later = [_Stage(stages.recall_n, score_of, rounding)]
    if stages.consistency_m:
        later.append(_Stage(stages.consistency_m, _consistency_of(queries, references), rounding))
    return later


def _rerank(ranking: Ranking, later: list[_Stage], answers: int) -> Ranking:
    for stage in later:
        kept = answers if stage is later[-1] else ranking.top_QK.shape[1]
        ranking = rerank_first(ranking, stage.looks_at, stage.score_of, kept, stage.rounding)
    return ranking


def _consistency_of(queries: DescriptorSets, references: DescriptorSets) -> ScoreOf:
    nodes = _nodes(queries["phi"], references["phi"])
    query_QE, reference_NE = queries["phi"].descriptor_ND, references["phi"].descriptor_ND

    def score_of(query: int, items: np.ndarray) -> np.ndarray:
        return node_consistency(query_QE[query], reference_NE[items], nodes)

    return score_of


def _nodes(queries: DescriptorSet, references: DescriptorSet) -> int:
    """The number of nodes of a Phi descriptor, which the card.json of both sets must state."""
    nodes, width = queries.card.get("nodes"), queries.descriptor_ND.shape[1]
    if nodes != references.card.get("nodes") or not isinstance(nodes, int) or nodes < 1 or width % nodes:
        raise DataError(
            f"Phi of length {width} has {nodes} nodes by card.json of the queries, {references.card.get('nodes')} by "
            "that of the references; node consistency needs one divisor of the length: extract both again"
        )
    return nodes


def _compare(model: MethodScores, stage_one: MethodScores, mode: str, recall_n: int) -> None:
    """Add the numbers that compare the two stages."""
    before_Q, after_Q = stage_one.ranking[mode].first_rank_Q, model.ranking[mode].first_rank_Q
    stage_one.numbers[mode][f"recall@{recall_n}"] = metrics.recall_at(before_Q, recall_n)
    model.numbers[mode]["won_queries"] = int(((before_Q > 1) & (after_Q == 1)).sum())
    model.numbers[mode]["lost_queries"] = int(((before_Q == 1) & (after_Q > 1)).sum())
    model.recall_rank[mode] = recall_rank(stage_one.ranking[mode], model.ranking[mode])
    model.recall_first_rank[mode] = before_Q
