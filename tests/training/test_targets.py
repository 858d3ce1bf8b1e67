"""Targets of a loss: columns of the data set's edges, of any name and shape."""

import cv2
import numpy as np
import pytest

from mindloc.config import Config, load_config
from mindloc.data.sampler import build_sampler
from mindloc.data.split import Edges, Side, Split
from mindloc.errors import DataError
from mindloc.training.dataset import build_train_data, targets_of

PAIRS = 4


@pytest.fixture
def split(tmp_path) -> Split:
    """A split with four pairs, without places, whose edges have a column of two numbers."""
    files = {side: [f"{side}{index}.png" for index in range(PAIRS)] for side in ("query", "reference")}
    for name in [*files["query"], *files["reference"]]:
        cv2.imwrite(str(tmp_path / name), np.zeros((16, 16, 3), np.uint8))
    offset_E2 = np.arange(2 * PAIRS).reshape(PAIRS, 2) / 8  # float64, exact in float32
    edges = Edges(np.arange(PAIRS + 1), np.arange(PAIRS, dtype=np.int32), {"offset_px": offset_E2})
    return Split(tmp_path, Side("drone", files["query"]), Side("satellite", files["reference"]), edges, edges)


@pytest.fixture
def config() -> Config:
    words = ["data.query_size_px=[16, 16]", "data.reference_size_px=[16, 16]", "augment.enabled=false"]
    return load_config(None, [*words, "sampling.mode=random", "train.batch_size=2"])


def test_a_column_of_any_shape_arrives_row_by_row(split, config):
    sampler = build_sampler(split, "pos", config.sampling, 2, seed=1)
    data = build_train_data(config, split, sampler, targets_of(config, split, ("offset_px",)))
    assert data.dataset.get_col_names() == ["query", "reference", "mask", "offset_px"]
    batches = list(data.dataset.create_tuple_iterator(num_epochs=1, output_numpy=True))
    for batch, pair_G in zip(batches, sampler.plan(0).pair_SG, strict=True):
        assert batch[3].dtype == np.float32
        np.testing.assert_array_equal(batch[3], split.positive.columns["offset_px"][pair_G])


def test_a_column_that_the_reader_lacks_is_a_one_line_error(split, config):
    message = (
        r"^the loss \(loss.name=weighted_infonce\) reads iou of each pair, which data.reader=gta_uav does "
        r"not provide; [^\n]+$"
    )
    with pytest.raises(DataError, match=message):
        targets_of(config, split, ("offset_px", "iou"))
