"""All pictures of a world: satellite tiles and drone frames."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from mindloc.errors import DataError
from mindloc.geo.tiles import OFFSET_UNITS
from mindloc.world.buildings import park_cars
from mindloc.world.camera_look import apply_look, draw_look, satellite_look
from mindloc.world.drone_view import build_levels, photograph
from mindloc.world.frames import Frames
from mindloc.world.landscape import build_layers
from mindloc.world.map_layers import MapLayers
from mindloc.world.meta_files import DRONE_FOLDER, SATELLITE_FOLDER, tile_files
from mindloc.world.painting import Noise, draw_noise, paint
from mindloc.world.pairs import Gallery
from mindloc.world.seasons import DRONE_SEASONS, SATELLITE_SEASON, Scenery, draw_scenery
from mindloc.world.spec import WorldSpec
from mindloc.world.town_plan import Plan, draw_plan

JPEG_QUALITY = 92
PNG_COMPRESSION = 1  # pictures are noisy: more costs time and saves little

# numbers that keep the random streams of one seed apart; 1 and 2 belong to frames.py
(
    _STREAM_PLAN,
    _STREAM_LAYERS,
    _STREAM_NOISE,
    _STREAM_SEASON,
    _STREAM_LOOK,
    _STREAM_TILE,
    _STREAM_FRAME,
    _STREAM_BUILT,
) = range(11, 19)

Progress = Callable[[str, int, int], None]


def write_pictures(
    root: Path, spec: WorldSpec, frames: Frames, gallery: Gallery, progress: Progress, workers: int
) -> None:
    """Paint the map and write every tile and frame below ``root``.

    Raises:
        DataError: a picture can't be written.
    """
    (root / SATELLITE_FOLDER).mkdir()
    (root / DRONE_FOLDER).mkdir(parents=True)
    with _one_cv2_thread():
        progress("map", 0, 2)
        plan = draw_plan(spec.map_m, _rng(spec, _STREAM_PLAN))
        progress("map", 1, 2)
        layers = build_layers(plan, spec.map_px, spec.m_per_px, _rng(spec, _STREAM_LAYERS))
        noise = draw_noise(spec.map_m, spec.m_per_px, _rng(spec, _STREAM_NOISE))
        progress("map", 2, 2)
        _write_tiles(root, spec, gallery, plan, layers, noise, progress, workers)
        _write_frames(root, spec, frames, plan, layers, noise, progress, workers)


def _rng(spec: WorldSpec, *stream: int) -> np.random.Generator:
    return np.random.default_rng([spec.seed, *stream])


@contextmanager
def _one_cv2_thread():
    """Our own threads share the work; cv2's would get in their way."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _in_season(spec: WorldSpec, number: int, season, plan: Plan, layers: MapLayers, noise: Noise, workers: int):
    """The map as it stands in one season, cars included: layers, scenery, picture."""
    layers = layers.copy()
    park_cars(layers, plan, _rng(spec, _STREAM_SEASON, number, 0))
    scenery = draw_scenery(season, _rng(spec, _STREAM_SEASON, number, 1), _rng(spec, _STREAM_BUILT))
    return layers, scenery, paint(layers, scenery, noise, workers)


def _write_tiles(
    root: Path,
    spec: WorldSpec,
    gallery: Gallery,
    plan: Plan,
    layers: MapLayers,
    noise: Noise,
    progress: Progress,
    workers: int,
) -> None:
    _, _, picture = _in_season(spec, 0, SATELLITE_SEASON, plan, layers, noise, workers)
    look = satellite_look(_rng(spec, _STREAM_LOOK))
    names = tile_files(spec, gallery)

    def write_one(index: int) -> None:
        tile = cut_tile(picture, gallery.tile_T4[index], spec.tile_size_px)
        tile = apply_look(tile, look, _rng(spec, _STREAM_TILE, index), stray=0)
        _write_picture(root / SATELLITE_FOLDER / names[index], tile)

    _run("tiles", write_one, range(len(names)), 0, len(names), progress, workers)


def cut_tile(picture, tile_4, size_px: int) -> np.ndarray:
    """Cut one tile (zoom, offset, x, y) out of the map's picture and bring it to size."""
    zoom, offset, x, y = (int(value) for value in tile_4)
    side = picture.shape[0] / 2**zoom
    left, top = (side * (column + offset / OFFSET_UNITS) for column in (x, y))
    x0, y0, x1, y1 = (round(edge) for edge in (left, top, left + side, top + side))
    part = picture[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    shrinks = part.shape[0] >= size_px
    return cv2.resize(part, (size_px, size_px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def _write_frames(
    root: Path,
    spec: WorldSpec,
    frames: Frames,
    plan: Plan,
    layers: MapLayers,
    noise: Noise,
    progress: Progress,
    workers: int,
) -> None:
    """Season by season, so that one painted map is held at a time."""
    poses, axes_F33 = frames.poses, frames.poses.axes()
    coarsest = 2 * float(poses.height_F.max()) * spec.half_width_tan / spec.drone_size_px[1] * 1.15
    done = 0
    for number, season in enumerate(DRONE_SEASONS):
        chosen = np.flatnonzero(poses.flight_F % len(DRONE_SEASONS) == number)
        if not len(chosen):
            continue
        season_layers, scenery, picture = _in_season(spec, 1 + number, season, plan, layers, noise, workers)
        levels = build_levels(picture, season_layers, coarsest)

        def write_one(index: int, levels=levels, scenery: Scenery = scenery) -> None:
            shot = photograph(
                levels,
                scenery.sun_3,
                poses.place_F2[index],
                poses.height_F[index],
                axes_F33[index],
                spec.drone_size_px,
                spec.half_width_tan,
            )
            look = draw_look(_rng(spec, _STREAM_LOOK, 1 + int(poses.flight_F[index])))
            shot = apply_look(shot, look, _rng(spec, _STREAM_FRAME, int(index)))
            _write_picture(root / DRONE_FOLDER / frames.names[index], shot)

        _run("drone frames", write_one, chosen.tolist(), done, len(poses), progress, workers)
        done += len(chosen)


def _run(stage: str, work, items, done: int, total: int, progress: Progress, workers: int) -> None:
    """Do the work in threads and tell how far it is."""
    with ThreadPoolExecutor(workers) as pool:
        for count, _ in enumerate(pool.map(work, items), start=1):
            if count % 50 == 0 or done + count == total:
                progress(stage, done + count, total)


def _write_picture(path: Path, picture) -> None:
    options = (
        [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION]
        if path.suffix == ".png"
        else [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    encoded, data = cv2.imencode(path.suffix, picture, options)
    if not encoded:
        raise DataError(f"OpenCV can't encode {path.name}; choose png or jpg")
    path.write_bytes(data.tobytes())
