"""Pictures in the sampler's order, read and changed by threads ahead of the consumer; no MindSpore here.

Letters: B rows of a batch on this rank, G rows of the global batch, P pairs, S steps.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mindloc.cores import usable_cores
from mindloc.data.augment import VIEWS, AugmentSettings, augment, draw_augmentation
from mindloc.data.picture_file import check_decodes, cut_border, decode, read_bytes
from mindloc.data.sampler import PADDING, EpochPlan, Sampler
from mindloc.errors import ImageError

_ROWS_AHEAD_PER_WORKER = 4


@dataclass(frozen=True)
class ViewFiles:
    """The pictures of one view and what every one of them becomes before any random change."""

    paths: Sequence[Path]
    size_px: tuple[int, int]  # height, width
    cut_border: float = 0.0  # share cropped from each side


class PairStream:
    """Rows (drone, satellite, weight, mask) of one epoch after the other, in the sampler's order.

    Row i of this rank's B carries the weights and mask rows i*ranks .. (i+1)*ranks of the global batch, so that its
    batch holds all of them.

    A file that can't be read raises ``ImageError``, or with ``skip_bad`` its row is masked. For that every rank
    looks at the files of the whole global batch, as all must mask the same rows; each file once.

    Args:
        pair_P2: drone picture and tile of each pair; weight_P: their IoU.
        settings: random changes; None: none, and pictures leave as undecoded bytes.
        shard: rank, number of ranks, and parts of a batch; see ``EpochPlan.shard``.
        start: epoch, and the step within it, to begin with.

    Raises:
        ValueError: the start lies beyond its epoch.
        DataError: the global batch can't be cut into equal parts.
    """

    def __init__(
        self,
        drone: ViewFiles,
        satellite: ViewFiles,
        pair_P2: np.ndarray,
        weight_P: np.ndarray,
        sampler: Sampler,
        settings: AugmentSettings | None,
        seed: int,
        skip_bad: bool = False,
        workers: int = 1,
        shard: tuple[int, int, int] = (0, 1, 1),
        start: tuple[int, int] = (0, 0),
    ):
        self.workers, self.start = workers, start
        self.shard, self.ranks = shard, shard[1]
        self.failure: Exception | None = None
        self.bad_pictures: dict[str, str] = {}
        self.views = {"drone": drone, "satellite": satellite}
        self._pair_P2, self._weight_P = pair_P2, weight_P
        self._sampler, self._settings, self._seed, self.skip_bad = sampler, settings, seed, skip_bad
        self._looked_at: dict[Path, bool] = {}  # path -> it is good
        self._lock = threading.Lock()
        self._plans: dict[int, EpochPlan] = {}
        self._position = start
        self._recent: deque[int] = deque(maxlen=4096)  # pairs handed over, for finding a picture that C++ refuses
        steps, self.rows = self.plan(start[0]).shard(*shard).shape
        if not 0 <= start[1] < steps:
            raise ValueError(f"epoch {start[0]} has {steps} steps, none is {start[1]}; start with the next epoch")

    def plan(self, epoch: int) -> EpochPlan:
        """The sampler's plan of an epoch; the last few are kept."""
        with self._lock:
            if epoch not in self._plans:
                self._plans[epoch] = self._sampler.plan(epoch)
                for old in sorted(self._plans)[:-3]:
                    if old != epoch:
                        del self._plans[old]
            return self._plans[epoch]

    @property
    def augmented(self) -> bool:
        """Pictures leave as uint8 (H, W, 3) of the input size, changed; else as bytes, or cropped where a border is."""
        return self._settings is not None

    def recent_paths(self) -> Iterator[Path]:
        """Files handed over lately, the latest first; not those that were skipped."""
        for pair in reversed(self._recent):
            yield from (path for path in self._paths(pair) if str(path) not in self.bad_pictures)

    def __iter__(self) -> Iterator[tuple]:
        epoch, first_step = self._position  # runs at the first next(): an iterator that is never used costs no epoch
        self._position = (epoch + 1, 0)
        try:
            yield from self._epoch(epoch, first_step)
        except Exception as error:
            self.failure = error  # MindSpore reports it as text only
            raise

    def _epoch(self, epoch: int, first_step: int) -> Iterator[tuple]:
        plan = self.plan(epoch)
        steps = list(zip(plan.pair_SB[first_step:], plan.shard(*self.shard)[first_step:], strict=True))
        cv2.setNumThreads(1)  # our threads are the parallelism
        with ThreadPoolExecutor(usable_workers(self.workers), thread_name_prefix="pictures") as pool:
            try:
                ahead = 1 + _ROWS_AHEAD_PER_WORKER * self.workers // self.rows
                loaded = _ahead(steps, ahead, self._submit(pool, epoch))
                for step, ((pair_G, _), pictures) in enumerate(loaded, first_step):
                    yield from self._rows_of_step(pair_G, [picture.result() for picture in pictures], epoch, step)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, pool: ThreadPoolExecutor, epoch: int) -> Callable[[tuple], list[Future]]:
        def submit(step: tuple[np.ndarray, np.ndarray]) -> list[Future]:
            pair_G, pair_B = step
            if self.skip_bad and self.ranks > 1:
                for pair in pair_G:
                    pool.submit(self._is_good, pair)  # other ranks' rows: the answer is kept
            return [pool.submit(self._pictures, epoch, int(pair)) for pair in pair_B]

        return submit

    def _rows_of_step(self, pair_G: np.ndarray, pictures: list, epoch: int, step: int) -> Iterator[tuple]:
        good_G = pair_G != PADDING
        if self.skip_bad:
            good_G = good_G & [self._is_good(pair) for pair in pair_G]
            if not good_G.any():
                path, problem = next(iter(self.bad_pictures.items()))
                raise ImageError(f"epoch {epoch}, step {step}: no pair of the batch has two good pictures; {problem}")
        weight_G = np.where(good_G, self._weight_P[pair_G], 0).astype(np.float32)
        mask_GG = self._sampler.mask(pair_G) & good_G[:, None] & good_G[None, :]
        self._recent.extend(pair_G[pair_G != PADDING].tolist())
        for row, (drone, satellite) in enumerate(pictures):
            own = row if self.ranks == 1 else slice(row * self.ranks, (row + 1) * self.ranks)
            yield drone, satellite, weight_G[own], mask_GG[own]

    def _pictures(self, epoch: int, pair: int) -> tuple[np.ndarray, np.ndarray]:
        """Both pictures of a pair as this stream hands them over; black ones for padding and bad files."""
        if pair == PADDING or (self.skip_bad and not self._is_good(pair)):
            return tuple(_black(self.views[view].size_px, encoded=self._as_bytes(view)) for view in VIEWS)
        if self._settings is None:
            return tuple(
                _load(path, self.views[view].cut_border) for view, path in zip(VIEWS, self._paths(pair), strict=True)
            )
        changes = draw_augmentation(self._seed, epoch, pair, self._settings)
        return tuple(
            augment(_load_image(path, self.views[view].cut_border), getattr(changes, view), self.views[view].size_px)
            for view, path in zip(VIEWS, self._paths(pair), strict=True)
        )

    def _as_bytes(self, view: str) -> bool:
        return self._settings is None and not self.views[view].cut_border

    def _paths(self, pair: int) -> list[Path]:
        return [self.views[view].paths[file] for view, file in zip(VIEWS, self._pair_P2[pair], strict=True)]

    def _is_good(self, pair: int) -> bool:
        if pair == PADDING:
            return True
        whole = [self._is_whole(path) for path in self._paths(pair)]  # a list: both files are looked at and counted
        return all(whole)

    def _is_whole(self, path: Path) -> bool:
        if path not in self._looked_at:
            problem = _problem(path)
            with self._lock:
                if problem is not None and str(path) not in self.bad_pictures:
                    self.bad_pictures[str(path)] = problem
                self._looked_at[path] = problem is None
        return self._looked_at[path]


class FileStream:
    """One row per file, then black pictures up to ``rows``."""

    def __init__(self, files: ViewFiles, rows: int, workers: int):
        self.failure: Exception | None = None
        self._files, self._rows, self._workers = files, rows, workers

    def __iter__(self) -> Iterator[tuple[np.ndarray]]:
        cut, paths = self._files.cut_border, self._files.paths
        with ThreadPoolExecutor(usable_workers(self._workers), thread_name_prefix="pictures") as pool:
            try:
                ahead = _ROWS_AHEAD_PER_WORKER * self._workers
                for _, picture in _ahead(paths, ahead, lambda path: pool.submit(_load, path, cut)):
                    yield (picture.result(),)
            except ImageError as error:
                self.failure = error
                raise
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        for _ in range(self._rows - len(paths)):
            yield (_black(self._files.size_px, encoded=not cut),)


def _ahead(items: Sequence, count: int, start: Callable[[Any], Any]) -> Iterator[tuple[Any, Any]]:
    """(item, start(item)) in order, with ``count`` further items already started."""
    started: deque = deque()
    for item in items:
        started.append((item, start(item)))
        if len(started) > count:
            yield started.popleft()
    yield from started


def _load(path: Path, cut: float) -> np.ndarray:
    """The file's bytes, or with a border to cut the pixels that are left."""
    return _load_image(path, cut) if cut else read_bytes(path)


def _load_image(path: Path, cut: float) -> np.ndarray:
    return np.ascontiguousarray(cut_border(decode(read_bytes(path), path), cut))


def _black(size_px: tuple[int, int], encoded: bool) -> np.ndarray:
    if encoded:
        return cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1].reshape(-1)
    return np.zeros((*size_px, 3), np.uint8)


def _problem(path: Path) -> str | None:
    try:
        check_decodes(path)
    except ImageError as error:
        return str(error)
    return None


def first_undecodable(paths: Iterable[Path]) -> ImageError | None:
    """What is wrong with the first file that does not decode; None when all do."""
    for path in paths:
        try:
            check_decodes(path)
        except ImageError as error:
            return error
    return None


def usable_workers(asked: int) -> int:
    """Never more than the cores: MindSpore refuses, and more would only wait."""
    return max(1, min(asked, len(usable_cores()), os.cpu_count() or 1))
