"""The map as pixel layers: what every pixel is made of, how high it stands, and detail such as rows and roof tiles.

Layers are drawn once per world and serve every season. x = column, y = row, top left pixel covers (0, 0) metres.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from mindloc.world.materials import numbers
from mindloc.world.town_plan import Parcel, Plan

_SHIFT = 4  # cv2 draws polygons at 1/16 pixel
DETAIL_NEUTRAL = 128


@dataclass
class MapLayers:
    """All layers have the shape (map_px, map_px).

    Args:
        material: uint8, a number of materials.py.
        height_cm: uint16, above the ground.
        detail: uint8, 128 is neutral; below it more soil between rows, or darker.
        m_per_px: metres per pixel.
    """

    material: np.ndarray
    height_cm: np.ndarray
    detail: np.ndarray
    m_per_px: float

    def copy(self) -> "MapLayers":
        return MapLayers(self.material.copy(), self.height_cm.copy(), self.detail.copy(), self.m_per_px)

    def px(self, point_N2) -> np.ndarray:
        """Metres to fixed-point pixels for cv2 (pixel centres at whole numbers)."""
        return np.round((np.asarray(point_N2) / self.m_per_px - 0.5) * (1 << _SHIFT)).astype(np.int32)

    def fill(self, polygon_N2, material: int, detail: int | None = DETAIL_NEUTRAL, height_cm: int | None = 0) -> None:
        """Fill a polygon given in metres."""
        corner = [self.px(polygon_N2)]
        cv2.fillPoly(self.material, corner, int(material), cv2.LINE_8, _SHIFT)
        if detail is not None:
            cv2.fillPoly(self.detail, corner, int(detail), cv2.LINE_8, _SHIFT)
        if height_cm is not None:
            cv2.fillPoly(self.height_cm, corner, int(height_cm), cv2.LINE_8, _SHIFT)

    def stroke(self, line_N2, width_m: float, material: int, round_ends: bool = False) -> None:
        """Draw a polyline of some width, given in metres."""
        self.fill_all(ribbon(line_N2, width_m / 2), material, DETAIL_NEUTRAL)
        if not round_ends:
            return
        radius = max(int(round(width_m / 2 / self.m_per_px * (1 << _SHIFT))), 1)
        for end in self.px(line_N2[[0, -1]]):
            cv2.circle(self.material, tuple(int(v) for v in end), radius, int(material), -1, cv2.LINE_8, _SHIFT)

    def fill_all(self, polygon_P42, material: int, detail: int | None) -> None:
        """Fill many quadrilaterals alike."""
        for corner in self.px(polygon_P42):
            cv2.fillConvexPoly(self.material, corner, int(material), cv2.LINE_8, _SHIFT)
            if detail is not None:
                cv2.fillConvexPoly(self.detail, corner, int(detail), cv2.LINE_8, _SHIFT)

    def window(self, polygon_N2, margin_px: int = 1):
        """Slices (rows, columns) around a polygon, cut at the map's edge, and the centres of its pixels in metres.

        Returns None where it lies off the map.
        """
        size = self.material.shape[0]
        low = np.floor(np.min(polygon_N2, axis=0) / self.m_per_px).astype(int) - margin_px
        high = np.ceil(np.max(polygon_N2, axis=0) / self.m_per_px).astype(int) + margin_px
        low, high = np.clip(low, 0, size), np.clip(high, 0, size)
        if (high <= low).any():
            return None
        x_m = (np.arange(low[0], high[0], dtype=np.float32) + 0.5) * self.m_per_px
        y_m = (np.arange(low[1], high[1], dtype=np.float32) + 0.5) * self.m_per_px
        return (slice(low[1], high[1]), slice(low[0], high[0])), x_m[None, :], y_m[:, None]

    def mask(self, slices, polygon_N2) -> np.ndarray:
        """Which pixels of a window lie in a polygon, bool."""
        rows, columns = slices
        mask = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
        corner = self.px(polygon_N2) - np.array([columns.start, rows.start]) * (1 << _SHIFT)
        cv2.fillPoly(mask, [corner.astype(np.int32)], 1, cv2.LINE_8, _SHIFT)
        return mask.astype(bool)


def ribbon(line_N2, half_width) -> np.ndarray:
    """Quadrilaterals (N - 1, 4, 2) along a polyline; ``half_width`` in metres, a number or one per corner."""
    line_N2 = np.asarray(line_N2, np.float64)
    along_N2 = np.gradient(line_N2, axis=0)
    along_N2 /= np.maximum(np.hypot(*along_N2.T), 1e-9)[:, None]
    side_N2 = np.stack([-along_N2[:, 1], along_N2[:, 0]], axis=1) * np.reshape(half_width, (-1, 1))
    left, right = line_N2 + side_N2, line_N2 - side_N2
    return np.stack([left[:-1], left[1:], right[1:], right[:-1]], axis=1)


def rectangle(centre_2, length_m: float, depth_m: float, angle: float) -> np.ndarray:
    """Corners (4, 2) of a turned rectangle."""
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    return np.asarray(centre_2) + np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [
        length_m / 2,
        depth_m / 2,
    ] @ np.stack([along, across])


def build_layers(plan: Plan, map_px: int, m_per_px: float, rng: np.random.Generator) -> MapLayers:
    """Draw everything that stands still; cars come with each season."""
    from mindloc.world.buildings import build_on_parcels
    from mindloc.world.vegetation import Woods, plant

    shape = (map_px, map_px)
    layers = MapLayers(
        np.full(shape, numbers("meadow")[0], np.uint8),
        np.zeros(shape, np.uint16),
        np.full(shape, DETAIL_NEUTRAL, np.uint8),
        m_per_px,
    )
    for parcel in plan.parcels:
        _cover(layers, parcel, rng)
    _draw_tracks(layers, plan, rng)
    _draw_river(layers, plan, rng)
    _draw_roads(layers, plan, rng)
    build_on_parcels(layers, plan, rng)
    plant(layers, plan, Woods(m_per_px, rng), rng)
    return layers


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
    """Rows and wheel tracks as detail, from the distance across the rows in metres."""
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


def _mark_middle(layers: MapLayers, road) -> None:
    """Dashes along the middle: 3 m drawn, 6 m apart."""
    step_N = np.hypot(*np.diff(road.line_N2, axis=0).T)
    along_N = np.concatenate([[0], np.cumsum(step_N)])
    start = np.arange(0, along_N[-1] - 3, 9.0)
    for one, two in zip(start, start + 3, strict=True):
        ends = [[np.interp(at, along_N, road.line_N2[:, axis]) for axis in (0, 1)] for at in (one, two)]
        layers.fill_all(ribbon(np.array(ends), 0.16), numbers("marking")[0], None)
