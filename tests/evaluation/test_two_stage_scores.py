"""Scores of a search in stages: equal to sorts in pure Python and values by hand, within the limit of stage one."""

import dataclasses
import itertools

import numpy as np
import pytest
from score_settings import score_settings

from mindloc.descriptors.sets import DescriptorSet, make_rows
from mindloc.errors import DataError
from mindloc.evaluation.score import score_two_stage
from mindloc.evaluation.truth import Truth
from mindloc.search.index import IndexCard, Tiles
from mindloc.search.two_stage import two_stage_search

QUERIES, REFERENCES, NODES = 25, 40, 2
MODES = ("pos", "pos_semipos")


def make_view(view, place_N2, unit="plane_m", checkpoint="abc", **descriptors):
    names = [f"{view}/{index}" for index in range(len(place_N2))]
    facts = {"view": view, "place_unit": unit, "checkpoint_sha256": checkpoint, "nodes": NODES}
    return {
        name: DescriptorSet(np.asarray(value, np.float32), make_rows(names, place_N2), {**facts})
        for name, value in descriptors.items()
    }


def make_case(seed=0, levels=3, centroids=False):
    """Random Omega; Phi of few distinct whole numbers, so that many tie, or of random numbers if ``levels`` is None."""
    rng = np.random.default_rng(seed)
    sides = []
    for view, count in (("drone", QUERIES), ("satellite", REFERENCES)):
        phi = rng.standard_normal((count, 6)) if levels is None else rng.integers(0, levels, (count, 6)) + [1] * 6
        descriptors = {"omega": rng.standard_normal((count, 9)), "phi": phi}
        if centroids:
            descriptors["centroids"] = rng.random((count, 2 * NODES))
        sides.append(make_view(view, rng.random((count, 2)) * 900, **descriptors))
    wide = [rng.choice(REFERENCES, rng.integers(1, 6), replace=False) for _ in range(QUERIES)]
    return *sides, Truth({"pos": [items[: len(items) // 2] for items in wide], "pos_semipos": wide}, QUERIES + 3)


def settings_with(n, m=0, **others):
    return score_settings(bootstrap=20, recall_n=n, consistency_m=m, **others)


def cosines(queries, references, name):
    """Cosines, rounded much more coarsely than float64 does, so that equal ones tie."""
    q, g = (side[name].descriptor_ND.astype(np.float64) for side in (queries, references))
    return np.round((q @ g.T) / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(g, axis=1), 12)


def by_score(items, score_of, right):
    """Items by decreasing score; of equal scores, wrong ones come before correct ones, otherwise in the given order."""
    return sorted(items, key=lambda item: (-score_of[item], item in right))


def naive_orders(case, mode, n):
    """[(query, order of stage one, order after stage two, correct items)] of the queries with a correct item."""
    queries, references, truth = case
    omega, phi = (cosines(queries, references, name) for name in ("omega", "phi"))
    orders = []
    for query, items in enumerate(truth.right[mode]):
        right = set(items.tolist())
        if right:
            first = by_score(range(REFERENCES), omega[query], right)
            orders.append((query, first, by_score(first[:n], phi[query], right) + first[n:], right))
    return orders


@pytest.mark.parametrize("n", [1, 3, 12, REFERENCES])
@pytest.mark.parametrize("mode", MODES)
def test_every_number_follows_a_naive_sort(n, mode):
    case = make_case()
    scores = score_two_stage(*case, settings_with(n))
    orders = naive_orders(case, mode, n)
    hits = {"model": [], "stage_one": []}
    for _, first, final, right in orders:
        hits["model"].append([item in right for item in final])
        hits["stage_one"].append([item in right for item in first])
    for method, hit in hits.items():
        numbers = scores[method].numbers[mode]
        assert numbers["queries"] == len(orders) and numbers["queries_left_out"] == QUERIES + 3 - len(orders)
        for k in (1, 5, 10):
            assert numbers[f"recall@{k}"] == np.mean([any(row[:k]) for row in hit])
        precision = [[sum(row[: at + 1]) / (at + 1) for at, right in enumerate(row) if right] for row in hit]
        assert numbers["ap"] == pytest.approx(np.mean([np.mean(row) for row in precision]), rel=1e-12)
    assert scores["stage_one"].numbers[mode][f"recall@{n}"] == np.mean([any(row[:n]) for row in hits["stage_one"]])
    pairs = [(before[0], after[0]) for before, after in zip(hits["stage_one"], hits["model"], strict=True)]
    assert scores["model"].numbers[mode]["won_queries"] == pairs.count((False, True))
    assert scores["model"].numbers[mode]["lost_queries"] == pairs.count((True, False))


def test_answers_have_their_rank_in_stage_one():
    case = make_case(1, levels=None)
    scores = score_two_stage(*case, settings_with(12))
    for mode in MODES:
        for row, (_, first, final, right) in enumerate(naive_orders(case, mode, 12)):
            assert scores["model"].recall_rank[mode][row].tolist() == [first.index(item) + 1 for item in final[:10]]
            first_right = min(first.index(item) for item in right) + 1
            assert scores["model"].recall_first_rank[mode][row] == first_right


def test_by_hand():
    """Four tiles a b c d, 0, 100, 200, 300 m away. Omega ranks them a b c d for all queries, Phi the first three c b a.

    The correct tile of query 0 is c, 3rd, then 1st: won. That of query 1 is a, 1st, then 3rd: lost. That of query 2 is
    d, 4th in both.
    """
    place = [[0, 0], [100, 0], [200, 0], [300, 0]]
    references = make_view("satellite", place, omega=np.diag([4, 3, 2, 1]) + 9.0 * np.eye(4), phi=np.eye(4))
    queries = make_view("drone", [[0, 0]] * 3, omega=[[4, 3, 2, 1]] * 3, phi=[[1, 2, 3, 9]] * 3)
    right = [np.array([2]), np.array([0]), np.array([3])]
    scores = score_two_stage(queries, references, Truth({"pos": right, "pos_semipos": right}, 3), settings_with(3))
    model, first, phi = (scores[name].numbers["pos"] for name in ("model", "stage_one", "phi"))
    assert (model["recall@1"], first["recall@1"]) == (1 / 3, 1 / 3)
    assert (model["won_queries"], model["lost_queries"]) == (1, 1)
    assert first["recall@3"] == pytest.approx(2 / 3)  # the upper limit: d is not among the three
    assert model["ap"] == pytest.approx((1 + 1 / 3 + 1 / 4) / 3)
    assert (model["dis@1_m"], first["dis@1_m"], phi["dis@1_m"]) == (200.0, 0.0, 300.0)  # Phi alone would answer d
    assert scores["model"].recall_rank["pos"].tolist() == [[3, 2, 1, 4]] * 3
    assert scores["model"].ranking["pos"].top_QK.tolist() == [[2, 1, 0, 3]] * 3
    # 3 / |(1, 2, 3, 9)| = 3 / sqrt(95) is Phi's; the last, beyond N, is Omega's: 1 / |(4, 3, 2, 1)| = 1 / sqrt(30)
    np.testing.assert_allclose(scores["model"].ranking["pos"].score_QK[0, [0, 3]], [3 / 95**0.5, 1 / 30**0.5])


def only_its_own(numbers):
    return {key: value for key, value in numbers.items() if key not in ("won_queries", "lost_queries")}


@pytest.mark.parametrize("n", [REFERENCES, 1000])
def test_re_ranking_all_references_is_phi_alone(n):
    scores = score_two_stage(*make_case(2, levels=None), settings_with(n))
    for mode in MODES:
        assert only_its_own(scores["model"].numbers[mode]) == scores["phi"].numbers[mode]
        assert scores["stage_one"].numbers[mode][f"recall@{REFERENCES}"] == 1.0


def test_re_ranking_one_answer_changes_no_number():
    scores = score_two_stage(*make_case(3), settings_with(1))
    for mode in MODES:
        model = scores["model"].numbers[mode]
        assert only_its_own(model) == scores["stage_one"].numbers[mode]
        assert model["won_queries"] == model["lost_queries"] == 0


@pytest.mark.parametrize("n", [2, 10, REFERENCES])
def test_a_constant_phi_wins_no_query(n):
    queries, references, truth = make_case(4)
    for side in (queries, references):
        side["phi"] = dataclasses.replace(side["phi"], descriptor_ND=np.full((side["phi"].count, 768), 0.1, np.float32))
    scores = score_two_stage(queries, references, truth, settings_with(n))
    for mode in MODES:
        assert scores["model"].numbers[mode]["won_queries"] == 0
        ranks = [scores[method].ranking[mode].first_rank_Q for method in ("model", "stage_one")]
        assert (ranks[0] >= ranks[1]).all()


@pytest.mark.parametrize("seed", range(8))
def test_stage_one_is_the_upper_limit(seed):
    n = 6
    scores = score_two_stage(*make_case(seed), settings_with(n, recall_at=(1, 2, 5, 6, 7, 20)))
    for mode in MODES:
        model, first = scores["model"].numbers[mode], scores["stage_one"].numbers[mode]
        assert all(model[f"recall@{k}"] <= first[f"recall@{n}"] for k in (1, 2, 5, 6))
        assert all(model[f"recall@{k}"] == first[f"recall@{k}"] for k in (6, 7, 20))
        won = model["won_queries"] - model["lost_queries"]
        assert model["recall@1"] - first["recall@1"] == pytest.approx(won / model["queries"])


@pytest.mark.parametrize("m", [0, 4])
def test_permuting_the_references_changes_no_number(m):
    queries, references, truth = make_case(5, levels=None, centroids=True)
    order = np.random.default_rng(0).permutation(REFERENCES)
    permuted = {
        name: DescriptorSet(one.descriptor_ND[order], [one.rows[i] for i in order], one.card)
        for name, one in references.items()
    }
    moved = {mode: [np.flatnonzero(np.isin(order, items)) for items in truth.right[mode]] for mode in MODES}
    plain = score_two_stage(queries, references, truth, settings_with(9, m))
    other = score_two_stage(queries, permuted, Truth(moved, truth.query_total), settings_with(9, m))
    assert {name: one.numbers for name, one in plain.items()} == {name: one.numbers for name, one in other.items()}


def naive_consistency(query_E, tile_E):
    """Mean cosine of the nodes for their best assignment."""
    q, t = query_E.astype(np.float64).reshape(NODES, -1), tile_E.astype(np.float64).reshape(NODES, -1)
    cosine = [[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in t] for a in q]
    assignments = itertools.permutations(range(NODES))
    return max(np.mean([cosine[k][to[k]] for k in range(NODES)]) for to in assignments)


@pytest.mark.parametrize("centroids", [False, True])  # whether they are written or not, they are not compared
@pytest.mark.parametrize(("n", "m"), [(12, 5), (12, 12), (4, 30), (REFERENCES, 15)])
def test_node_consistency_orders_the_first_of_stage_two(n, m, centroids):
    case = make_case(6, levels=None, centroids=centroids)
    queries, references, _ = case
    scores = score_two_stage(*case, settings_with(n, m))
    m, moved = min(n, m), 0
    for mode in MODES:
        for row, (query, first, second, _) in enumerate(naive_orders(case, mode, n)):
            agreement = {
                tile: naive_consistency(queries["phi"].descriptor_ND[query], references["phi"].descriptor_ND[tile])
                for tile in second[:m]
            }
            third = sorted(second[:m], key=lambda tile: -agreement[tile]) + second[m:]
            ranking = scores["model"].ranking[mode]
            assert ranking.top_QK[row].tolist() == third[:10]
            shown = min(m, 10)
            np.testing.assert_allclose(ranking.score_QK[row, :shown], [agreement[t] for t in third[:shown]], rtol=1e-9)
            assert scores["model"].recall_rank[mode][row].tolist() == [first.index(tile) + 1 for tile in third[:10]]
            moved += third != second
    assert moved


@pytest.mark.parametrize("m", [0, 6])
def test_the_scored_answers_are_those_of_an_index(m):
    pytest.importorskip("faiss")
    from mindloc.search.faiss_index import build_faiss_index

    case = make_case(8, levels=None)
    queries, references, _ = case
    omega, phi = references["omega"], references["phi"]
    card = IndexCard("flat", "omega", 9, 6, NODES, "plane_m", "abc", None)
    unknown = np.full((REFERENCES, 4), np.nan)
    index = build_faiss_index(
        card, Tiles(omega.names, omega.descriptor_ND, phi.descriptor_ND, omega.place_N2(), unknown)
    )
    found = two_stage_search(index, queries["omega"].descriptor_ND, queries["phi"].descriptor_ND, 12, 10, m)
    model = score_two_stage(*case, settings_with(12, m))["model"]
    mode = "pos_semipos"  # the mode in which every query is scored
    for query, names in enumerate(found.names):
        assert [omega.names[item] for item in model.ranking[mode].top_QK[query]] == names
        assert model.recall_rank[mode][query].tolist() == found.recall_rank[query].tolist()
        np.testing.assert_allclose(model.ranking[mode].score_QK[query], found.scores[query], atol=1e-5)


def test_consistency_of_one_answer_changes_no_number():
    case = make_case(7, levels=None)
    without, one = (score_two_stage(*case, settings_with(9, m))["model"].numbers for m in (0, 1))
    assert without == one


def refuse(message, queries, references, m=0):
    truth = make_case()[2]
    with pytest.raises(DataError, match=message):
        score_two_stage(queries, references, truth, settings_with(5, m))


def with_card(side, name, **facts):
    return {**side, name: dataclasses.replace(side[name], card={**side[name].card, **facts})}


def test_sets_that_do_not_belong_together_are_named():
    queries, references, _ = make_case(centroids=True)
    refuse(
        "queries have the descriptors omega, phi, the references omega, phi, centroids", *make_case()[:1], references
    )
    refuse(
        "from checkpoint abc, those of the references from def",
        queries,
        with_card(references, "phi", checkpoint_sha256="def"),
    )
    refuse("from reduction None, those of the ref", queries, with_card(references, "omega", reduction_sha256="xyz"))
    for nodes in (3, None, 0):
        refuse(
            f"has 2 nodes by card.json of the queries, {nodes}", queries, with_card(references, "phi", nodes=nodes), m=2
        )
    both = [with_card(side, "phi", nodes=4) for side in (queries, references)]
    refuse("Phi of length 6 has 4 nodes", *both, m=2)
