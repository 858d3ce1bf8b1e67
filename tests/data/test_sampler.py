"""The four sampling modes against the naive definition, on random small graphs, a real flight and a dense graph."""

import random
from collections import deque

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mindloc.config.sections import DataConfig, SamplingConfig
from mindloc.data.exclusion import OverlapGraph
from mindloc.data.hard_negatives import NO_NEIGHBOR, NeighborTables
from mindloc.data.readers import read_split
from mindloc.data.sampler import PADDING, SAMPLERS, ExclusiveSampler, RandomSampler, kept_shares
from mindloc.data.split import Edges
from mindloc.errors import DataError


class Case:
    """A graph, the pairs to sample from, and the same edges as a Python set of (query, reference)."""

    def __init__(self, edges: Edges, reference_count: int, pair_P2: np.ndarray):
        self.graph = OverlapGraph(edges, reference_count)
        self.pair_P2 = pair_P2
        self.edge_set = {
            (query, int(tile)) for query in range(edges.query_count) for tile in edges.references_of(query)
        }

    def sampler(self, mode: str, batch_size: int, seed: int = 1, neighbors: NeighborTables | None = None):
        return SAMPLERS[mode](self.pair_P2, self.graph, batch_size, seed, neighbors)


def case_of(edge_QR: np.ndarray, positive_QR: np.ndarray | None = None) -> Case:
    """A case from a (Q,R) table of overlaps; the pairs are all overlaps, or those of a second, smaller table."""
    query_E, reference_E = np.nonzero(edge_QR)
    start = np.concatenate([[0], np.cumsum(edge_QR.sum(1))])
    edges = Edges(start, reference_E.astype(np.int32), {"iou": np.full(len(query_E), 0.5, np.float32)})
    pairs = np.stack(np.nonzero(edge_QR if positive_QR is None else positive_QR), axis=1).astype(np.int32)
    return Case(edges, edge_QR.shape[1], pairs)


@st.composite
def cases(draw) -> Case:
    """Graphs of up to 12 queries and 8 references with at least one pair; pairs are all or some of the edges."""
    edge_QR = draw(hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 8))))
    positive_QR = edge_QR & draw(hnp.arrays(bool, edge_QR.shape)) if draw(st.booleans()) else edge_QR
    assume(positive_QR.any())
    return case_of(edge_QR, positive_QR)


@st.composite
def neighbors_of(draw, case: Case) -> NeighborTables | None:
    """No hard negatives, or up to three references without an overlap for each query, in any order."""
    if not draw(st.booleans()):
        return None
    table_QK = np.full((case.graph.query_count, 3), NO_NEIGHBOR, np.int32)
    for query, row_K in enumerate(table_QK):
        apart = [r for r in range(case.graph.reference_count) if (query, r) not in case.edge_set]
        chosen = draw(st.permutations(apart))[:3]
        row_K[: len(chosen)] = chosen
    values = {"hard_from_epoch": 0, "mined_per_pair": draw(st.integers(1, 3)), "hard_share": draw(st.floats(0.1, 0.9))}
    return NeighborTables(SamplingConfig(hard_negatives="map", **values), table_QK)


def geometric(queries: int, references: int, radius: float) -> Case:
    """Points in the unit square that overlap if they are near, as images and tiles of one map do."""
    rng = np.random.default_rng(0)
    query_Q2, reference_R2 = rng.random((queries, 2)), rng.random((references, 2))
    distance_QR = np.linalg.norm(query_Q2[:, None] - reference_R2[None], axis=2)
    return case_of(distance_QR < radius)


@pytest.fixture(scope="module")
def dense() -> Case:
    return geometric(400, 150, 0.12)


@pytest.fixture(scope="module")
def flight(request) -> Case:
    root = request.getfixturevalue("adm_root")
    split = read_split(DataConfig(root=str(root), map_px=4800, m_per_px=0.243), "train")
    return Case(split.semipositive, len(split.reference.files), split.edges("pos_semipos").pairs())


def overlaps_in(case: Case, pair_G: np.ndarray) -> list[tuple[int, int]]:
    """Off-diagonal cells (i, j) of a batch that are edges: the naive definition."""
    rows = [tuple(case.pair_P2[pair].tolist()) for pair in pair_G if pair != PADDING]
    return [
        (i, j)
        for i, (query, _) in enumerate(rows)
        for j, (_, reference) in enumerate(rows)
        if i != j and (query, reference) in case.edge_set
    ]


@settings(max_examples=300)
@given(st.data(), cases(), st.sampled_from(list(SAMPLERS)), st.integers(1, 6), st.integers(0, 99), st.integers(0, 9))
def test_sampling_keeps_its_rules_on_any_graph(data, case, mode, batch_size, seed, epoch):
    neighbors = data.draw(neighbors_of(case))
    sampler = case.sampler(mode, batch_size, seed, neighbors)
    try:
        plan = sampler.plan(epoch)
    except DataError:
        padded = case.sampler("exclusive_padded", batch_size, seed, neighbors).plan(epoch)
        fills = (padded.pair_SG != PADDING).all(axis=1).any()
        assert mode != "exclusive_padded" and not (fills if mode == "exclusive" else len(case.pair_P2) >= batch_size)
        return
    used, report = plan.pair_SG[plan.pair_SG != PADDING], plan.report
    assert plan.pair_SG.shape == (report.steps, batch_size) and plan.pair_SG.dtype == np.int64
    # every pair occurs at most once, and the report counts all
    assert len(np.unique(used)) == len(used) == report.kept
    assert report.total == len(case.pair_P2) == report.kept + report.set_aside + report.tail_dropped
    assert report.padded == plan.pair_SG.size - len(used)
    assert report.mined <= report.steps * round(neighbors.sampling.hard_share * batch_size) if neighbors else True
    if mode == "exclusive_padded":
        assert report.kept == report.total
        assert (plan.pair_SG[:, 0] != PADDING).all()
        assert (np.diff(plan.pair_SG == PADDING, axis=1) >= 0).all()  # padding is at the end of its batch
    else:
        assert report.padded == 0
    # every off-diagonal cell with an overlap is masked, or there is none
    for pair_G in plan.pair_SG:
        overlaps, mask_GG = overlaps_in(case, pair_G), sampler.mask(pair_G)
        if mode.startswith("exclusive"):
            assert overlaps == []
        expected = naive_mask(case, pair_G) if mode == "masked" else np.multiply.outer(*[pair_G != PADDING] * 2)
        np.testing.assert_array_equal(mask_GG, expected)
    # a function of only seed, epoch and table
    np.testing.assert_array_equal(case.sampler(mode, batch_size, seed, neighbors).plan(epoch).pair_SG, plan.pair_SG)


@pytest.mark.parametrize("batch_size", [4, 8])
def test_no_batch_of_the_real_flight_contains_an_overlap(flight, batch_size):
    for epoch in range(3):
        assert not any(
            overlaps_in(flight, pair_G) for pair_G in flight.sampler("exclusive", batch_size).plan(epoch).pair_SG
        )


def test_padded_keeps_every_pair_in_the_fixed_shape(flight):
    plan = flight.sampler("exclusive_padded", 8).plan(0)
    assert sorted(plan.pair_SG[plan.pair_SG != PADDING].tolist()) == list(range(len(flight.pair_P2)))
    assert all((np.diff(row == PADDING) >= 0).all() for row in plan.pair_SG)  # padding is at the end of its batch
    assert (plan.pair_SG[:, 0] != PADDING).all()


@given(cases(), st.integers(2, 6), st.integers(0, 99))
def test_an_incomplete_batch_admits_no_remaining_pair(case, batch_size, seed):
    # a batch is incomplete only if every remaining pair overlaps one of its pairs: one pass finds all that fit
    later: list[int] = []
    for pair_G in case.sampler("exclusive_padded", batch_size, seed).plan(0).pair_SG[::-1]:
        batch = [pair for pair in pair_G if pair != PADDING]
        if len(batch) < batch_size:
            assert all(overlaps_in(case, np.array([*batch, candidate])) for candidate in later)
        later += batch


@pytest.mark.parametrize("mode", list(SAMPLERS))
def test_a_different_epoch_or_seed_has_a_different_plan(dense, mode):
    sampler = dense.sampler(mode, 8, seed=5)
    assert not np.array_equal(sampler.plan(0).pair_SG[:5], sampler.plan(1).pair_SG[:5])
    assert not np.array_equal(sampler.plan(0).pair_SG[:5], dense.sampler(mode, 8, seed=6).plan(0).pair_SG[:5])


def test_an_epoch_is_planned_once_and_the_last_few_are_cached(dense, monkeypatch):
    sampler, made = dense.sampler("exclusive", 8), []
    make = sampler._make_plan
    monkeypatch.setattr(sampler, "_make_plan", lambda epoch: made.append(epoch) or make(epoch))
    for epoch in (0, 0, 1, 2, 1, 0, 3, 3, 2, 0):
        sampler.plan(epoch)
    assert made == [0, 1, 2, 3, 0]  # 3 replaced 0


def test_the_shards_of_all_devices_form_one_global_batch(dense):
    plan = dense.sampler("exclusive", 8).plan(0)
    shards = [plan.shard(rank, 4) for rank in range(4)]
    assert {shard.shape for shard in shards} == {(plan.steps, 2)}
    np.testing.assert_array_equal(np.concatenate(shards, axis=1), plan.pair_SG)
    with pytest.raises(DataError, match=r"train\.batch_size=8 .* 3 equal parts"):
        plan.shard(0, 3)


def test_every_device_has_equal_rows_of_every_part(dense):
    # rows 0..3 are the first part, 4..7 the second; each device has two of either
    plan = dense.sampler("exclusive", 8).plan(0)
    np.testing.assert_array_equal(plan.shard(0, 2, parts=2), plan.pair_SG[:, [0, 1, 4, 5]])
    np.testing.assert_array_equal(plan.shard(1, 2, parts=2), plan.pair_SG[:, [2, 3, 6, 7]])
    with pytest.raises(DataError, match=r"multiple of the 2 ranks times train\.accumulate=8"):
        plan.shard(0, 2, parts=8)


def naive_mask(case: Case, pair_G: np.ndarray) -> list[list[bool]]:
    def counts(i: int, j: int) -> bool:
        if pair_G[i] == PADDING or pair_G[j] == PADDING:
            return False
        (query, own), (other, reference) = case.pair_P2[pair_G[i]], case.pair_P2[pair_G[j]]
        if i == j:
            return True
        return query != other and own != reference and (int(query), int(reference)) not in case.edge_set

    return [[counts(i, j) for j in range(len(pair_G))] for i in range(len(pair_G))]


def test_masked_treats_a_repeated_query_and_reference_as_overlaps():
    # query 0 sees tiles 0 and 1, query 1 sees tile 1: pairs 0-0, 0-1, 1-1
    case = case_of(np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]], bool))
    mask_GG = case.sampler("masked", 4).mask(np.array([0, 1, 2, PADDING]))
    # 0-0 and 0-1 share the query, 0-1 and 1-1 share the tile; (0-0, 1-1) has q0-r1 as an edge one way only
    assert mask_GG.astype(int).tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]


def test_exclusive_batches_need_no_mask(dense):
    exclusive, masked = dense.sampler("exclusive", 16), dense.sampler("masked", 16)
    for pair_G in exclusive.plan(0).pair_SG:
        assert masked.mask(pair_G).all()


@pytest.mark.parametrize("mode", ["random", "masked"])
def test_last_partial_batch_is_dropped_and_counted(dense, mode):
    total = len(dense.pair_P2)
    report = dense.sampler(mode, 16).plan(0).report
    assert report.steps == total // 16
    assert report.tail_dropped == total % 16
    assert "dropped at the end" in str(report)


def test_the_remainder_is_counted_separately_from_pairs_that_cannot_be_placed():
    # ten query images with a tile each, no two overlap: batches of 4, 4, and a remainder of 2
    report = case_of(np.eye(10, dtype=bool)).sampler("exclusive", 4).plan(0).report
    assert (report.steps, report.kept, report.set_aside, report.tail_dropped) == (2, 8, 0, 2)
    # one tile in eight query images: its pairs never share a batch. Three single pairs in addition, batches of 2: each
    # single is with one of the eight (5 of them left: 4 set aside, 1 dropped) or two singles are together (7 left)
    table = np.zeros((11, 4), bool)
    table[:8, 0] = True
    table[range(8, 11), range(1, 4)] = True
    report = case_of(table).sampler("exclusive", 2).plan(0).report
    assert (report.kept, report.set_aside, report.tail_dropped) in {(6, 4, 1), (4, 6, 1)}
    assert f"{report.set_aside} set aside" in str(report)


def test_if_no_batch_can_be_filled_the_error_states_the_largest_size(flight):
    with pytest.raises(DataError) as caught:
        flight.sampler("exclusive", 16).plan(0)
    text = str(caught.value)
    assert "\n" not in text
    assert "no batch of 16 from 1970 pairs" in text
    for way_out in ("exclusive_padded", "masked", "random", "train.batch_size"):
        assert way_out in text
    largest = int(text.split("the largest has ")[1].split(":")[0])
    assert flight.sampler("exclusive", largest).plan(0).steps >= 1
    assert flight.sampler("exclusive_padded", 16).plan(0).report.kept == 1970


@pytest.mark.parametrize("mode", ["random", "masked"])
def test_fewer_pairs_than_a_batch(mode):
    with pytest.raises(DataError, match="no batch of 8 from 3 pairs"):
        case_of(np.eye(3, dtype=bool)).sampler(mode, 8).plan(0)


def test_batch_size_and_pairs_are_checked(dense):
    with pytest.raises(DataError, match="batch size is 0"):
        dense.sampler("exclusive", 0)
    with pytest.raises(DataError, match="has no pairs"):
        RandomSampler(np.zeros((0, 2), np.int32), dense.graph, 4, 1)


def public_rule_kept(case: Case, batch_size: int, seed: int) -> int:
    """Number of pairs that the public rule keeps, recoded from its description.

    Pairs are in random order; an admissible one enters, any other moves to the end of the queue; after 16 384
    consecutive failures the epoch ends, and the incomplete batch is dropped.
    """
    tiles: dict[int, list[int]] = {}
    queries: dict[int, list[int]] = {}
    for query, reference in case.edge_set:
        tiles.setdefault(query, []).append(reference)
        queries.setdefault(reference, []).append(query)
    pairs = [tuple(pair) for pair in case.pair_P2.tolist()]
    random.Random(seed).shuffle(pairs)
    line, failures, full, batch = deque(pairs), 0, 0, 0
    blocked_query: set[int] = set()
    blocked_reference: set[int] = set()
    while line and failures < 16_384:
        query, reference = line.popleft()
        if query in blocked_query or reference in blocked_reference:
            line.append((query, reference))
            failures += 1
            continue
        failures, batch = 0, batch + 1
        blocked_query.update(queries[reference])
        blocked_reference.update(tiles[query])
        if batch == batch_size:
            full, batch = full + 1, 0
            blocked_query.clear()
            blocked_reference.clear()
    return full * batch_size


@pytest.mark.parametrize(("batch_size", "reference"), [(4, 0.997), (8, 0.58), (12, 0.06)])
def test_real_flight_keeps_more_than_the_public_rule(flight, batch_size, reference):
    total = len(flight.pair_P2)
    kept = []
    for seed in range(3):
        plan = flight.sampler("exclusive", batch_size, seed).plan(0)
        kept.append(plan.report.kept)
        assert plan.report.kept >= public_rule_kept(flight, batch_size, seed)
    # reference: the same rule, measured independently of this code
    assert np.mean(kept) / total == pytest.approx(reference, abs=0.04)


@pytest.mark.slow
def test_dense_graph_of_116_000_pairs_keeps_more_than_the_public_rule():
    case = geometric(4950, 1000, 0.09)
    assert 110_000 < len(case.pair_P2) < 120_000
    kept = ExclusiveSampler(case.pair_P2, case.graph, 64, seed=1).plan(0).report.kept
    assert kept >= public_rule_kept(case, 64, seed=1) > 0


def test_kept_shares_are_the_fractions_of_the_first_epoch(dense):
    shares = kept_shares(dense.pair_P2, dense.graph, (8, 150), seed=1)
    assert shares[0] == dense.sampler("exclusive", 8, seed=1).plan(0).report.kept_share
    assert shares[1] == 0  # 150 tiles, and the nearest of each other overlap
