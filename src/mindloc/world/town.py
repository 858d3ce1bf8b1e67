"""The plan of a map (parcels, roads, a river) as shapes in meters, and the pixel layers that it is drawn into.

Plan: the land is cut in two again and again. The early cuts become roads, so roads meet and enclose blocks as in towns.
A smooth displacement of the whole plane (``Bend``) then bends the straight lines. x points east, y south.

Layers: the material of every pixel, its height, and detail such as rows of a crop. They are drawn once per world and
used in every season. x = column, y = row; the corner of the top left pixel is at (0, 0) meters.

Shapes: V corners of a polygon, N points.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np

from mindloc.geo.footprints import polygon_area

STREET_M, MAIN_ROAD_M, TRACK_M = 6.5, 10.0, 3.2
_EDGE_STEP_M = 14.0  # distance of the corners that are added to straight edges before they are bent


@dataclass(frozen=True)
class Bend:
    """A smooth displacement of the plane: a sum of plane waves."""

    wave_N2: np.ndarray  # radians per meter
    phase_N: np.ndarray
    shift_N2: np.ndarray  # meters

    def __call__(self, point_N2) -> np.ndarray:
        point_N2 = np.asarray(point_N2, np.float64)
        return point_N2 + np.sin(point_N2 @ self.wave_N2.T + self.phase_N) @ self.shift_N2

    def angle(self, point_2, angle: float) -> float:
        """Direction (radians), after the bend, of a small step from ``point`` in the direction ``angle``."""
        step = 0.5 * np.array([np.cos(angle), np.sin(angle)])
        ahead = self(point_2 + step) - self(point_2 - step)
        return float(np.arctan2(ahead[1], ahead[0]))


@dataclass
class Parcel:
    """A piece of land with one use.

    Args:
        flat_V2: convex polygon before the bend.
        outline_N2: the polygon after the bend.
        use: residential, apartments, industrial, park, sports, crop, meadow, forest, orchard, fallow or farm.
        angle: direction of its longest side after the bend, radians.
        density: density of the town at this place, 0..1.
    """

    flat_V2: np.ndarray
    outline_N2: np.ndarray
    use: str
    angle: float
    density: float


@dataclass
class Road:
    """A polyline and its width; ``kind`` is main, street or track."""

    line_N2: np.ndarray
    width_m: float
    kind: str


@dataclass
class Plan:
    """The plan of a whole map. A hedge is a polyline along which trees are planted."""

    side_m: float
    parcels: list[Parcel] = field(default_factory=list)
    roads: list[Road] = field(default_factory=list)
    hedges: list[np.ndarray] = field(default_factory=list)
    river_line_N2: np.ndarray | None = None
    river_half_width_N: np.ndarray | None = None


def draw_plan(side_m: float, rng: np.random.Generator) -> Plan:
    """Draw the plan of a square map with sides of ``side_m`` meters."""
    plan = Plan(side_m)
    bend = _draw_bend(rng)
    towns = _Towns(side_m, rng)
    reach = side_m * 0.5 + 70.0
    turn = rng.uniform(0, np.pi / 2)
    # a rotated square that is large enough to cover the map at any angle
    corner = np.sqrt(2.0) * reach * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) @ _rotation(turn).T + side_m / 2
    _cut(plan, corner, bend, towns, rng)
    plan.river_line_N2, plan.river_half_width_N = _draw_river(side_m, rng)
    return plan


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _draw_bend(rng: np.random.Generator) -> Bend:
    length_N = np.array([1100.0, 760.0, 520.0, 330.0])
    direction_N = rng.uniform(0, 2 * np.pi, 4)
    wave_N2 = (2 * np.pi / length_N)[:, None] * np.stack([np.cos(direction_N), np.sin(direction_N)], axis=1)
    sway_N = direction_N + np.pi / 2 + rng.normal(0, 0.3, 4)  # across the wave: lines bend, areas keep their size
    reach_N = length_N * rng.uniform(0.018, 0.034, 4)
    shift_N2 = reach_N[:, None] * np.stack([np.cos(sway_N), np.sin(sway_N)], axis=1)
    return Bend(wave_N2, rng.uniform(0, 2 * np.pi, 4), shift_N2)


class _Towns:
    """The density of the towns and the amount of wood at each place of a map."""

    def __init__(self, side_m: float, rng: np.random.Generator):
        count = max(1, round(side_m**2 / 0.55e6))
        self.center_N2 = rng.uniform(0.12, 0.88, (count, 2)) * side_m
        self.radius_N = np.minimum(rng.uniform(200, 400, count), side_m * 0.42)
        self.wood_wave_N2 = rng.normal(0, 2 * np.pi / 520, (6, 2))
        self.wood_phase_N = rng.uniform(0, 2 * np.pi, 6)

    def density(self, point_2) -> float:
        away = np.hypot(*(self.center_N2 - point_2).T) / self.radius_N
        return float(np.exp(-(away**2)).max())

    def wood(self, point_2) -> float:
        """About -1..1; forest is likely if it is positive."""
        return float(np.sin(self.wood_wave_N2 @ point_2 + self.wood_phase_N).sum() / 3)


def _cut(plan: Plan, corner_V2, bend: Bend, towns: _Towns, rng: np.random.Generator) -> None:
    """Cut a convex piece of land into parcels, and lay a road along most of the cuts."""
    pieces = [corner_V2]
    while pieces:
        piece_V2 = pieces.pop()
        center = piece_V2.mean(axis=0)
        if _off_map(piece_V2, plan.side_m):
            continue
        density = towns.density(bend(center))
        area = float(polygon_area(piece_V2[None])[0])
        enough = 17000 * (1 - density) ** 2 + 5200
        if area < enough * rng.uniform(0.75, 1.7):
            plan.parcels.append(_parcel(piece_V2, density, bend, towns, rng))
            continue
        one, two, line_22 = _halve(piece_V2, 4.0 if density > 0.3 else 9.0, rng)
        _lay_along(plan, line_22, area, density, bend, rng)
        pieces += [one, two]


def _off_map(piece_V2, side_m: float) -> bool:
    low, high = piece_V2.min(axis=0), piece_V2.max(axis=0)
    return bool((high < -60).any() or (low > side_m + 60).any())


def _halve(piece_V2, wobble_deg: float, rng: np.random.Generator):
    """Cut a piece across its longest side; returns both pieces and the two ends of the cut."""
    edge_V2 = np.roll(piece_V2, -1, axis=0) - piece_V2
    longest = edge_V2[np.hypot(*edge_V2.T).argmax()]
    along = longest / np.hypot(*longest)
    reach_V = piece_V2 @ along
    if np.ptp(piece_V2 @ np.array([-along[1], along[0]])) > 1.15 * np.ptp(reach_V):
        along = np.array([-along[1], along[0]])  # pieces deeper than long are cut across their depth
        reach_V = piece_V2 @ along
    at = reach_V.min() + rng.uniform(0.38, 0.62) * np.ptp(reach_V)
    normal = _rotation(np.radians(rng.normal(0, wobble_deg))) @ along
    middle = piece_V2.mean(axis=0)
    side_V = (piece_V2 - middle) @ normal - (at - middle @ along)
    return _split_polygon(piece_V2, side_V)


def _split_polygon(piece_V2, side_V):
    """Split a convex polygon by the sign of ``side_V``, one per corner; returns both parts and the cut between them."""
    one, two, cut = [], [], []
    for index in range(len(piece_V2)):
        here, after = piece_V2[index], piece_V2[(index + 1) % len(piece_V2)]
        side, side_after = side_V[index], side_V[(index + 1) % len(piece_V2)]
        (one if side >= 0 else two).append(here)
        if (side >= 0) != (side_after >= 0):
            crossing = here + side / (side - side_after) * (after - here)
            one.append(crossing)
            two.append(crossing)
            cut.append(crossing)
    return np.array(one), np.array(two), np.array(cut)


def _lay_along(plan: Plan, line_22, area: float, density: float, bend: Bend, rng: np.random.Generator) -> None:
    """Lay a road, a track, a hedge or nothing along a cut through land of ``area`` square meters."""
    line_N2 = bend(_densified(line_22))
    chance = rng.random()
    if area > 260_000:
        plan.roads.append(Road(line_N2, MAIN_ROAD_M * rng.uniform(0.85, 1.15), "main"))
    elif density > 0.25 or (area > 80_000 and chance < 0.4):
        plan.roads.append(Road(line_N2, STREET_M * rng.uniform(0.85, 1.2), "street"))
    elif chance < 0.4:
        plan.roads.append(Road(line_N2, TRACK_M * rng.uniform(0.8, 1.3), "track"))
    elif chance < 0.65:
        plan.hedges.append(line_N2)


def _densified(line_N2) -> np.ndarray:
    """The polyline with added corners, at most about ``_EDGE_STEP_M`` apart."""
    parts = []
    for start, end in zip(line_N2[:-1], line_N2[1:], strict=True):
        steps = max(int(np.hypot(*(end - start)) / _EDGE_STEP_M), 1)
        parts.append(start + np.arange(steps)[:, None] / steps * (end - start))
    return np.concatenate([*parts, line_N2[-1:]])


def _parcel(flat_V2, density: float, bend: Bend, towns: _Towns, rng: np.random.Generator) -> Parcel:
    edge_V2 = np.roll(flat_V2, -1, axis=0) - flat_V2
    longest = edge_V2[np.hypot(*edge_V2.T).argmax()]
    center = flat_V2.mean(axis=0)
    angle = bend.angle(center, float(np.arctan2(longest[1], longest[0])))
    outline_N2 = bend(_densified(np.concatenate([flat_V2, flat_V2[:1]])))
    return Parcel(flat_V2, outline_N2, _use(density, towns.wood(center), rng), angle, density)


_TOWN_USES = {"residential": 76, "apartments": 5, "industrial": 9, "park": 4, "sports": 2, "meadow": 4}
_EDGE_USES = {
    "residential": 48,
    "industrial": 7,
    "meadow": 14,
    "crop": 16,
    "orchard": 6,
    "fallow": 5,
    "sports": 2,
    "park": 2,
}
_LAND_USES = {"crop": 55, "meadow": 24, "orchard": 8, "fallow": 7, "farm": 6}


def _use(density: float, wood: float, rng: np.random.Generator) -> str:
    if density < 0.3 and wood + rng.normal(0, 0.25) > 0.5:
        return "forest"
    uses = _TOWN_USES if density > 0.4 else _EDGE_USES if density > 0.16 else _LAND_USES
    weight = np.array(list(uses.values()), np.float64)
    return str(rng.choice(list(uses), p=weight / weight.sum()))


def _draw_river(side_m: float, rng: np.random.Generator):
    """A winding line across the map, and half the river's width at each of its corners."""
    turn = rng.uniform(0, 2 * np.pi)
    count = max(int(side_m * 1.6 / 12), 8)
    along = np.linspace(-0.8, 0.8, count) * side_m
    across = rng.uniform(-0.28, 0.28) * side_m * np.ones(count)
    for length, reach in ((900, 75), (430, 32), (210, 9)):
        across += reach * rng.uniform(0.6, 1.2) * np.sin(2 * np.pi * along / length + rng.uniform(0, 2 * np.pi))
    line_N2 = np.stack([along, across], axis=1) @ _rotation(turn).T + side_m / 2
    width = rng.uniform(9, 22)
    half_width_N = width * (
        1
        + 0.22 * np.sin(2 * np.pi * along / 370 + rng.uniform(0, 6))
        + 0.1 * np.sin(2 * np.pi * along / 97 + rng.uniform(0, 6))
    )
    return line_N2, half_width_N


_SHIFT = 4  # cv2 draws polygons at 1/16 pixel
DETAIL_NEUTRAL = 128


@dataclass
class MapLayers:
    """The pixel layers of a map, each of shape (map_px, map_px).

    Args:
        material: uint8, material number of materials.py.
        height_cm: uint16, height above the ground.
        detail: uint8, 128 is neutral. A value below 128 means soil between rows on fields, and darker elsewhere.
        m_per_px: meters per pixel.
    """

    material: np.ndarray
    height_cm: np.ndarray
    detail: np.ndarray
    m_per_px: float

    def copy(self) -> "MapLayers":
        return MapLayers(self.material.copy(), self.height_cm.copy(), self.detail.copy(), self.m_per_px)

    def px(self, point_N2) -> np.ndarray:
        """Convert meters to the fixed-point pixels of cv2 (pixel centers at whole numbers)."""
        return np.round((np.asarray(point_N2) / self.m_per_px - 0.5) * (1 << _SHIFT)).astype(np.int32)

    def fill(self, polygon_N2, material: int, detail: int | None = DETAIL_NEUTRAL, height_cm: int | None = 0) -> None:
        """Fill a polygon given in meters."""
        corner = [self.px(polygon_N2)]
        cv2.fillPoly(self.material, corner, int(material), cv2.LINE_8, _SHIFT)
        if detail is not None:
            cv2.fillPoly(self.detail, corner, int(detail), cv2.LINE_8, _SHIFT)
        if height_cm is not None:
            cv2.fillPoly(self.height_cm, corner, int(height_cm), cv2.LINE_8, _SHIFT)

    def stroke(self, line_N2, width_m: float, material: int, round_ends: bool = False) -> None:
        """Draw a polyline with a width; both are in meters."""
        self.fill_all(ribbon(line_N2, width_m / 2), material, DETAIL_NEUTRAL)
        if not round_ends:
            return
        radius = max(int(round(width_m / 2 / self.m_per_px * (1 << _SHIFT))), 1)
        for end in self.px(line_N2[[0, -1]]):
            cv2.circle(self.material, tuple(int(v) for v in end), radius, int(material), -1, cv2.LINE_8, _SHIFT)

    def fill_all(self, polygon_P42, material: int, detail: int | None) -> None:
        """Fill many quadrilaterals with the same material and detail."""
        for corner in self.px(polygon_P42):
            cv2.fillConvexPoly(self.material, corner, int(material), cv2.LINE_8, _SHIFT)
            if detail is not None:
                cv2.fillConvexPoly(self.detail, corner, int(detail), cv2.LINE_8, _SHIFT)

    def window(self, polygon_N2, margin_px: int = 1):
        """Slices (rows, columns) around a polygon, cut at the map's edge, and the x and y of the pixel centers, meters.

        Returns None if the polygon is off the map.
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
        """Bool for each pixel of a window: True if it is in the polygon."""
        rows, columns = slices
        mask = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
        corner = self.px(polygon_N2) - np.array([columns.start, rows.start]) * (1 << _SHIFT)
        cv2.fillPoly(mask, [corner.astype(np.int32)], 1, cv2.LINE_8, _SHIFT)
        return mask.astype(bool)


def empty_layers(map_px: int, m_per_px: float, material: int) -> MapLayers:
    """Layers of flat land of one material."""
    shape = (map_px, map_px)
    return MapLayers(
        np.full(shape, material, np.uint8),
        np.zeros(shape, np.uint16),
        np.full(shape, DETAIL_NEUTRAL, np.uint8),
        m_per_px,
    )


def ribbon(line_N2, half_width) -> np.ndarray:
    """Quadrilaterals (N - 1, 4, 2) along a polyline; ``half_width`` is in meters, one number or one per corner."""
    line_N2 = np.asarray(line_N2, np.float64)
    along_N2 = np.gradient(line_N2, axis=0)
    along_N2 /= np.maximum(np.hypot(*along_N2.T), 1e-9)[:, None]
    side_N2 = np.stack([-along_N2[:, 1], along_N2[:, 0]], axis=1) * np.reshape(half_width, (-1, 1))
    left, right = line_N2 + side_N2, line_N2 - side_N2
    return np.stack([left[:-1], left[1:], right[1:], right[:-1]], axis=1)


def rectangle(center_2, length_m: float, depth_m: float, angle: float) -> np.ndarray:
    """Corners (4, 2) of a rectangle that is rotated by ``angle`` radians."""
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    return np.asarray(center_2) + np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [
        length_m / 2,
        depth_m / 2,
    ] @ np.stack([along, across])
