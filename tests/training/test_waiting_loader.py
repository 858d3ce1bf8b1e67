"""The loader waits for an epoch's neighbors while the training goes on, and lets go when the training ends."""

import threading

import cv2
import numpy as np
import pytest
from mindspore import nn
from mindspore.train import Model

from mindloc.data.exclusion import OverlapGraph
from mindloc.data.hard_negatives import HardNegativeRule, NeighborTables
from mindloc.data.images import Normalization
from mindloc.data.loader import PairStream, ViewFiles
from mindloc.data.sampler import SAMPLERS
from mindloc.data.split import Edges
from mindloc.training.callbacks import NeighborsCallback
from mindloc.training.dataset import train_data
from mindloc.training.reporting import Reporter
from mindloc.training.resume import Progress

PAIRS = 6


@pytest.fixture
def tables() -> NeighborTables:
    """From the second epoch on by descriptors, found anew before each."""
    return NeighborTables(HardNegativeRule("descriptors", from_epoch=1, per_pair=1, share=0.5))


@pytest.fixture
def stream(tmp_path, tables) -> PairStream:
    """Six drone pictures over a tile each, batches of two."""
    for view in ("query", "tile"):
        for index in range(PAIRS):
            cv2.imwrite(str(tmp_path / f"{view}{index}.png"), np.full((16, 16, 3), 10 * index, np.uint8))
    pair_P2 = np.stack([np.arange(PAIRS)] * 2, axis=1).astype(np.int32)
    graph = OverlapGraph(Edges(np.arange(PAIRS + 1), pair_P2[:, 1], {"iou": np.ones(PAIRS, np.float32)}), PAIRS)
    sampler = SAMPLERS["exclusive"](pair_P2, graph, 2, 1, tables)
    views = [
        ViewFiles([tmp_path / f"{view}{index}.png" for index in range(PAIRS)], (16, 16)) for view in ("query", "tile")
    ]
    normalization = Normalization((0.5,) * 3, (0.5,) * 3)
    return PairStream(
        *views, pair_P2, {"iou": np.ones(PAIRS, np.float32)}, sampler, normalization, settings=None, seed=1
    )


def table(step: int) -> np.ndarray:
    """Picture d is near tile d + step."""
    return (np.arange(PAIRS)[:, None] + step) % PAIRS


def test_the_second_epoch_begins_when_its_neighbors_are_known(stream, tables):
    data = train_data(stream)
    iterator = data.dataset.create_tuple_iterator(num_epochs=3, output_numpy=True)
    assert len(list(iterator)) == 3  # the loader runs ahead into the second epoch, and waits
    assert data.steps(0) == 3 and data.report(0).companions == 0  # meanwhile the plan at hand can be asked for
    for epoch in (1, 2):
        tables.put(epoch, table(step=epoch))
        drawn = [query[:, 0, 0, 0] for query, *_ in iterator]
        assert len(drawn) == 3 and data.report(epoch).companions > 0
        index_S2 = np.round((np.array(drawn) + 1) / 2 * 255 / 10).astype(int)
        gap_S = (index_S2[:, 1] - index_S2[:, 0]) % PAIRS
        assert np.count_nonzero(gap_S == epoch) == data.report(epoch).companions


def test_a_training_on_mindspore_s_model_ends_while_the_loader_waits_for_an_epoch_too_far(stream, tables):
    class Steps(nn.Cell):
        def construct(self, query, reference, mask, iou):
            return iou.sum()

    data, ended = train_data(stream), threading.Event()

    def train() -> None:
        # Model.train walks through one epoch, and makes an iterator over three: the loader waits for the second
        callback = NeighborsCallback(tables, None, None, Reporter(None), Progress(epoch=3), 3)
        Model(Steps()).train(3, data.dataset, callbacks=[callback], dataset_sink_mode=False, initial_epoch=2)
        ended.set()

    threading.Thread(target=train, daemon=True).start()
    assert ended.wait(60)


def test_a_training_that_ends_early_is_not_held_up_by_the_loader(stream, tables):
    data = train_data(stream)
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
