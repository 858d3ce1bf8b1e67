"""An extraction as tiles and as queries: each row once, in order, reduced if requested, with the correct card."""

import numpy as np
import pytest

from mindloc.descriptors.reduction import Reduction, save_reduction
from mindloc.descriptors.sets import make_rows, save_descriptor_set, set_directory
from mindloc.errors import DataError, MindlocError, TileIndexError
from mindloc.search import extraction as module
from mindloc.search.extraction import load_extracted
from mindloc.search.faiss_index import build_faiss_index
from mindloc.search.index import IndexCard

COUNT, WIDTH, RERANK_WIDTH = 7, 3, 4
NAMES = [f"{row}.png" for row in range(COUNT)]
PLACE_N2 = np.arange(2.0 * COUNT).reshape(COUNT, 2)
OMEGA, PHI = np.random.default_rng(0).standard_normal((2, COUNT, 4)).astype(np.float32)
OMEGA = OMEGA[:, :WIDTH]
# subtracts the mean (1, 0, 0) and keeps the first two of three numbers
REDUCTION = Reduction(np.array([1, 0, 0], np.float32), np.eye(3, 2, dtype=np.float32), 0.9, 7, 0, "abc")


def write(directory, descriptors, **facts):
    card = {"view": "satellite", "place_unit": "plane_m", "checkpoint_sha256": "abc", **facts}
    rows = make_rows(NAMES, PLACE_N2, np.hstack([PLACE_N2 - 1, PLACE_N2 + 1]))
    for name, matrix in descriptors.items():
        save_descriptor_set(set_directory(directory, name), matrix, rows, {**card, "descriptor": name})
    return directory


@pytest.mark.parametrize("rows_at_a_time", [1, 3, 100])
def test_every_row_becomes_a_tile_in_order(tmp_path, monkeypatch, rows_at_a_time):
    monkeypatch.setattr(module, "_BATCH_NUMBERS", rows_at_a_time * (WIDTH + RERANK_WIDTH))
    parts = list(load_extracted(write(tmp_path / "set", {"omega": OMEGA, "phi": PHI}, nodes=2)).tiles())
    assert len(parts) == -(-COUNT // rows_at_a_time) and [name for part in parts for name in part.names] == NAMES
    for fact, expected in (("recall_ND", OMEGA), ("rerank_NE", PHI), ("place_N2", PLACE_N2)):
        np.testing.assert_array_equal(np.concatenate([getattr(part, fact) for part in parts]), expected)
    np.testing.assert_array_equal(parts[-1].bounds_N4[-1], [11, 12, 13, 14])  # one meter around the place (12, 13)


def test_an_index_is_built_without_the_command_line(tmp_path):
    tiles = load_extracted(write(tmp_path / "set", {"omega": OMEGA, "phi": PHI}, nodes=2))
    index = build_faiss_index(tiles.index_card("flat"), tiles.tiles())
    assert index.card == IndexCard("flat", "omega", WIDTH, RERANK_WIDTH, 2, "plane_m", "abc", None)
    assert index.recall(OMEGA, 1).names == [[name] for name in NAMES]


def test_a_one_stage_extraction_has_nothing_to_rerank_with(tmp_path):
    tiles = load_extracted(write(tmp_path / "set", {"global": OMEGA}))
    assert tiles.index_card("hnsw") == IndexCard("hnsw", "global", WIDTH, None, None, "plane_m", "abc", None)
    assert [part.rerank_NE for part in tiles.tiles()] == [None]


@pytest.mark.parametrize("facts", [{"nodes": "2"}, {"nodes": 0}, {"place_unit": "feet"}, {"checkpoint_sha256": 7}])
def test_a_card_of_wrong_types_is_not_that_of_an_index(tmp_path, facts):
    written = write(tmp_path / "set", {"omega": OMEGA, "phi": PHI}, **facts)
    with pytest.raises((DataError, TileIndexError), match="of a wrong type.*; extract"):
        load_extracted(written).index_card("flat")


def test_recall_descriptors_are_reduced_when_they_are_read(tmp_path):
    saved = save_reduction(tmp_path / "two.safetensors", REDUCTION)
    directory = write(tmp_path / "set", {"omega": OMEGA, "phi": PHI}, nodes=2)
    tiles = load_extracted(directory, tmp_path / "two.safetensors")
    (batch,) = tiles.batches()
    shorter = OMEGA[:, :2] - [1, 0]
    np.testing.assert_allclose(batch.recall_BD, shorter / np.linalg.norm(shorter, axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_array_equal(batch.rerank_BE, PHI)
    card = tiles.index_card("flat")
    assert (card.dimension, card.reduction_sha256) == (2, saved.sha256)


def test_sets_that_can_not_be_reduced_or_recalled_are_one_line(tmp_path):
    save_reduction(tmp_path / "two.safetensors", REDUCTION)
    reduced = write(tmp_path / "reduced", {"omega": OMEGA, "phi": PHI}, reduction_sha256="f" * 64)
    other = write(tmp_path / "other", {"global": OMEGA}, checkpoint_sha256="xyz")
    phi = write(tmp_path / "both", {"omega": OMEGA, "phi": PHI}) / "phi"
    for directory, pca, message in (
        (reduced, tmp_path / "two.safetensors", "was reduced when it was extracted; leave --pca out"),
        (other, tmp_path / "two.safetensors", "descriptors of checkpoint abc, but these are of checkpoint xyz"),
        (phi, None, "contains only phi; name the directory that extract wrote"),
    ):
        with pytest.raises(MindlocError, match=message):
            load_extracted(directory, pca)
