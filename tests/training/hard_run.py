"""A training run with hard negatives that takes seconds, for the kill tests; jobs and answers as in small_run.py.

Twelve drone images of 4 x 4 pixels, each over its own tile, in batches of three. From the second epoch on, neighbors by
descriptors are computed before each epoch.
"""

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import small_run

from mindloc.config.sections import AugmentConfig, SamplingConfig
from mindloc.data.exclusion import OverlapGraph
from mindloc.data.hard_negatives import NeighborTables
from mindloc.data.loader import PairStream
from mindloc.data.sampler import SAMPLERS
from mindloc.data.split import Edges, Places, Side, Split
from mindloc.runtime.cluster import ALONE
from mindloc.training.dataset import TrainData
from mindloc.training.neighbors import NeighborSource, PairedImages, restore_table
from mindloc.training.resume import Progress
from mindloc.training.trainer import train
from mindloc.vocabulary import SIDES, ViewSpec

PAIRS, BATCH, SIDE, EPOCHS = 12, small_run.BATCH, small_run.SIDE, 4
HARD = SamplingConfig(hard_negatives="descriptors", hard_from_epoch=1, mined_per_pair=2, hard_share=0.7)


class LinearEngine:
    """An engine with the current matrix of ``small_run.LinearEncoder``; a search has three batches of each view."""

    batch_size, descriptors = 4, ("global",)
    facts = {"engine": "numpy", "checkpoint_sha256": None}

    def __init__(self, encoder):
        self.encoder = encoder

    def encode(self, batch):
        weight = self.encoder.weight.asnumpy()
        return {f"{view}.global": image.reshape(len(image), -1) @ weight for view, image in batch.items()}


def make_split(directory: Path) -> Split:
    """Random images from a seed; every image also overlaps the tile after its own."""
    random = np.random.default_rng(0)
    files = {view: [f"{view}{index:02}.png" for index in range(PAIRS)] for view in ("query", "tile")}
    for name in [*files["query"], *files["tile"]]:
        cv2.imwrite(str(directory / name), random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    tiles = np.stack([np.arange(PAIRS), (np.arange(PAIRS) + 1) % PAIRS], axis=1).astype(np.int32)
    own = Edges(np.arange(PAIRS + 1), tiles[:, 0], {"iou": np.full(PAIRS, 0.6, np.float32)})
    all_edges = Edges(2 * np.arange(PAIRS + 1), tiles.reshape(-1), {"iou": np.full(2 * PAIRS, 0.5, np.float32)})
    places = Places(np.zeros((PAIRS, 2)), "plane_m")
    sides = Side("drone", files["query"], places), Side("satellite", files["tile"], places)
    return Split(directory, *sides, own, all_edges)


def images_of(split: Split):
    def images(view: str, paths: list[Path]):
        for first in range(0, len(paths), LinearEngine.batch_size):
            images = [cv2.imread(str(path)) for path in paths[first : first + LinearEngine.batch_size]]
            image_B3HW = (np.stack(images).transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32)
            yield image_B3HW, len(image_B3HW)

    return images


def run(directory: Path, callbacks=()) -> Progress:
    """Start a run, or resume the one in the directory."""
    run_directory, point, step = small_run.open_run(directory)
    split = make_split(directory)
    images = PairedImages(split, split.edges("pos").pairs(), k=4)
    tables = NeighborTables(HARD)
    if point:
        restore_table(tables, images, point.state, point.progress)
    views = {"query": "drone", "reference": "satellite"}
    source = NeighborSource(
        tables,
        images,
        images_of(split),
        lambda side: {"view": views[side], "place_unit": "plane_m"},
        ALONE,
    )
    refresh = partial(source.refresh, LinearEngine(step.encoder))
    own = {"make_data": data_of(split, tables), "neighbors": source, "refresh_neighbors": refresh}
    settings = {"checkpoint_every_steps": 1}
    return train(small_run.make_training(point, step, EPOCHS, settings, **own), run_directory, callbacks)


def data_of(split: Split, tables: NeighborTables):
    edges = split.edges("pos")
    pair_P2 = edges.pairs()
    sampler = SAMPLERS["exclusive"](pair_P2, OverlapGraph(split.semipositive, PAIRS), BATCH, 1, tables)
    views = {side: ViewSpec(split.side(side).view, (SIDE, SIDE)) for side in SIDES}
    paths, off = {side: split.paths(side) for side in SIDES}, AugmentConfig(enabled=False)

    def make_data(progress: Progress):
        start = (progress.epoch, progress.step_in_epoch)
        stream = PairStream(views, paths, pair_P2, edges.columns, sampler, off, seed=1, start=start)
        return TrainData(stream)

    return make_data


if __name__ == "__main__":
    small_run.serve(run)
