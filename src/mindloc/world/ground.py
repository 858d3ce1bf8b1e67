"""The ground of a map: fields and their rows, tracks, the river, roads and their markings."""

import numpy as np

from mindloc.world.buildings import build_on_parcels
from mindloc.world.materials import numbers
from mindloc.world.town import DETAIL_NEUTRAL, MapLayers, Parcel, Plan, Road, empty_layers, ribbon
from mindloc.world.vegetation import Woods, plant


def cover_ground(layers: MapLayers, plan: Plan, rng: np.random.Generator) -> None:
    """Draw all that lies flat, from the fields up to the road markings."""
    for parcel in plan.parcels:
        _cover(layers, parcel, rng)
    _draw_tracks(layers, plan, rng)
    _draw_river(layers, plan, rng)
    _draw_roads(layers, plan, rng)


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


def _cover(layers: MapLayers, parcel: Parcel, rng: np.random.Generator) -> None:
    """Ground of one parcel, with the rows of its crop."""
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
    """Rows and wheel tracks as detail, from the distance across the rows in meters."""
    depth = {"crop": rng.uniform(4, 38), "fallow": rng.uniform(4, 22)}.get(use, rng.uniform(0, 4))
    value = depth * np.sin(across * np.float32(2 * np.pi / rng.uniform(1.5, 3.6)))
    swath = rng.uniform(9, 21)
    place = np.mod(across, np.float32(swath))
    shade = rng.normal(0, rng.uniform(0.5, 4.5), 997).astype(np.float32)  # each pass of the machine a little different
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
    """Water with an uneven bank."""
    line_N2, half_N = plan.river_line_N2, plan.river_half_width_N
    ragged = half_N + rng.uniform(3, 7) + rng.normal(0, 1.2, len(half_N))
    meadow, bank, water = (int(rng.choice(numbers(name))) for name in ("meadow", "bank", "water"))
    layers.fill_all(ribbon(line_N2, ragged + 6), meadow, DETAIL_NEUTRAL)
    layers.fill_all(ribbon(line_N2, ragged - 2), bank, DETAIL_NEUTRAL)
    layers.fill_all(ribbon(line_N2, half_N), water, DETAIL_NEUTRAL)


def _draw_roads(layers: MapLayers, plan: Plan, rng: np.random.Generator) -> None:
    """Streets end at the water, main roads bridge it; kerbs first, so that crossings stay open."""
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
    """Dashes along the middle: 3 m drawn, 6 m apart."""
    step_N = np.hypot(*np.diff(road.line_N2, axis=0).T)
    along_N = np.concatenate([[0], np.cumsum(step_N)])
    start = np.arange(0, along_N[-1] - 3, 9.0)
    for one, two in zip(start, start + 3, strict=True):
        ends = [[np.interp(at, along_N, road.line_N2[:, axis]) for axis in (0, 1)] for at in (one, two)]
        layers.fill_all(ribbon(np.array(ends), 0.16), numbers("marking")[0], None)


def build_layers(plan: Plan, map_px: int, m_per_px: float, rng: np.random.Generator) -> MapLayers:
    """Draw everything that stands still; cars come with each season."""
    layers = empty_layers(map_px, m_per_px, numbers("meadow")[0])
    cover_ground(layers, plan, rng)
    build_on_parcels(layers, plan, rng)
    plant(layers, plan, Woods(m_per_px, rng), rng)
    return layers
