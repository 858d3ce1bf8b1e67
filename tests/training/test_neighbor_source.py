"""The source of hard negatives: computed with the current encoder, one table for all ranks, saved with the state."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from mindloc.config.sections import SamplingConfig
from mindloc.data.hard_negatives import NO_NEIGHBOR, NeighborTables
from mindloc.data.split import Edges, Places, Side, Split
from mindloc.errors import CheckpointError, DataError
from mindloc.runtime.checkpoint import load_state, load_weights, save_state, save_weights
from mindloc.runtime.cluster import ALONE
from mindloc.training.callbacks import NeighborsCallback
from mindloc.training.neighbors import NeighborSource, PairedImages, restore_table
from mindloc.training.reporting import Reporter
from mindloc.training.resume import Progress

# Five drone images over five tiles in a row, 10 m apart; image d also overlaps tile d + 1, and drone image 4 and tile 4
# have no pair.
QUERIES, TILES = 5, 5
POSITIVE = [[0], [1], [2], [3], []]
OVERLAPS = [[0, 1], [1, 2], [2, 3], [3, 4], [4]]


def edges_of(lists: list[list[int]]) -> Edges:
    start = np.cumsum([0, *map(len, lists)])
    tiles = np.array([tile for row in lists for tile in row], np.int32)
    return Edges(start, tiles, {"iou": np.full(len(tiles), 0.5, np.float32)})


@pytest.fixture
def split(tmp_path) -> Split:
    place_N2 = np.stack([10.0 * np.arange(5), np.zeros(5)], axis=1)
    queries, tiles = ([f"{view}{index}.jpg" for index in range(5)] for view in ("query", "tile"))
    return Split(
        root=tmp_path,
        query=Side("drone", queries, Places(place_N2 + [1, 0], "plane_m")),
        reference=Side("satellite", tiles, Places(place_N2, "plane_m")),
        positive=edges_of(POSITIVE),
        semipositive=edges_of(OVERLAPS),
    )


@pytest.fixture
def images(split) -> PairedImages:
    return PairedImages(split, split.edges("pos").pairs(), k=3)


def test_map_neighbors_are_the_nearest_tiles_with_a_pair_and_without_an_overlap(images):
    # images are at 1, 11, 21, 31 m, tiles at 0, 10, 20, 30 m (tile 4 and image 4 have no pair)
    assert images.near_on_map().tolist() == [
        [2, 3, NO_NEIGHBOR],  # overlaps 0 and 1
        [0, 3, NO_NEIGHBOR],  # 11 m to tile 0, 19 m to tile 3
        [1, 0, NO_NEIGHBOR],
        [2, 1, 0],  # overlaps 3 and 4
        [NO_NEIGHBOR] * 3,
    ]


class FakeEngine:
    """The descriptor of an image is its first pixel's three channels; Phi would reverse the order of the tiles."""

    batch_size = 2
    facts = {"engine": "fake", "checkpoint_sha256": None}

    def __init__(self, descriptors=("global",)):
        self.descriptors, self.encoded = descriptors, []

    def encode(self, batch):
        ((view, image_B3HW),) = batch.items()
        self.encoded.append((view, len(image_B3HW)))
        return {
            f"{view}.{name}": image_B3HW[:, :, 0, 0] * (-1 if (name, view) == ("phi", "query") else 1)
            for name in self.descriptors
        }


def pixels(view: str, files: list) -> list:
    """Descriptors on a circle: images with adjacent numbers are the most similar."""
    angle_N = np.array([0.3 * int(path.stem[-1]) for path in files]) + (0.1 if view == "query" else 0)
    image_N3HW = np.stack([np.cos(angle_N), np.sin(angle_N), 0 * angle_N], axis=1)[:, :, None, None].astype(np.float32)
    return [(image_N3HW[first : first + 2], len(image_N3HW[first : first + 2])) for first in range(0, len(files), 2)]


def tables_of(source: str, from_epoch: int, refresh_every: int = 1) -> NeighborTables:
    sampling = {"hard_negatives": source, "hard_from_epoch": from_epoch, "refresh_every_epochs": refresh_every}
    return NeighborTables(SamplingConfig(**sampling))


def source_of(images, cluster=ALONE, refresh_every=1) -> NeighborSource:
    tables = tables_of("descriptors", 1, refresh_every)
    facts = {"view": "drone", "place_unit": "plane_m"}
    return NeighborSource(tables, images, pixels, lambda view: facts, cluster)


BY_DESCRIPTOR = [
    [2, 3, NO_NEIGHBOR],
    [0, 3, NO_NEIGHBOR],
    [1, 0, NO_NEIGHBOR],
    [2, 1, 0],
    [NO_NEIGHBOR] * 3,
]  # angles in proportion to the places


@pytest.mark.parametrize("descriptors", [("global",), ("omega", "phi")])
def test_descriptor_neighbors_use_the_current_encoder(images, tmp_path, descriptors):
    source = source_of(images)
    source.refresh(FakeEngine(descriptors), tmp_path / "neighbors", 1)
    assert source.tables.newest[0] == 1 and not source.tables.lacks(1)
    assert source.tables.newest[1].tolist() == BY_DESCRIPTOR
    assert not (tmp_path / "neighbors").exists()


@pytest.mark.parametrize("failing_at", [1, 3])  # in the drone set; in the satellite set, with the drone set on disk
def test_a_failed_search_removes_its_files_from_a_full_disk(images, tmp_path, failing_at):
    engine = FakeEngine()

    class FullDisk(FakeEngine):
        def encode(self, batch):
            if len(engine.encoded) == failing_at:
                raise DataError("no space left")
            return engine.encode(batch)

    source = source_of(images)
    with pytest.raises(DataError, match="no space left"):
        source.refresh(FullDisk(), tmp_path / "neighbors", 1)
    assert engine.encoded[-1][0] == ("query" if failing_at == 1 else "reference")
    assert not (tmp_path / "neighbors").exists() and source.tables.newest is None


def test_a_table_is_assigned_to_the_epoch_of_its_extraction(images, tmp_path):
    source = source_of(images, refresh_every=3)
    # a run that resumes with epoch 5 reads the table computed before epoch 4
    source.refresh(FakeEngine(), tmp_path / "neighbors", 5)
    assert source.tables.newest[0] == 4 and not source.tables.lacks(6) and source.tables.lacks(7)


class FakeCluster:
    """Two ranks; the rows of the other rank are given."""

    size = 2

    def __init__(self, rank: int, others: np.ndarray | None = None):
        self.rank, self.others = rank, others

    def gather(self, rows):
        other = rows if self.others is None or self.others.shape != rows.shape else self.others
        return np.concatenate([rows, other] if self.rank == 0 else [other, rows])


def test_every_rank_has_the_table_of_rank_0(images):
    of_first = np.array(BY_DESCRIPTOR, np.float32)
    source = source_of(images, FakeCluster(1, of_first))
    source.refresh(FakeEngine(), None, 1)
    assert source.tables.newest[1].tolist() == BY_DESCRIPTOR
    assert source.tables.newest[1].dtype == np.int32


def test_every_rank_has_the_map_table_of_rank_0(images):
    own = images.near_on_map()
    of_first = own.astype(np.float32)
    of_first[1, :2] = of_first[1, 1::-1]  # rank 0's processor orders two tiles differently
    source = source_of(images, FakeCluster(1, of_first))
    source.agree_on_map()  # no table, nothing to agree on
    source.tables.map_QK = own
    source.agree_on_map()
    assert source.tables.map_QK.tolist() == of_first.astype(int).tolist() != own.tolist()
    assert source.tables.map_QK.dtype == np.int32


def saved_state(directory, source: NeighborSource, **progress):
    arrays, facts = source.state()
    path = directory / "weights_e1_s1.safetensors"
    sha256 = save_weights(path, {"w": np.zeros(1, np.float32)}, {})
    save_state(
        path, sha256, {"m": np.ones(2, np.float32), **arrays}, {"progress": Progress(**progress).to_dict(), **facts}
    )
    return load_state(load_weights(path))


def test_a_checkpoint_restores_the_table(images, tmp_path):
    source = source_of(images)
    assert source.state() == ({}, {}) and source.digest() == b""
    source.refresh(FakeEngine(), tmp_path / "neighbors", 2)
    assert source.digest() == source.tables.newest[1].tobytes()
    state = saved_state(tmp_path, source, epoch=2, step_in_epoch=1)
    tables = NeighborTables(source.tables.sampling)
    restore_table(tables, images, state, Progress(epoch=2, step_in_epoch=1))
    assert tables.newest[0] == 2 and tables.newest[1].tolist() == BY_DESCRIPTOR


def test_a_damaged_table_is_an_error(images, tmp_path):
    source = source_of(images)
    source.refresh(FakeEngine(), tmp_path / "neighbors", 2)
    state = saved_state(tmp_path, source, epoch=2)
    state.arrays["neighbors"][0, 0] += 1
    with pytest.raises(CheckpointError, match=rf"damaged neighbors; .* delete its two files in {tmp_path}$"):
        restore_table(NeighborTables(source.tables.sampling), images, state, Progress(epoch=2))


def test_a_table_of_other_pairs_or_width_is_ignored_between_epochs_and_an_error_inside(images, split, tmp_path):
    source = source_of(images)
    source.refresh(FakeEngine(), tmp_path / "neighbors", 2)
    state = saved_state(tmp_path, source, epoch=2)
    wider = PairedImages(split, split.edges("pos").pairs(), k=4)
    other = PairedImages(replace(split, positive=split.semipositive), split.edges("pos_semipos").pairs(), k=3)
    digests = f"sha256 {images.pairs_sha256[:12]}; the pairs of the data set have {other.pairs_sha256[:12]}"
    for now, problem in ((wider, "and lacks the neighbors"), (other, f"of other pairs .{digests}")):
        tables = NeighborTables(source.tables.sampling)
        restore_table(tables, now, state, Progress(epoch=2))
        assert tables.newest is None and tables.lacks(2)  # computed again before the epoch
        with pytest.raises(CheckpointError, match=rf"inside epoch 3.*{problem}.*delete its two files in {tmp_path}$"):
            restore_table(tables, now, state, Progress(epoch=2, step_in_epoch=1))


class FakeEncoder:
    training = True

    def set_train(self, mode):
        self.training = mode


@pytest.fixture
def found() -> list[tuple[int, bool]]:
    """(epoch, whether the encoder is in training mode) of every search."""
    return []


def callback_of(tables, found, progress, epochs=4) -> NeighborsCallback:
    encoder = FakeEncoder()

    def refresh(epoch):
        found.append((epoch, encoder.training))
        tables.put(tables.extraction_for(epoch), np.zeros((1, 1), np.int32))

    return NeighborsCallback(tables, refresh, encoder, Reporter(None), progress, epochs)


def test_neighbors_are_computed_before_the_epochs_that_read_new_ones(found):
    progress = Progress()
    callback = callback_of(tables_of("both", 2, refresh_every=2), found, progress, epochs=6)
    for epoch in range(1, 7):
        progress.epoch = epoch
        callback.on_train_epoch_end(SimpleNamespace())
    assert found == [(2, False), (4, False)]  # in evaluation mode; none after the last epoch
    assert callback.encoder.training


def test_no_neighbors_are_computed_when_the_training_stops_inside_an_epoch(found):
    tables = tables_of("descriptors", 1)
    callback_of(tables, found, Progress(epoch=1, step_in_epoch=3)).on_train_epoch_end(SimpleNamespace())
    assert not found


def test_a_failed_search_leaves_the_encoder_in_training_mode(found):
    callback = callback_of(tables_of("descriptors", 1), found, Progress(epoch=1))

    def fails(epoch):
        raise OSError("disk full")

    callback.refresh = fails
    with pytest.raises(OSError, match="disk full"):
        callback.on_train_epoch_end(SimpleNamespace())
    assert callback.encoder.training
