"""How long a two-stage search takes per query, measured on the descriptor sets that an evaluation wrote.

Suffixes: Q queries.
"""

from typing import Any

import numpy as np

from mindloc.evaluation.score import DescriptorSets, Stages
from mindloc.search.extraction import Extracted
from mindloc.search.faiss_index import FaissIndex, build_faiss_index
from mindloc.search.two_stage import Answers, two_stage_search

_QUERIES = 100  # measured one by one, evenly spaced
_WARMING = 3  # before them: the first ones also fetch pages from the disk
_ANSWERS = 5


def measure_search(queries: DescriptorSets, gallery: DescriptorSets, stages: Stages) -> dict[str, Any]:
    """Median milliseconds per query of each stage, in an index that compares every tile exactly.

    Returns:
        recall_ms, rerank_ms, consistency_ms (None without that stage), and ``how``, which says what was measured.
    """
    tiles = Extracted(gallery["omega"], gallery["phi"], reduction=None)
    index = build_faiss_index(tiles.index_card("flat"), tiles.tiles())
    row_Q = np.linspace(0, queries["omega"].count - 1, min(_QUERIES, queries["omega"].count)).round().astype(int)
    for row in row_Q[:_WARMING]:
        _search(index, queries, stages, row)
    answers = [_search(index, queries, stages, row) for row in row_Q]
    recall, rerank, consistency = (
        1e3 * float(np.median([getattr(answer, f"{stage}_s") for answer in answers]))
        for stage in ("recall", "rerank", "consistency")
    )
    return {
        "recall_ms": recall,
        "rerank_ms": rerank,
        "consistency_ms": consistency if stages.consistency_m else None,
        "how": f"median of {len(row_Q)} single queries, exact search in {index.count} tiles in memory, FAISS",
    }


def _search(index: FaissIndex, queries: DescriptorSets, stages: Stages, row: int) -> Answers:
    pair = (queries[name].descriptor_ND[row : row + 1] for name in ("omega", "phi"))
    return two_stage_search(index, *pair, stages.recall_n, min(_ANSWERS, stages.recall_n), stages.consistency_m)
