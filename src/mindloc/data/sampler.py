"""Samplers: the four modes of composing batches, each a pure function of (seed, epoch).

With hard negatives, batches also depend on the epoch's neighbor table, see hard_negatives.py.

Shapes: P pairs, S steps (batches of an epoch), G rows of a global batch (all ranks together), 2 [query, reference].

The loss treats every off-diagonal cell of a batch as a negative. ``exclusive`` and ``exclusive_padded`` choose batches
in which that is true, ``masked`` masks the cells in which it is not, and ``random`` leaves them as false negatives.

References:
    Game4Loc, arXiv:2409.16925, section 4 (mutually exclusive sampling). Unlike its public code, a batch ends only when
    no pair fits, and pairs that can't be placed are counted in the report. Only the search for hard negatives ends
    early, after a few pairs of each reference; skipped pairs follow later in the epoch.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import is_not

import numpy as np

from mindloc.config.sections import SamplingConfig
from mindloc.data.exclusion import OverlapGraph, exclusive_batches, free_batches
from mindloc.data.hard_negatives import HardNegativeMiner, NeighborTables
from mindloc.data.split import Split
from mindloc.errors import DataError
from mindloc.runtime.console import progress_bar
from mindloc.vocabulary import PairMode

PADDING = -1  # pair index of a row that only fills the fixed shape
_PLANS_KEPT = 3  # the current epoch, and those that the loader reads ahead


@dataclass(frozen=True)
class SamplingReport:
    """Pair counts of an epoch: total = kept + set_aside + tail_dropped."""

    mode: str
    batch_size: int
    steps: int
    total: int
    kept: int
    set_aside: int  # in batches that could not be filled
    tail_dropped: int  # remainder, smaller than a batch
    padded: int  # rows without a pair, in all batches
    mined: int = 0  # number of kept pairs that were mined as hard negatives of another pair

    @property
    def kept_share(self) -> float:
        return self.kept / self.total

    def __str__(self) -> str:
        """One line for console and log."""
        text = (
            f"sampling {self.mode}: {self.steps} batches of {self.batch_size}, "
            f"{self.kept} of {self.total} pairs kept ({self.kept_share:.1%})"
        )
        if self.set_aside:
            text += f", {self.set_aside} set aside (their batches could not be filled)"
        if self.tail_dropped:
            text += f", {self.tail_dropped} dropped at the end"
        if self.padded:
            text += f", {self.padded} rows padded"
        if self.mined:
            text += f", {self.mined} mined as hard negatives of another"
        return text


@dataclass(frozen=True)
class EpochPlan:
    """All batches of one epoch; ``pair_SG`` indexes the pair list, ``PADDING`` in rows without a pair."""

    pair_SG: np.ndarray  # (steps, global batch) int64
    report: SamplingReport

    @property
    def steps(self) -> int:
        return len(self.pair_SG)

    def shard(self, rank: int, ranks: int, parts: int = 1) -> np.ndarray:
        """The pairs of one rank: (steps, global batch / ranks). All shards together are the global batch.

        Args:
            parts: consecutive parts of a batch (``train.accumulate``). Every rank has an equal number of rows of each
                part, so that a part contains the same pairs for any number of ranks.

        Raises:
            DataError: the global batch can't be split into equal parts.
        """
        size = self.pair_SG.shape[1]
        if size % (ranks * parts):
            accumulated = f" times train.accumulate={parts}" if parts > 1 else ""
            raise DataError(
                f"train.batch_size={size} can't be split into {ranks * parts} equal parts; set a multiple of the "
                f"{ranks} ranks{accumulated}"
            )
        row_of = np.arange(size).reshape(parts, ranks, -1)  # part, rank, row -> row of the global batch
        return self.pair_SG[:, row_of[:, rank].reshape(-1)]


class Sampler(ABC):
    """Base class: pairs, overlaps and order of an epoch; subclasses define batches and mask."""

    mode: str

    def __init__(
        self,
        pair_P2: np.ndarray,
        graph: OverlapGraph,
        batch_size: int,
        seed: int,
        neighbors: NeighborTables | None = None,
    ):
        if batch_size < 1:
            raise DataError(f"batch size is {batch_size}; expected 1 or more")
        if not len(pair_P2):
            raise DataError("the split has no pairs to sample; with data.train_mode=pos try pos_semipos")
        self.batch_size = batch_size
        self.neighbors = neighbors  # None: no hard negatives
        self._pair_P2, self._graph, self._seed = pair_P2, graph, seed
        self._plans: dict[int, tuple[EpochPlan, list[np.ndarray]]] = {}  # with their neighbor tables
        self._lock = threading.Lock()

    def wait(self, epoch: int) -> None:
        """Block until ``epoch`` can be planned: with hard negatives, until its neighbors are available."""
        if self.neighbors:
            self.neighbors.wait(epoch)

    def without_neighbors(self) -> "Sampler":
        """A sampler of the same pairs without hard negatives."""
        return type(self)(self._pair_P2, self._graph, self.batch_size, self._seed)

    def plan(self, epoch: int) -> EpochPlan:
        """All batches of ``epoch``; the last few plans are cached.

        Raises:
            DataError: no batch could be filled.
            RuntimeError: the neighbors of the epoch are not available.
        """
        with self._lock:
            plan, tables_then = self._plans.get(epoch, (None, []))
            tables = self.neighbors.tables_of(epoch) if self.neighbors else []
            # None: tables of a later epoch have replaced those of this one; the plan remains valid
            replaced = tables is not None and any(map(is_not, tables, tables_then))
            if plan is None or replaced:
                plan = self._make_plan(epoch)
                self._plans[epoch] = (plan, tables or [])
                for old in sorted(self._plans.keys() - {epoch})[: 1 - _PLANS_KEPT]:
                    del self._plans[old]
            return plan

    @abstractmethod
    def _make_plan(self, epoch: int) -> EpochPlan:
        """Compose all batches of ``epoch``; errors as given in ``plan``."""

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(len(self._pair_P2))

    def _miner(self, epoch: int, order_P: np.ndarray) -> HardNegativeMiner | None:
        """The hard-negative miner of an epoch; None in an epoch without hard negatives."""
        candidate_QK = self.neighbors.candidates(epoch) if self.neighbors else None
        if candidate_QK is None:
            return None
        sampling, random = self.neighbors.sampling, np.random.default_rng([self._seed, epoch, 1])
        per_batch = round(sampling.hard_share * self.batch_size)
        return HardNegativeMiner(self._pair_P2, order_P, candidate_QK, sampling.mined_per_pair, per_batch, random)

    def _exclusive(self, epoch: int) -> tuple[Iterator[list[int]], HardNegativeMiner | None]:
        order_P = self._order(epoch)
        miner = self._miner(epoch, order_P)
        return exclusive_batches(self._graph, self._pair_P2, order_P, self.batch_size, miner), miner

    def _report(
        self,
        pair_SG: np.ndarray,
        miner: HardNegativeMiner | None,
        set_aside: int = 0,
        tail_dropped: int = 0,
    ) -> SamplingReport:
        padded = int(np.count_nonzero(pair_SG == PADDING))
        return SamplingReport(
            mode=self.mode,
            batch_size=self.batch_size,
            steps=len(pair_SG),
            total=len(self._pair_P2),
            kept=pair_SG.size - padded,
            set_aside=set_aside,
            tail_dropped=tail_dropped,
            padded=padded,
            mined=int(miner.mined_P[pair_SG[pair_SG != PADDING]].sum()) if miner else 0,
        )

    def mask(self, pair_G: np.ndarray) -> np.ndarray:
        """(G,G) bool, rows queries, columns references: True where the loss counts the cell; here all real pairs."""
        real = np.asarray(pair_G) != PADDING
        return real[:, None] & real[None, :]


class ExclusiveSampler(Sampler):
    """Full batches without overlaps off the diagonal; pairs in batches that can't be filled are left out."""

    mode = "exclusive"

    def _make_plan(self, epoch: int) -> EpochPlan:
        full: list[list[int]] = []
        left, set_aside, tail_dropped, largest = len(self._pair_P2), 0, 0, 0
        batches, miner = self._exclusive(epoch)
        for batch in batches:
            largest = max(largest, len(batch))
            if len(batch) == self.batch_size:
                full.append(batch)
            elif left >= self.batch_size:
                set_aside += len(batch)
            else:
                tail_dropped += len(batch)
            left -= len(batch)
        if not full:
            raise self._no_full_batch(largest)
        pair_SG = np.array(full, np.int64)
        return EpochPlan(pair_SG, self._report(pair_SG, miner, set_aside, tail_dropped))

    def _no_full_batch(self, largest: int) -> DataError:
        # A batch of ``largest`` can be filled: until the first batch of that size, no batch was limited by the batch
        # size, so with train.batch_size=largest sampling is identical up to that batch and fills it.
        return DataError(
            f"exclusive sampling fills no batch of {self.batch_size} from {len(self._pair_P2)} pairs, the largest has "
            f"{largest}: set train.batch_size to {largest} or less (check-data lists the pairs that each size keeps),"
            " or sampling.mode to exclusive_padded (short batches, all pairs), masked or random"
        )


class ExclusivePaddedSampler(Sampler):
    """Batches without overlaps that keep every pair; incomplete ones are padded to the fixed shape."""

    mode = "exclusive_padded"

    def _make_plan(self, epoch: int) -> EpochPlan:
        iterator, miner = self._exclusive(epoch)
        batches = list(iterator)
        pair_SG = np.full((len(batches), self.batch_size), PADDING, np.int64)
        for row_G, batch in zip(pair_SG, batches, strict=True):
            row_G[: len(batch)] = batch
        return EpochPlan(pair_SG, self._report(pair_SG, miner))


class RandomSampler(Sampler):
    """Random batches; overlaps off the diagonal count as negatives, as in the public code without its sampling."""

    mode = "random"

    def _make_plan(self, epoch: int) -> EpochPlan:
        total = len(self._pair_P2)
        steps = total // self.batch_size
        if not steps:
            raise DataError(
                f"{self.mode} sampling fills no batch of {self.batch_size} from {total} pairs; set train.batch_size to "
                f"{total} or less, or sampling.mode to exclusive_padded (short batches are padded)"
            )
        order_P = self._order(epoch)
        miner = self._miner(epoch, order_P)
        if miner:
            order_P = np.concatenate([np.array(batch) for batch in free_batches(order_P, self.batch_size, miner)])
        pair_SG = order_P[: steps * self.batch_size].reshape(steps, self.batch_size)
        return EpochPlan(pair_SG, self._report(pair_SG, miner, tail_dropped=total - pair_SG.size))


class MaskedSampler(RandomSampler):
    """Random batches; positive and semi-positive cells off the diagonal are masked."""

    mode = "masked"

    def mask(self, pair_G: np.ndarray) -> np.ndarray:
        """True for cells of real pairs without an overlap. This also masks an image that occurs twice in a batch.

        If rows i and j have the same query, (q_i, r_j) equals (q_j, r_j), which is an edge; likewise for references.
        """
        pair_G = np.asarray(pair_G)
        query_G, reference_G = self._pair_P2[pair_G].T
        mask_GG = super().mask(pair_G)
        mask_GG &= ~self._graph.overlap(query_G[:, None], reference_G[None, :])
        np.fill_diagonal(mask_GG, pair_G != PADDING)
        return mask_GG


SAMPLERS = {
    sampler.mode: sampler for sampler in (ExclusiveSampler, ExclusivePaddedSampler, MaskedSampler, RandomSampler)
}


def build_sampler(
    split: Split,
    mode: PairMode,
    sampling: SamplingConfig,
    batch_size: int,
    seed: int,
    neighbors: NeighborTables | None = None,
) -> Sampler:
    """The sampler of ``sampling.mode`` over the pairs of a split; overlaps are those of pos_semipos in either mode.

    Args:
        mode: of the training pairs.
        neighbors: neighbor tables for hard negatives; None: no hard negatives.

    Raises:
        DataError: the split has no pairs in this mode.
    """
    graph = OverlapGraph(split.semipositive, len(split.reference))
    return SAMPLERS[sampling.mode](split.edges(mode).pairs(), graph, batch_size, seed, neighbors)


def kept_shares(pair_P2: np.ndarray, graph: OverlapGraph, batch_sizes: Sequence[int], seed: int = 1) -> list[float]:
    """Fraction of the pairs, 0..1, that exclusive sampling keeps in its first epoch, for each batch size."""
    order = np.random.default_rng([seed, 0]).permutation(len(pair_P2))
    return [
        sum(len(batch) == size for batch in exclusive_batches(graph, pair_P2, order, size)) * size / len(pair_P2)
        for size in progress_bar(batch_sizes, desc="filling batches", unit="size")
    ]
