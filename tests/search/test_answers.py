"""A search for all queries, without the command line: plan, answers and summary, worked out by hand.

A query's recall vector is (1, 0) or (0, 1), its re-rank vector (1, 0), so that a cosine is one number of the tile:

==== ======== ========= ========
tile recall   re-rank   place
==== ======== ========= ========
west 0.8, 0.6   0.6, 0.8    100, 0
here 0.6, 0.8   1, 0      200, 0
east 0, 1     0.28, 0.96  300, 0
==== ======== ========= ========
"""

import io
import json

import numpy as np
import pytest

from mindloc.errors import ConfigError, TileIndexError
from mindloc.search.answers import FEW, Summary, plan_search, require_fit, search_all, write_answers
from mindloc.search.extraction import Batch, Queries
from mindloc.search.faiss_index import build_faiss_index
from mindloc.search.index import Box, Circle, IndexCard, Tiles

PLACE_N2 = np.array([[100.0, 0], [200, 0], [300, 0]])


def make(rerank=True, unit="plane_m"):
    recall, vectors = np.array([[0.8, 0.6], [0.6, 0.8], [0, 1]]), np.array([[0.6, 0.8], [1, 0], [0.28, 0.96]])
    card = IndexCard("flat", "omega", 2, 2 if rerank else None, 1 if rerank else None, unit, "c" * 64, None)
    place_N2 = PLACE_N2 if unit else np.full((3, 2), np.nan)
    bounds_N4 = np.hstack([place_N2 - 50, place_N2 + 50])
    return build_faiss_index(
        card, Tiles(["west", "here", "east"], recall, vectors if rerank else None, place_N2, bounds_N4)
    )


def batches(*counts):
    """Queries q0, q1, ..., with recall vectors (1, 0) and (0, 1) in turn, in batches of these sizes."""
    names = iter(range(sum(counts)))
    for count in counts:
        own = [next(names) for _ in range(count)]
        yield Batch([f"q{i}" for i in own], np.eye(2)[[i % 2 for i in own]], np.eye(2)[[0] * count])


def search(index, plan, *counts, encoding=False):
    file = io.BytesIO()
    summary = Summary(plan)
    write_answers(file, search_all(index, batches(*counts), summary, encoding), sum(counts))
    return summary, [json.loads(line) for line in file.getvalue().decode().split("\n")[:-1]]


def test_two_stages_of_two_queries_by_hand():
    index = make()
    summary, lines = search(index, plan_search(index, top=2, recall_n=2, consistency_m=0), 1, 1)
    # recalled: west, here and east, here; by their re-rank vectors here is first
    assert [line["name"] for line in lines] == ["q0", "q1"]
    assert [[answer["tile"] for answer in line["answers"]] for line in lines] == [["here", "west"], ["here", "east"]]
    here = {"tile": "here", "place": [200, 0], "bounds": [150, -50, 250, 50], "score": 1.0}
    assert lines[0]["answers"][0] == {**here, "score_of": "cosine", "recall_rank": 2}
    *table, moved, times = summary.lines()
    assert [row.split()[:2] for row in table[1:]] == [["q0", "here"], ["q1", "here"]]
    assert moved == "stage two changed the first tile of 2 of 2 queries"
    assert times.startswith("per query: recall ") and " rerank " in times and "encode" not in times


@pytest.mark.parametrize("rerank", [True, False])
def test_answers_with_long_names_are_in_a_table_of_80_columns(rerank):
    index = make(rerank)
    query, tile = "flight_17/north/" + "0123456789" * 5, "a/long/directory/" + "9876543210" * 5
    index.add(Tiles([tile], np.eye(2)[:1], np.eye(2)[:1] if rerank else None, np.full((1, 2), 1e6), np.zeros((1, 4))))
    summary = Summary(plan_search(index, top=1, recall_n=1, consistency_m=0))
    list(search_all(index, [Batch([query], np.eye(2)[:1], np.eye(2)[:1])], summary))
    titles, row = list(summary.lines())[:2]
    assert ("stage one" in titles) == rerank and max(len(titles), len(row)) == 80
    shown_query, shown_tile, *_ = row.split()
    for shown, name in ((shown_query, query), (shown_tile, tile)):
        assert shown.startswith("...") and name.endswith(shown[3:]) and len(shown) > 15


def test_many_queries_are_summarized_and_encoding_is_a_separate_stage():
    index = make()
    plan = plan_search(index, top=3, recall_n=3, consistency_m=1, where=Circle((150, 0), 60))
    summary, lines = search(index, plan, FEW, 2, encoding=True)
    assert [len(line["answers"]) for line in lines] == [2] * (FEW + 2)  # east is 150 m off
    count, first, _, short, times = summary.lines()
    assert count == f"{FEW + 2} queries, {FEW + 2} of them answered"
    assert first == f"consistency of {FEW + 2} first answers 1.000 to 1.000, median 1.000"
    assert short == f"note: {FEW + 2} of {FEW + 2} queries got fewer than 3 answers in the given area"
    assert [part.split()[0] for part in times.removeprefix("per query: ").split(", ")] == [
        "encode",
        "recall",
        "rerank",
        "consistency",
    ]


def test_a_search_of_one_stage_has_no_second_stage():
    index = make(rerank=False)
    summary, lines = search(index, plan_search(index, top=1, recall_n=100, consistency_m=0), 2)
    assert [line["answers"][0]["tile"] for line in lines] == ["west", "east"]
    assert list(summary.seconds) == ["recall"]


def test_a_search_area_without_tiles_is_one_line():
    index = make()
    plan = plan_search(index, top=1, recall_n=1, consistency_m=0, where=Box((900, 900), (950, 950)))
    with pytest.raises(TileIndexError, match="no tile is in the given area; give places as x, y in meters"):
        search(index, plan, 2)


@pytest.mark.parametrize(
    ("numbers", "error", "message"),
    [
        ({"top": 4}, TileIndexError, "--top is 4, but the index has 3 tiles; give 1 to 3"),
        ({"top": 0}, TileIndexError, "--top is 0, but the index has 3 tiles"),
        ({"top": 3, "recall_n": 2}, ConfigError, "--top 3 exceeds search.recall_n; add --set search.recall_n=3"),
        ({"where": Box((5, 5), (1, 1))}, TileIndexError, "upside down"),
    ],
)
def test_numbers_that_can_not_be_planned_are_errors(numbers, error, message):
    with pytest.raises(error, match=message):
        plan_search(make(), **{"top": 1, "recall_n": 3, "consistency_m": 0, **numbers})


def test_an_index_without_places_or_a_second_stage_refuses_plans_that_need_them():
    with pytest.raises(ConfigError, match="but the index has no re-rank vectors"):
        plan_search(make(rerank=False), 1, 3, consistency_m=2)
    with pytest.raises(TileIndexError, match="has no places of its tiles; build it from: extract --places"):
        plan_search(make(unit=None), 1, 3, 0, Circle((0, 0), 1))
    empty = make()
    empty.remove(["west", "here", "east"])
    with pytest.raises(TileIndexError, match="contains no tiles; add some: .*-m mindloc index add"):
        plan_search(empty, 1, 3, 0)


def test_queries_must_have_what_the_index_compares():
    card, queries = make().card, Queries(9, "c" * 64, None, None, has_rerank=True)
    require_fit(card, queries, "")  # an unknown dimension is checked later, with the first batch
    with pytest.raises(TileIndexError, match="the queries have no phi; extract them again"):
        require_fit(card, queries._replace(has_rerank=False), "extract them again")
    for other in ({"checkpoint_sha256": None}, {"reduction_sha256": "d" * 64}, {"dimension": 3}):
        with pytest.raises(TileIndexError, match="the index was built with"):
            require_fit(card, queries._replace(**other), "")
