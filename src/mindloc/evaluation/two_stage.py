"""A search in stages, scored from disk: Omega recalls N answers, Phi re-ranks them, node consistency the first M.

Three methods come of it: ``model`` is what the search answers in the end, ``stage_one`` Omega alone, and ``phi`` what
re-ranking the whole gallery would answer. Stage one is the ceiling: what it does not bring, no later stage can find.

Suffixes: Q queries, K answers per query.
"""

from dataclasses import dataclass

import numpy as np

from mindloc.errors import DataError
from mindloc.evaluation.metrics import recall_at
from mindloc.evaluation.score import (
    MethodScores,
    ScoreSettings,
    places_of,
    require_comparable,
    score_rankings,
    score_sets,
)
from mindloc.evaluation.truth import Truth
from mindloc.retrieval.consistency import node_consistency
from mindloc.retrieval.descriptor_set import DescriptorSet
from mindloc.retrieval.ranking import Ranking, rank_gallery
from mindloc.retrieval.reranking import ScoreOf, cosine_of, recall_rank, rerank_first

DescriptorSets = dict[str, DescriptorSet]  # as load_descriptor_sets reads them


@dataclass(frozen=True)
class Stages:
    """How many answers of each query a stage looks at; never more than there are."""

    recall_n: int
    consistency_m: int  # 0: there is no third stage


@dataclass(frozen=True)
class _Stage:
    """A stage behind the first."""

    looks_at: int  # answers
    score_of: ScoreOf
    rounding: float  # difference of scores that is none


def stages_of(settings: ScoreSettings, gallery_count: int) -> Stages:
    """The settings' stages in a gallery of this size."""
    recall_n = min(settings.recall_n, gallery_count)
    return Stages(recall_n, min(settings.consistency_m, recall_n))


def score_two_stage(
    queries: DescriptorSets, gallery: DescriptorSets, truth: Truth, settings: ScoreSettings
) -> dict[str, MethodScores]:
    """Scores of ``model``, ``stage_one`` and ``phi``, each in both modes.

    The model's numbers also have ``won_queries`` and ``lost_queries`` (right first answers that stage one does not
    have, and the other way round), stage one's also recall@N.

    Raises:
        DataError: the sets do not fit each other, or no query has a right item.
    """
    _require_fit(queries, gallery)
    omega, stages = (queries["omega"], gallery["omega"]), stages_of(settings, gallery["omega"].count)
    later = _later_stages(queries, gallery, stages)
    held = min(max(stages.recall_n, settings.answers), omega[1].count)
    first = rank_gallery(omega[0].descriptor_ND, omega[1].descriptor_ND, truth.right, held)
    final = {mode: _rerank(ranking, later, min(settings.answers, held)) for mode, ranking in first.items()}
    places = places_of(*omega)
    scores = {
        "model": score_rankings(final, places, truth, settings),
        "stage_one": score_rankings(first, places, truth, settings),
        "phi": score_sets(queries["phi"], gallery["phi"], truth, settings),
    }
    for mode in scores["model"].numbers:
        _compare(scores["model"], scores["stage_one"], mode, stages.recall_n)
    return scores


def _require_fit(queries: DescriptorSets, gallery: DescriptorSets) -> None:
    if queries.keys() != gallery.keys():
        raise DataError(
            f"queries have the descriptors {', '.join(queries)}, the gallery {', '.join(gallery)}; "
            "extract both with the same checkpoint"
        )
    for name in queries:
        require_comparable(queries[name], gallery[name])


def _later_stages(queries: DescriptorSets, gallery: DescriptorSets, stages: Stages) -> list[_Stage]:
    score_of, rounding = cosine_of(queries["phi"].descriptor_ND, gallery["phi"].descriptor_ND)
    later = [_Stage(stages.recall_n, score_of, rounding)]
    if stages.consistency_m:
        later.append(_Stage(stages.consistency_m, _consistency_of(queries, gallery), rounding))
    return later


def _rerank(ranking: Ranking, later: list[_Stage], answers: int) -> Ranking:
    for stage in later:
        kept = answers if stage is later[-1] else ranking.top_QK.shape[1]
        ranking = rerank_first(ranking, stage.looks_at, stage.score_of, kept, stage.rounding)
    return ranking


def _consistency_of(queries: DescriptorSets, gallery: DescriptorSets) -> ScoreOf:
    nodes = _nodes(queries["phi"], gallery["phi"])
    query_QE, gallery_NE = queries["phi"].descriptor_ND, gallery["phi"].descriptor_ND

    def score_of(query: int, items: np.ndarray) -> np.ndarray:
        return node_consistency(query_QE[query], gallery_NE[items], nodes)

    return score_of


def _nodes(queries: DescriptorSet, gallery: DescriptorSet) -> int:
    """Nodes that a Phi descriptor consists of, as both cards say."""
    nodes, width = queries.card.get("nodes"), queries.descriptor_ND.shape[1]
    if nodes != gallery.card.get("nodes") or not isinstance(nodes, int) or nodes < 1 or width % nodes:
        raise DataError(
            f"Phi of length {width} has {nodes} nodes by the queries' card and {gallery.card.get('nodes')} by the "
            "gallery's; node consistency needs one number that divides the length: extract both anew"
        )
    return nodes


def _compare(model: MethodScores, stage_one: MethodScores, mode: str, recall_n: int) -> None:
    """Add what only two stages together have."""
    before_Q, after_Q = stage_one.ranking[mode].first_rank_Q, model.ranking[mode].first_rank_Q
    stage_one.numbers[mode][f"recall@{recall_n}"] = recall_at(before_Q, recall_n)
    model.numbers[mode]["won_queries"] = int(((before_Q > 1) & (after_Q == 1)).sum())
    model.numbers[mode]["lost_queries"] = int(((before_Q == 1) & (after_Q > 1)).sum())
    model.recall_rank[mode] = recall_rank(stage_one.ranking[mode], model.ranking[mode])
    model.recall_first_rank[mode] = before_Q
