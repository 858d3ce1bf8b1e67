"""The loader waits for an epoch's neighbors while the training continues, and is released when the training ends."""

import threading

import cv2
import numpy as np
import pytest
from mindspore import nn
from mindspore.train import Model

from mindloc.config.sections import AugmentConfig, SamplingConfig
from mindloc.data.exclusion import OverlapGraph
from mindloc.data.hard_negatives import NeighborTables
from mindloc.data.loader import PairStream
from mindloc.data.sampler import SAMPLERS
from mindloc.data.split import Edges
from mindloc.training.callbacks import NeighborsCallback
from mindloc.training.dataset import TrainData
from mindloc.training.reporting import Reporter
from mindloc.training.resume import Progress
from mindloc.vocabulary import SIDES, ViewSpec

PAIRS = 6


@pytest.fixture
def tables() -> NeighborTables:
    """Neighbor tables by descriptors from the second epoch on, a new one for each epoch."""
    return NeighborTables(SamplingConfig(hard_negatives="descriptors", hard_from_epoch=1, mined_per_pair=1))


@pytest.fixture
def stream(tmp_path, tables) -> PairStream:
    """A stream of six query images, each over its own tile, in batches of two."""
    paths = {side: [tmp_path / f"{side}{index}.png" for index in range(PAIRS)] for side in SIDES}
    for index, pair in enumerate(zip(*paths.values(), strict=True)):
        for path in pair:
            cv2.imwrite(str(path), np.full((16, 16, 3), 10 * index, np.uint8))
    pair_P2 = np.stack([np.arange(PAIRS)] * 2, axis=1).astype(np.int32)
    iou_P = np.ones(PAIRS, np.float32)
    graph = OverlapGraph(Edges(np.arange(PAIRS + 1), pair_P2[:, 1], {"iou": iou_P}), PAIRS)
    sampler = SAMPLERS["exclusive"](pair_P2, graph, 2, 1, tables)
    views = {side: ViewSpec("drone", (16, 16)) for side in SIDES}
    return PairStream(views, paths, pair_P2, {"iou": iou_P}, sampler, AugmentConfig(enabled=False), seed=1)


def table(step: int) -> np.ndarray:
    """The table in which image q is near tile q + step."""
    return (np.arange(PAIRS)[:, None] + step) % PAIRS


def test_the_second_epoch_starts_when_its_neighbors_are_available(stream, tables):
    data = TrainData(stream)
    iterator = data.dataset.create_tuple_iterator(num_epochs=3, output_numpy=True)
    assert len(list(iterator)) == 3  # the loader is ahead in the second epoch, and waits
    assert data.steps(0) == 3 and data.report(0).mined == 0  # meanwhile the current plan can be read
    for epoch in (1, 2):
        tables.put(epoch, table(step=epoch))
        drawn = [query[:, 0, 0, 0] for query, *_ in iterator]
        assert len(drawn) == 3 and data.report(epoch).mined > 0
        index_S2 = np.round((np.array(drawn) + 1) / 2 * 255 / 10).astype(int)
        gap_S = (index_S2[:, 1] - index_S2[:, 0]) % PAIRS
        assert np.count_nonzero(gap_S == epoch) == data.report(epoch).mined


def test_a_training_on_mindspore_s_model_ends_while_the_loader_waits_for_a_later_epoch(stream, tables):
    class Steps(nn.Cell):
        def construct(self, query, reference, mask, iou):
            return iou.sum()

    data, ended = TrainData(stream), threading.Event()

    def train() -> None:
        # Model.train trains one epoch, but makes an iterator over three: the loader waits for the second
        callback = NeighborsCallback(tables, None, None, Reporter(None), Progress(epoch=3), 3)
        Model(Steps()).train(3, data.dataset, callbacks=[callback], dataset_sink_mode=False, initial_epoch=2)
        ended.set()

    threading.Thread(target=train, daemon=True).start()
    assert ended.wait(60)


def test_a_training_that_ends_early_is_not_blocked_by_the_loader(stream, tables):
    data = TrainData(stream)
    iterator = data.dataset.create_tuple_iterator(num_epochs=3, output_numpy=True)
    assert len(list(iterator)) == 3

    def end() -> None:
        nonlocal iterator
        tables.close()
        del iterator

    ending = threading.Thread(target=end, daemon=True)
    ending.start()
    ending.join(20)
    assert not ending.is_alive()
