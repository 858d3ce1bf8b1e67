"""All images of a world: the map is painted as seen from above in one season, then cut into tiles or photographed.

The map is painted in blocks of fixed size with tints, noise, rows of crops, slopes and shadows. Each block is a pure
function of the layers around it, so the result does not depend on the number of threads.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mindloc.errors import DataError
from mindloc.geo.tiles import OFFSET_UNITS
from mindloc.world.buildings import park_cars
from mindloc.world.camera import apply_look, build_levels, draw_look, photograph, satellite_look
from mindloc.world.frames import DRONE_DIRECTORY, SATELLITE_DIRECTORY, Frames, Gallery, tile_files
from mindloc.world.ground import build_layers
from mindloc.world.materials import is_one_of, strengths
from mindloc.world.seasons import DRONE_SEASONS, SATELLITE_SEASON, Scenery, draw_scenery
from mindloc.world.spec import WorldSpec
from mindloc.world.town import DETAIL_NEUTRAL, MapLayers, Plan, draw_plan

BLOCK_PX = 512
_GRAIN_PX = 1024  # the fine noise repeats after this many pixels; a multiple of BLOCK_PX
_PATCH_CELL_M = 5.0  # size of a pixel of the coarse noise

_GRAIN = strengths("grain")
_PATCH = strengths("patch")
_ROWS = is_one_of(("crop", "soil", "meadow"))
_LIVING = is_one_of(("meadow", "lawn", "crop", "undergrowth", "tree", "bush", "bank"))

JPEG_QUALITY = 92
PNG_COMPRESSION = 1  # images are noisy: a higher level costs time and saves little

# numbers of random streams, different for each purpose; 1 and 2 are used in frames.py
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

ReportProgress = Callable[[str, int, int], None]  # stage, done, total


@dataclass(frozen=True)
class Noise:
    """The noise that a world is painted with; mean 0, standard deviation about 1.

    Args:
        grain: fine noise, (1024, 1024) float32, repeated over the map without a seam.
        patch: coarse noise, (cells, cells, 2) float32 over the whole map: lightness, dryness.
    """

    grain: np.ndarray
    patch: np.ndarray


def draw_noise(map_m: float, m_per_px: float, rng: np.random.Generator) -> Noise:
    """Draw fine noise with structures of about a meter, and coarse noise with structures of 15 m and more."""
    white = rng.normal(0, 1, (_GRAIN_PX, _GRAIN_PX)).astype(np.float32)
    grain = sum(
        weight * _normal(_wrapped_blur(white if octave == 0 else np.roll(white, 37 * octave, (0, 1)), size / m_per_px))
        for octave, (weight, size) in enumerate(((0.6, 0.2), (0.55, 0.6), (0.5, 1.7)))
    )
    cells = int(np.ceil(map_m / _PATCH_CELL_M)) + 4
    patch = np.stack([_fractal(cells, rng) for _ in range(2)], axis=2)
    return Noise(_normal(grain).astype(np.float32), patch)


def _normal(values) -> np.ndarray:
    return (values - values.mean()) / values.std()


def _wrapped_blur(image, sigma: float) -> np.ndarray:
    """Gaussian blur of an image whose opposite edges are joined."""
    pad = int(4 * sigma) + 2
    return cv2.GaussianBlur(np.pad(image, pad, mode="wrap"), (0, 0), max(sigma, 0.3))[pad:-pad, pad:-pad]


def _fractal(cells: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of several octaves, (cells, cells) float32."""
    total = np.zeros((cells, cells), np.float32)
    for step, weight in ((48, 0.7), (20, 0.8), (8, 0.7), (3, 0.5)):
        side = cells // step + 4
        coarse = rng.normal(0, 1, (side, side)).astype(np.float32)
        large = cv2.resize(coarse, (side * step, side * step), interpolation=cv2.INTER_CUBIC)
        total += weight * large[step : step + cells, step : step + cells]
    return _normal(total).astype(np.float32)


def no_progress(stage: str, done: int, total: int) -> None:
    """A ``ReportProgress`` that does nothing."""


def paint(
    layers: MapLayers, scenery: Scenery, noise: Noise, workers: int, progress: ReportProgress = no_progress
) -> np.ndarray:
    """Paint the whole map: (map_px, map_px, 3) uint8, channels blue, green, red as cv2 writes them."""
    size = layers.material.shape[0]
    image = np.empty((size, size, 3), np.uint8)
    corners = [(top, left) for top in range(0, size, BLOCK_PX) for left in range(0, size, BLOCK_PX)]

    def paint_one(corner):
        top, left = corner
        block = _paint_block(layers, scenery, noise, top, left)
        image[top : top + BLOCK_PX, left : left + BLOCK_PX] = block

    _run("painting", paint_one, corners, 0, len(corners), progress, workers)
    return image


def _paint_block(layers: MapLayers, scenery: Scenery, noise: Noise, top: int, left: int) -> np.ndarray:
    """Paint one block: (rows, columns, 3) uint8 BGR."""
    size = layers.material.shape[0]
    rows, columns = min(BLOCK_PX, size - top), min(BLOCK_PX, size - left)
    margin = 4
    material = _padded(layers.material, top, left, rows, columns, margin)
    detail = _padded(layers.detail, top, left, rows, columns, margin)
    color = scenery.color_256x3[material]
    color = _with_rows(color, material, detail, scenery)
    color *= _lightness(material, noise, layers.m_per_px, top, left, margin)[..., None]
    color = _with_dryness(color, material, noise, layers.m_per_px, top, left, margin)
    color = cv2.GaussianBlur(color, (0, 0), 0.55)[margin:-margin, margin:-margin]
    color *= light_on(layers, scenery, top, left, rows, columns)
    return np.clip(color[..., ::-1], 0, 255).astype(np.uint8)


def _padded(layer, top: int, left: int, rows: int, columns: int, margin: int) -> np.ndarray:
    """A window of a layer with a margin; beyond the map, the pixels at its edge are repeated."""
    size = layer.shape[0]
    y0, y1, x0, x1 = top - margin, top + rows + margin, left - margin, left + columns + margin
    part = layer[max(y0, 0) : min(y1, size), max(x0, 0) : min(x1, size)]
    return cv2.copyMakeBorder(
        part, max(-y0, 0), max(y1 - size, 0), max(-x0, 0), max(x1 - size, 0), cv2.BORDER_REPLICATE
    )


def _with_rows(color, material, detail, scenery: Scenery) -> np.ndarray:
    """The color with the detail applied: soil between the rows on fields, lighter or darker elsewhere."""
    value = (detail.astype(np.float32) - DETAIL_NEUTRAL) / DETAIL_NEUTRAL
    soil = np.where(_ROWS[material], np.clip(-value * 2.2 * scenery.season.row_contrast, 0, 0.9), 0).astype(np.float32)
    color = color + soil[..., None] * (np.float32(scenery.season.soil) - color)
    return color * (1 + 0.7 * np.where(_ROWS[material], np.maximum(value, -0.12), value))[..., None]


def _lightness(material, noise: Noise, m_per_px: float, top: int, left: int, margin: int) -> np.ndarray:
    rows, columns = material.shape
    y = np.arange(top - margin, top - margin + rows) % _GRAIN_PX
    x = np.arange(left - margin, left - margin + columns) % _GRAIN_PX
    grain = noise.grain[np.ix_(y, x)]
    patch = _coarse(noise.patch[..., 0], m_per_px, top - margin, left - margin, rows, columns)
    return np.maximum(1 + _GRAIN[material] * grain + 0.5 * _PATCH[material] * patch, 0.2)


def _with_dryness(color, material, noise: Noise, m_per_px: float, top: int, left: int, margin: int) -> np.ndarray:
    """The color with the coarse noise of dryness applied: plants are yellower on dry ground, greener on wet ground."""
    dry = _coarse(noise.patch[..., 1], m_per_px, top - margin, left - margin, *material.shape)
    dry = np.where(_LIVING[material], 0.06 * dry, 0).astype(np.float32)
    return color * (1 + dry[..., None] * np.float32([1.0, 0.25, -0.35]))


def _coarse(patch, m_per_px: float, top: int, left: int, rows: int, columns: int) -> np.ndarray:
    """The coarse noise under a window of the map."""
    scale = m_per_px / _PATCH_CELL_M
    move = np.float64([[scale, 0, (left + 0.5) * scale + 1], [0, scale, (top + 0.5) * scale + 1]])
    return cv2.warpAffine(
        patch, move, (columns, rows), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    )


def light_on(layers: MapLayers, scenery: Scenery, top: int, left: int, rows: int, columns: int) -> np.ndarray:
    """Fraction of full light that each pixel gets by its slope and by shadows, (rows, columns, 3) float32."""
    shadow = cast_shadow(layers, scenery.sun_3, top, left, rows, columns)
    slope = _slope_light(layers, scenery.sun_3, top, left, rows, columns)
    left_over = np.float32(scenery.season.shadow)
    lit = slope[..., None] * (1 - shadow[..., None] * (1 - left_over))
    return lit.astype(np.float32)


def _slope_light(layers: MapLayers, sun_3, top: int, left: int, rows: int, columns: int) -> np.ndarray:
    """Light on each pixel by the angle of its slope to the sun; 1 on flat ground."""
    margin = 6
    height_m = _padded(layers.height_cm, top, left, rows, columns, margin).astype(np.float32) * np.float32(0.01)
    height_m = cv2.GaussianBlur(height_m, (0, 0), 0.6)
    scale = 1 / (8 * layers.m_per_px)
    east = np.clip(cv2.Sobel(height_m, cv2.CV_32F, 1, 0, ksize=3, scale=scale), -1.3, 1.3)
    south = np.clip(cv2.Sobel(height_m, cv2.CV_32F, 0, 1, ksize=3, scale=scale), -1.3, 1.3)
    facing = (sun_3[2] - east * sun_3[0] - south * sun_3[1]) / np.sqrt(1 + east**2 + south**2)
    ambient = 0.42
    light = ambient + (1 - ambient) * np.maximum(facing, 0) / sun_3[2]
    light = cv2.GaussianBlur(np.minimum(light, 1.35), (0, 0), 0.6)  # without blur, eaves would look like stairs
    return light[margin:-margin, margin:-margin]


def cast_shadow(layers: MapLayers, sun_3, top: int, left: int, rows: int, columns: int) -> np.ndarray:
    """Fraction of each pixel that is in shadow, (rows, columns) float32 0..1.

    A pixel is in shadow if, at some distance toward the sun, the surface is higher than the sun's ray to the pixel.
    """
    tangent = sun_3[2] / np.hypot(sun_3[0], sun_3[1])
    reach_px = 24.0 / tangent / layers.m_per_px  # roofs and trees stay below 24 m
    near = _padded(layers.height_cm, top, left, rows, columns, int(reach_px) + 4)
    reach_px = min(reach_px, float(near.max()) / 100 / tangent / layers.m_per_px)
    margin = int(24.0 / tangent / layers.m_per_px) + 4
    pad = 3
    here = near[margin - pad : margin + rows + pad, margin - pad : margin + columns + pad]
    toward = np.array([sun_3[0], sun_3[1]]) / np.hypot(sun_3[0], sun_3[1])
    highest = np.zeros_like(here)
    for step in np.arange(1.0, reach_px + 1, 1.0 if reach_px < 24 else 1.5):
        x, y = np.round(step * toward).astype(int) + margin - pad
        ahead = near[y : y + here.shape[0], x : x + here.shape[1]]
        drop_cm = int(step * layers.m_per_px * tangent * 100)
        np.maximum(highest, cv2.subtract(ahead, np.full(1, drop_cm, np.float64)), out=highest)
    dark = (highest > here + 25).astype(np.float32)
    return cv2.GaussianBlur(dark, (0, 0), 0.8)[pad:-pad, pad:-pad]


def write_images(
    root: Path, spec: WorldSpec, frames: Frames, gallery: Gallery, progress: ReportProgress, workers: int
) -> None:
    """Paint the map and write every tile and every drone image below ``root``.

    Raises:
        DataError: an image can't be written.
    """
    (root / SATELLITE_DIRECTORY).mkdir()
    (root / DRONE_DIRECTORY).mkdir(parents=True)
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
    """Context in which cv2 uses one thread, since our own threads share the work."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _in_season(
    spec: WorldSpec,
    number: int,
    season,
    plan: Plan,
    layers: MapLayers,
    noise: Noise,
    progress: ReportProgress,
    workers: int,
):
    """The map in one season, including its cars: layers, scenery, painted image."""
    layers = layers.copy()
    park_cars(layers, plan, _rng(spec, _STREAM_SEASON, number, 0))
    scenery = draw_scenery(season, _rng(spec, _STREAM_SEASON, number, 1), _rng(spec, _STREAM_BUILT))
    return layers, scenery, paint(layers, scenery, noise, workers, progress)


def _write_tiles(
    root: Path,
    spec: WorldSpec,
    gallery: Gallery,
    plan: Plan,
    layers: MapLayers,
    noise: Noise,
    progress: ReportProgress,
    workers: int,
) -> None:
    _, _, image = _in_season(spec, 0, SATELLITE_SEASON, plan, layers, noise, progress, workers)
    look = satellite_look(_rng(spec, _STREAM_LOOK))
    names = tile_files(spec, gallery)

    def write_one(index: int) -> None:
        tile = cut_tile(image, gallery.tile_T4[index], spec.tile_size_px)
        tile = apply_look(tile, look, _rng(spec, _STREAM_TILE, index), stray=0)
        _write_image(root / SATELLITE_DIRECTORY / names[index], tile)

    _run("tiles", write_one, range(len(names)), 0, len(names), progress, workers)


def cut_tile(image, tile_4, size_px: int) -> np.ndarray:
    """Cut one tile (zoom, offset, x, y) out of the image of the map and resize it to ``size_px``."""
    zoom, offset, x, y = (int(value) for value in tile_4)
    side = image.shape[0] / 2**zoom
    left, top = (side * (column + offset / OFFSET_UNITS) for column in (x, y))
    x0, y0, x1, y1 = (round(edge) for edge in (left, top, left + side, top + side))
    part = image[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    shrinks = part.shape[0] >= size_px
    return cv2.resize(part, (size_px, size_px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def _write_frames(
    root: Path,
    spec: WorldSpec,
    frames: Frames,
    plan: Plan,
    layers: MapLayers,
    noise: Noise,
    progress: ReportProgress,
    workers: int,
) -> None:
    """Write all drone images, season by season, so that only one painted map is in memory at a time."""
    poses, axes_F33 = frames.poses, frames.poses.axes()
    coarsest = 2 * float(poses.height_F.max()) * spec.half_width_tan / spec.drone_size_px[1] * 1.15
    done = 0
    for number, season in enumerate(DRONE_SEASONS):
        chosen = np.flatnonzero(poses.flight_F % len(DRONE_SEASONS) == number)
        if not len(chosen):
            continue
        season_layers, scenery, image = _in_season(spec, 1 + number, season, plan, layers, noise, progress, workers)
        levels = build_levels(image, season_layers, coarsest)

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
            _write_image(root / DRONE_DIRECTORY / frames.names[index], shot)

        _run("drone images", write_one, chosen.tolist(), done, len(poses), progress, workers)
        done += len(chosen)


def _run(stage: str, work, items, done: int, total: int, progress: ReportProgress, workers: int) -> None:
    """Do the work in threads and report its progress."""
    with ThreadPoolExecutor(workers) as pool:
        progress(stage, done, total)
        for count, _ in enumerate(pool.map(work, items), start=1):
            progress(stage, done + count, total)


def _write_image(path: Path, image) -> None:
    options = (
        [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION]
        if path.suffix == ".png"
        else [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    encoded, data = cv2.imencode(path.suffix, image, options)
    if not encoded:
        raise DataError(f"OpenCV can't encode {path.name}; choose png or jpg")
    path.write_bytes(data.tobytes())
