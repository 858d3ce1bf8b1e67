"""Drawing of a map's layers: first the ground, then the buildings (buildings.py), then trees and bushes.

The ground is fields with their rows, tracks, the river and roads with their markings. Trees are drawn by copying one of
a few prepared crowns to each place.
"""

import cv2
import numpy as np

from mindloc.world.buildings import build_on_parcels
from mindloc.world.materials import ROOFS, is_one_of, numbers
from mindloc.world.town import DETAIL_NEUTRAL, MapLayers, Parcel, Plan, Road, empty_layers, ribbon

_GROUND = {
    "residential": "lawn",
    "apartments": "lawn",
    "industrial": "concrete",
    "park": "lawn",
    "sports": "lawn",
    "crop": "crop",
    "meadow": "meadow",
    "forest": "undergrowth",
    "orchard": "meadow",
    "fallow": "soil",
    "farm": "track",
}
_SIZES_M = np.array([0.8, 1.1, 1.5, 2.0, 2.5, 3.0, 3.6, 4.3, 5.1, 6.0])  # crown radii
_VARIANTS = 6
_NO_ROOM = is_one_of((*ROOFS, "water", "asphalt", "pool", "marking", "court"))


def build_layers(plan: Plan, map_px: int, m_per_px: float, rng: np.random.Generator) -> MapLayers:
    """Draw the layers of a map without cars, which differ between seasons."""
    layers = empty_layers(map_px, m_per_px, numbers("meadow")[0])
    cover_ground(layers, plan, rng)
    build_on_parcels(layers, plan, rng)
    plant(layers, plan, Woods(m_per_px, rng), rng)
    return layers


def cover_ground(layers: MapLayers, plan: Plan, rng: np.random.Generator) -> None:
    """Draw everything flat, from the fields up to the road markings."""
    for parcel in plan.parcels:
        _cover(layers, parcel, rng)
    _draw_tracks(layers, plan, rng)
    _draw_river(layers, plan, rng)
    _draw_roads(layers, plan, rng)


def _cover(layers: MapLayers, parcel: Parcel, rng: np.random.Generator) -> None:
    """Draw the ground of one parcel, with the rows of its crop."""
    layers.fill(parcel.outline_N2, rng.choice(numbers(_GROUND[parcel.use])))
    if parcel.use not in ("crop", "fallow", "meadow", "orchard"):
        return
    window = layers.window(parcel.outline_N2)
    if window is None:
        return
    slices, x_m, y_m = window
    angle = parcel.angle + (np.pi / 2 if rng.random() < 0.2 else 0)
    across = y_m * np.float32(np.cos(angle)) - x_m * np.float32(np.sin(angle))
    across += np.float32(rng.uniform(0.5, 2.5)) * np.sin((x_m + y_m) * np.float32(2 * np.pi / rng.uniform(90, 240)))
    detail = _rows(across, parcel.use, rng)
    layers.detail[slices][layers.mask(slices, parcel.outline_N2)] = detail[layers.mask(slices, parcel.outline_N2)]


def _rows(across, use: str, rng: np.random.Generator) -> np.ndarray:
    """Detail of the rows and wheel tracks of a field; ``across`` is each pixel's coordinate across the rows, meters."""
    depth = {"crop": rng.uniform(4, 38), "fallow": rng.uniform(4, 22)}.get(use, rng.uniform(0, 4))
    value = depth * np.sin(across * np.float32(2 * np.pi / rng.uniform(1.5, 3.6)))
    swath = rng.uniform(9, 21)
    place = np.mod(across, np.float32(swath))
    shade = rng.normal(0, rng.uniform(0.5, 4.5), 997).astype(np.float32)  # each pass of the machine differs a little
    value += shade[np.floor(across / np.float32(swath)).astype(np.int32) % 997]
    if use == "crop" and rng.random() < 0.7:
        value -= 26 * ((np.abs(place - swath / 2 + 0.9) < 0.3) | (np.abs(place - swath / 2 - 0.9) < 0.3))
    return np.clip(DETAIL_NEUTRAL + value, 0, 255).astype(np.uint8)


def _draw_tracks(layers: MapLayers, plan: Plan, rng: np.random.Generator) -> None:
    for road in plan.roads:
        if road.kind == "track":
            layers.stroke(road.line_N2, road.width_m + 1.6, rng.choice(numbers("meadow")))
            layers.stroke(road.line_N2, road.width_m, rng.choice(numbers("track")))
            layers.stroke(road.line_N2, road.width_m * 0.3, rng.choice(numbers("meadow")))


def _draw_river(layers: MapLayers, plan: Plan, rng: np.random.Generator) -> None:
    """Draw the river with uneven banks."""
    line_N2, half_N = plan.river_line_N2, plan.river_half_width_N
    ragged = half_N + rng.uniform(3, 7) + rng.normal(0, 1.2, len(half_N))
    meadow, bank, water = (int(rng.choice(numbers(name))) for name in ("meadow", "bank", "water"))
    layers.fill_all(ribbon(line_N2, ragged + 6), meadow, DETAIL_NEUTRAL)
    layers.fill_all(ribbon(line_N2, ragged - 2), bank, DETAIL_NEUTRAL)
    layers.fill_all(ribbon(line_N2, half_N), water, DETAIL_NEUTRAL)


def _draw_roads(layers: MapLayers, plan: Plan, rng: np.random.Generator) -> None:
    """Draw streets, which end at the water, and main roads, which cross it on bridges. All kerbs are drawn before the
    asphalt, so that no kerb crosses a road at a junction.
    """
    water = np.isin(layers.material, numbers("water"))
    paved = [
        (road, int(rng.choice(numbers("asphalt"))), int(rng.choice(numbers("concrete"))))
        for road in sorted(plan.roads, key=lambda road: road.kind != "street")
        if road.kind != "track"
    ]
    for road, _, kerb in paved:
        layers.stroke(road.line_N2, road.width_m + (3.2 if road.kind == "street" else 1.6), kerb)
    for road, asphalt, _ in paved:
        if road.kind == "street":
            layers.stroke(road.line_N2, road.width_m, asphalt, round_ends=True)
    layers.material[water] = numbers("water")[0]
    for road, _, kerb in paved:
        if road.kind == "main":
            layers.stroke(road.line_N2, road.width_m + 1.6, kerb)
    for road, asphalt, _ in paved:
        if road.kind == "main":
            layers.stroke(road.line_N2, road.width_m, asphalt, round_ends=True)
    for road, _, _ in paved:
        if road.kind == "main":
            _mark_middle(layers, road)


def _mark_middle(layers: MapLayers, road: Road) -> None:
    """Draw dashes of 3 m with gaps of 6 m along the middle of a road."""
    step_N = np.hypot(*np.diff(road.line_N2, axis=0).T)
    along_N = np.concatenate([[0], np.cumsum(step_N)])
    start = np.arange(0, along_N[-1] - 3, 9.0)
    for one, two in zip(start, start + 3, strict=True):
        ends = [[np.interp(at, along_N, road.line_N2[:, axis]) for axis in (0, 1)] for at in (one, two)]
        layers.fill_all(ribbon(np.array(ends), 0.16), numbers("marking")[0], None)


class Woods:
    """Prepared tree crowns of several sizes and shapes: height of the crown's surface as a fraction of the tree's."""

    def __init__(self, m_per_px: float, rng: np.random.Generator):
        self.m_per_px = m_per_px
        self.crowns = [[_crown(radius / m_per_px, rng) for _ in range(_VARIANTS)] for radius in _SIZES_M]

    def stamp(self, layers: MapLayers, place_N2, radius_N, height_N, number_N, variant_N) -> None:
        """Draw trees at places in meters; where crowns overlap, the higher surface is visible."""
        size_N = np.abs(np.asarray(radius_N)[:, None] - _SIZES_M).argmin(axis=1)
        pixel_N2 = np.floor(np.asarray(place_N2) / self.m_per_px).astype(int)
        rows = zip(
            pixel_N2.tolist(),
            size_N.tolist(),
            variant_N.tolist(),
            (np.asarray(height_N) * 100).tolist(),
            number_N.tolist(),
            strict=True,
        )
        for (x, y), size, variant, height_cm, number in rows:
            self._stamp_one(layers, x, y, self.crowns[size][variant], height_cm, number)

    @staticmethod
    def _stamp_one(layers: MapLayers, x: int, y: int, crown, height_cm: float, number: int) -> None:
        reach, size = crown.shape[0] // 2, layers.material.shape[0]
        top, bottom, left, right = (
            max(y - reach, 0),
            min(y + reach + 1, size),
            max(x - reach, 0),
            min(x + reach + 1, size),
        )
        if top >= bottom or left >= right:
            return
        part = crown[top - y + reach : bottom - y + reach, left - x + reach : right - x + reach]
        height = (part * np.float32(height_cm)).astype(np.uint16)
        rows, columns = slice(top, bottom), slice(left, right)
        wins = height > layers.height_cm[rows, columns]
        layers.height_cm[rows, columns][wins] = height[wins]
        layers.material[rows, columns][wins] = number
        layers.detail[rows, columns][wins] = DETAIL_NEUTRAL


def _crown(radius_px: float, rng: np.random.Generator) -> np.ndarray:
    """A dome with an uneven surface and a ragged outline, 0 outside it; float32, the side is odd."""
    reach = int(np.ceil(radius_px * 1.3))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    turn = np.arctan2(y, x)
    ragged = 1 + sum(rng.uniform(0.02, 0.12) * np.sin(waves * turn + rng.uniform(0, 6.3)) for waves in (2, 3, 5, 7))
    away = np.hypot(x, y) / (radius_px * ragged)
    lumps = cv2.GaussianBlur(rng.normal(0, 1, x.shape).astype(np.float32), (0, 0), max(radius_px / 6, 0.6))
    lumps *= 0.2 / max(float(lumps.std()), 1e-6)
    dome = np.sqrt(np.clip(1 - away**2, 0, 1)) * 0.75 + 0.25
    return np.where(away < 1, np.clip(dome + lumps * np.sqrt(np.clip(1 - away, 0, 1)), 0.15, 1.2), 0).astype(np.float32)


def plant(layers: MapLayers, plan: Plan, woods: Woods, rng: np.random.Generator) -> None:
    """Draw the trees of forests, orchards, hedges, gardens, parks, river banks and streets."""
    for parcel in plan.parcels:
        place_N2, radius_N = _spots(parcel, rng)
        _plant_at(layers, woods, place_N2, radius_N, parcel, rng)
    for line_N2 in plan.hedges:
        place_N2 = _along(line_N2, rng.uniform(3, 7), 1.6, rng)
        _plant_at(layers, woods, place_N2, rng.uniform(1.4, 4.2, len(place_N2)), None, rng)
    for road in plan.roads:
        if road.kind == "street" and rng.random() < 0.35:
            for side in (-1, 1):
                place_N2 = _along(road.line_N2, 13, 0.6, rng, side * (road.width_m / 2 + 2.2))
                _plant_at(layers, woods, place_N2, rng.uniform(1.8, 3.2, len(place_N2)), None, rng)
    for side in (-1, 1):
        offset = side * (plan.river_half_width_N + 5)
        place_N2 = _along(plan.river_line_N2, 5, 3.2, rng, offset)
        keep = rng.random(len(place_N2)) < 0.75
        _plant_at(layers, woods, place_N2[keep], rng.uniform(1.6, 5, keep.sum()), None, rng)


def _spots(parcel: Parcel, rng: np.random.Generator):
    """Positions of the trees of one parcel, and their crown radii."""
    spacing = {
        "forest": 5.4,
        "orchard": 6.5,
        "residential": 9.5,
        "park": 12.0,
        "apartments": 13.0,
        "farm": 15.0,
        "sports": 17.0,
        "meadow": 9.0,
        "industrial": 22.0,
    }.get(parcel.use)
    if spacing is None:
        return np.zeros((0, 2)), np.zeros(0)
    low, high = parcel.outline_N2.min(axis=0), parcel.outline_N2.max(axis=0)
    reach = float(np.hypot(*(high - low))) / 2
    step = np.arange(-reach, reach, spacing)
    grid_N2 = np.stack(np.meshgrid(step, step), axis=-1).reshape(-1, 2)
    cos, sin = np.cos(parcel.angle), np.sin(parcel.angle)
    jitter = 0.03 if parcel.use == "orchard" else 0.42
    grid_N2 = grid_N2 + rng.uniform(-jitter, jitter, grid_N2.shape) * spacing
    place_N2 = grid_N2 @ np.array([[cos, sin], [-sin, cos]]) + (low + high) / 2
    inside = np.array(
        [
            cv2.pointPolygonTest(parcel.outline_N2.astype(np.float32), (float(x), float(y)), False) > 0
            for x, y in place_N2
        ],
        bool,
    )
    chance = {"forest": 0.97, "orchard": 0.95, "residential": 0.62}.get(parcel.use, 0.6) * np.ones(len(inside))
    if parcel.use == "meadow":  # scrub grows in clumps
        clump_N2 = rng.uniform(low, high, (rng.integers(1, 6), 2))
        away = np.hypot(*(place_N2[:, None] - clump_N2[None]).transpose(2, 0, 1)).min(axis=1, initial=1e9)
        chance = np.exp(-away / rng.uniform(6, 16)) + 0.02
    keep = inside & (rng.random(len(inside)) < chance)
    low_m, high_m = {"forest": (2.4, 5.4), "orchard": (1.5, 2.3), "residential": (0.8, 3.8)}.get(parcel.use, (1.4, 5.0))
    return place_N2[keep], rng.uniform(low_m, high_m, keep.sum())


def _along(line_N2, spacing_m: float, jitter_m: float, rng: np.random.Generator, offset_m=0.0) -> np.ndarray:
    """Points along a polyline, moved sideways by ``offset_m`` (one number or one per corner)."""
    along_N = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(line_N2, axis=0).T))])
    direction_N2 = np.gradient(line_N2, axis=0)
    direction_N2 /= np.maximum(np.hypot(*direction_N2.T), 1e-9)[:, None]
    side_N2 = line_N2 + np.stack([-direction_N2[:, 1], direction_N2[:, 0]], axis=1) * np.reshape(offset_m, (-1, 1))
    at = np.arange(spacing_m / 2, along_N[-1], spacing_m)
    place_N2 = np.stack([np.interp(at, along_N, side_N2[:, axis]) for axis in (0, 1)], axis=1)
    return place_N2 + rng.normal(0, jitter_m, place_N2.shape)


def _plant_at(
    layers: MapLayers, woods: Woods, place_N2, radius_N, parcel: Parcel | None, rng: np.random.Generator
) -> None:
    """Draw trees where there is room; some forests have many conifers."""
    count = len(place_N2)
    size = layers.material.shape[0]
    conifer_share = 0.12 if parcel is None or parcel.use != "forest" else float(rng.choice([0.05, 0.1, 0.6]))
    is_conifer = rng.random(count) < conifer_share
    number_N = np.where(is_conifer, rng.choice(numbers("conifer"), count), rng.choice(numbers("tree"), count))
    number_N = np.where(radius_N < 1.3, rng.choice(numbers("bush"), count), number_N)
    radius_N = np.where(is_conifer & (radius_N > 2.6), radius_N * 0.65, radius_N)
    height_N = radius_N * rng.uniform(1.25, 1.9, count) + 0.5
    variant_N = rng.integers(0, _VARIANTS, count)
    pixel_N2 = np.floor(place_N2 / layers.m_per_px).astype(int)
    near = ((pixel_N2 > -20) & (pixel_N2 < size + 20)).all(axis=1)
    ground = np.clip(pixel_N2, 0, size - 1)
    keep = near & ~_NO_ROOM[layers.material[ground[:, 1], ground[:, 0]]]
    woods.stamp(layers, place_N2[keep], radius_N[keep], height_N[keep], number_N[keep], variant_N[keep])
