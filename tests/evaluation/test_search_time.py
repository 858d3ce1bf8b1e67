"""The measured times of a search: one for each of its stages, in an index to which tiles are added in batches."""

import numpy as np
import pytest

from mindloc.descriptors.sets import DescriptorSet, make_rows
from mindloc.evaluation.evaluate import build_exact_index, measure_search
from mindloc.evaluation.score import Stages
from mindloc.search import extraction as extracted
from mindloc.search.faiss_index import FaissIndex


def make_sets(count, seed):
    random = np.random.default_rng(seed)
    rows = make_rows([f"{row}.png" for row in range(count)], random.uniform(0, 9, (count, 2)))
    card = {"place_unit": "plane_m", "checkpoint_sha256": "abc", "nodes": 2}
    matrices = {"omega": random.standard_normal((count, 6)), "phi": random.standard_normal((count, 4))}
    return {
        name: DescriptorSet(matrix.astype(np.float32), rows, {**card, "descriptor": name, "dimension": matrix.shape[1]})
        for name, matrix in matrices.items()
    }


@pytest.mark.parametrize("consistency_m", [0, 3])
def test_every_stage_of_the_search_has_a_time(consistency_m):
    times = measure_search(build_exact_index(make_sets(40, 1)), make_sets(5, 0), Stages(10, consistency_m))
    assert times["recall_ms"] > 0 and times["rerank_ms"] > 0
    assert times["consistency_ms"] is None if not consistency_m else times["consistency_ms"] > 0
    assert times["how"] == "median of 5 single queries, exact search in 40 tiles in memory, FAISS"


def test_the_references_are_never_copied_as_a_whole(monkeypatch):
    added, add = [], FaissIndex.add
    monkeypatch.setattr(extracted, "_BATCH_NUMBERS", 8 * (6 + 4))  # eight tiles
    monkeypatch.setattr(FaissIndex, "add", lambda index, tiles: (added.append(len(tiles.names)), add(index, tiles)))
    measure_search(build_exact_index(make_sets(40, 1)), make_sets(5, 0), Stages(10, 0))
    assert added == [8] * 5
