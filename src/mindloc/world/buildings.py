"""Drawing of houses, sheds, yards, courts and pools on the parcels of a map, and of cars."""

import numpy as np

from mindloc.world.materials import ROOFS, is_one_of, numbers
from mindloc.world.town import DETAIL_NEUTRAL, MapLayers, Parcel, Plan, rectangle

_HOUSE_ROOFS = {"roof_red": 0.46, "roof_gray": 0.2, "roof_brown": 0.2, "roof_light": 0.14}
_HALL_ROOFS = {"roof_light": 0.6, "roof_gray": 0.32, "roof_red": 0.08}


def build_on_parcels(layers: MapLayers, plan: Plan, rng: np.random.Generator) -> None:
    """Draw the buildings of every parcel according to its use."""
    builders = {
        "residential": _build_homes,
        "apartments": _build_apartments,
        "industrial": _build_halls,
        "farm": _build_farm,
        "sports": _build_sports,
        "park": _build_park,
    }
    for parcel in plan.parcels:
        if parcel.use in builders:
            builders[parcel.use](layers, parcel, rng)


def _pick(weights: dict, rng: np.random.Generator) -> int:
    """A random tint number of a material that is drawn by its weight."""
    name = rng.choice(list(weights), p=np.array(list(weights.values())) / sum(weights.values()))
    return int(rng.choice(numbers(str(name))))


_BLOCKED = is_one_of((*ROOFS, "water", "asphalt", "pool"))


def _is_free(layers: MapLayers, corner_42) -> bool:
    """True if a rectangle is completely on the map and nothing in it is built, paved with asphalt or water."""
    size_m = layers.material.shape[0] * layers.m_per_px
    if corner_42.min() < 0 or corner_42.max() > size_m:
        return False
    grid = np.linspace(0, 1, 7)
    one, two = np.meshgrid(grid, grid)
    point = (
        corner_42[0] + one[..., None] * (corner_42[1] - corner_42[0]) + two[..., None] * (corner_42[3] - corner_42[0])
    )
    index = np.minimum((point / layers.m_per_px).astype(int), layers.material.shape[0] - 1)
    return not _BLOCKED[layers.material[index[..., 1], index[..., 0]]].any()


def raise_roof(
    layers: MapLayers,
    center_2,
    length_m: float,
    depth_m: float,
    angle: float,
    eaves_m: float,
    slope: float,
    hipped: bool,
    roof: int,
    rng: np.random.Generator,
) -> None:
    """Draw a building whose roof has a ridge along its length and hipped or gabled ends; slope 0 is a flat roof with a
    parapet.
    """
    corner_42 = rectangle(center_2, length_m, depth_m, angle)
    window = layers.window(corner_42)
    if window is None:
        return
    slices, x_m, y_m = window
    along, across = _turned(x_m - np.float32(center_2[0]), y_m - np.float32(center_2[1]), angle)
    inside = (np.abs(along) <= length_m / 2) & (np.abs(across) <= depth_m / 2)
    to_eaves = depth_m / 2 - np.abs(across)
    if hipped:
        to_eaves = np.minimum(to_eaves, length_m / 2 - np.abs(along))
    height_m = eaves_m + slope * to_eaves
    detail = (
        DETAIL_NEUTRAL + 7 * np.sin(along * np.float32(2 * np.pi / 1.3)) + 9 * (np.abs(across) < 0.25) * (slope > 0)
    )
    if slope == 0:
        to_edge = np.minimum(to_eaves, length_m / 2 - np.abs(along))
        height_m = height_m + 0.5 * (to_edge < 0.45)
        detail = np.full(inside.shape, DETAIL_NEUTRAL) + 22 * (to_edge < 0.45)
    inside &= height_m * 100 > layers.height_cm[slices]  # wings of a house meet in a valley
    layers.height_cm[slices][inside] = (height_m * 100)[inside]
    layers.material[slices][inside] = roof
    layers.detail[slices][inside] = detail[inside]


def _turned(x, y, angle: float):
    """Coordinates along and across the direction ``angle``."""
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def _build_homes(layers: MapLayers, parcel: Parcel, rng: np.random.Generator) -> None:
    """Draw houses in a row along every side of a block, each with its garden and yard."""
    corner_N2 = parcel.outline_N2
    center = corner_N2.mean(axis=0)
    perimeter = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(corner_N2, axis=0).T))])
    at = rng.uniform(0, 8)
    lot = rng.uniform(13, 18) * (1.35 - 0.35 * parcel.density)
    setback = rng.uniform(10.5, 14)
    garden = min(0.42 * _depth(parcel), 26.0)
    while at < perimeter[-1] - 6:
        place = np.array([np.interp(at, perimeter, corner_N2[:, axis]) for axis in (0, 1)])
        ahead = np.array([np.interp(at + 1, perimeter, corner_N2[:, axis]) for axis in (0, 1)]) - place
        angle = float(np.arctan2(ahead[1], ahead[0]))
        inward = np.array([-np.sin(angle), np.cos(angle)])
        inward *= np.sign(inward @ (center - place)) or 1.0
        if rng.random() < 0.72 + 0.25 * parcel.density:
            _lay_garden(layers, place, inward, angle, lot, garden, rng)
            _build_home(layers, place, inward, angle, lot, setback, rng)
        at += lot * rng.uniform(0.85, 1.3)


def _depth(parcel: Parcel) -> float:
    return _inside_frame(parcel)[4]


_GARDENS = {"lawn": 0.72, "meadow": 0.18, "soil": 0.05, "concrete": 0.05}


def _lay_garden(layers: MapLayers, kerb_2, inward_2, angle: float, lot_m: float, depth_m: float, rng) -> None:
    """Draw the plot of one house with its ground, beds and hedges, unless a street or a house is already there."""
    middle = kerb_2 + inward_2 * (6.5 + depth_m / 2)
    if not _is_free(layers, rectangle(middle, lot_m * 0.9, depth_m - 3, angle)):
        return
    layers.fill(rectangle(middle, lot_m * 1.04, depth_m, angle), _pick(_GARDENS, rng))
    along = np.array([np.cos(angle), np.sin(angle)])
    if rng.random() < 0.3:
        bed = middle + inward_2 * depth_m * 0.3 + along * rng.uniform(-0.25, 0.25) * lot_m
        layers.fill(
            rectangle(bed, rng.uniform(3, 7), rng.uniform(2.5, 6), angle), _pick({"soil": 0.6, "crop": 0.4}, rng)
        )
    if rng.random() < 0.5:
        edge = middle + along * lot_m * 0.52
        layers.fill(
            rectangle(edge, rng.uniform(0.6, 1.3), depth_m * rng.uniform(0.5, 1), angle),
            rng.choice(numbers("bush")),
            DETAIL_NEUTRAL,
            int(rng.uniform(100, 190)),
        )
    if rng.random() < 0.35:
        edge = middle + inward_2 * depth_m * 0.5
        layers.fill(
            rectangle(edge, lot_m, rng.uniform(0.6, 1.4), angle),
            rng.choice(numbers("bush")),
            DETAIL_NEUTRAL,
            int(rng.uniform(100, 190)),
        )


def _build_home(layers: MapLayers, kerb_2, inward_2, angle: float, lot_m: float, setback_m: float, rng) -> None:
    """Draw one house with its drive, and at random with a wing, a shed and a pool."""
    length, depth = min(rng.uniform(8.5, 14), lot_m - 2.5), rng.uniform(7.5, 11)
    turn = angle + np.radians(rng.normal(0, 2)) + (np.pi / 2 if rng.random() < 0.25 else 0)
    middle = kerb_2 + inward_2 * (setback_m + rng.normal(0, 1.3))
    if not _is_free(layers, rectangle(middle, length + 2.5, depth + 2.5, turn)):
        return
    side = rng.choice([-1, 1]) * (length / 2 - 1.5) * np.array([np.cos(angle), np.sin(angle)])
    drive = kerb_2 + side + inward_2 * setback_m / 2
    paving = int(rng.choice(numbers("concrete")))
    if rng.random() < 0.75:
        layers.fill(rectangle(drive, rng.uniform(2.6, 5), setback_m + 2, angle), paving)
    if rng.random() < 0.35:
        layers.fill(rectangle(middle + inward_2 * depth * 0.6, length * rng.uniform(0.5, 1.2), 5, angle), paving)
    roof, eaves = _pick(_HOUSE_ROOFS, rng), rng.uniform(2.8, 6.2)
    slope, hipped = rng.choice([0.38, 0.5, 0.62]), rng.random() < 0.5
    if rng.random() < 0.12:
        slope, hipped, roof = 0.0, False, _pick({"roof_light": 0.5, "roof_gray": 0.5}, rng)
    raise_roof(layers, middle, length, depth, turn, eaves, slope, hipped, roof, rng)
    if rng.random() < 0.45:
        wing = (
            middle
            + rng.choice([-1, 1]) * length * 0.25 * np.array([np.cos(turn), np.sin(turn)])
            + inward_2 * depth * 0.35
        )
        raise_roof(layers, wing, depth * 1.05, length * 0.48, turn + np.pi / 2, eaves, slope, hipped, roof, rng)
    if slope > 0 and rng.random() < 0.12:
        across = np.array([-np.sin(turn), np.cos(turn)])
        panel = rectangle(middle + across * depth * 0.25, length * 0.5, depth * 0.28, turn)
        layers.fill(panel, numbers("solar")[0], None, None)
    _build_backyard(layers, middle + inward_2 * (depth / 2 + rng.uniform(6, 11)), angle, rng)


def _build_backyard(layers: MapLayers, place_2, angle: float, rng: np.random.Generator) -> None:
    along = np.array([np.cos(angle), np.sin(angle)])
    for chance, length, depth in (
        (0.13, rng.uniform(6, 9), rng.uniform(3, 4.5)),
        (0.45, rng.uniform(3, 7), rng.uniform(2.5, 5)),
    ):
        spot = place_2 + along * rng.uniform(-5, 5)
        corner = rectangle(spot, length + 2, depth + 2, angle)
        if rng.random() > chance or not _is_free(layers, corner):
            continue
        if chance < 0.2:
            layers.fill(corner, rng.choice(numbers("concrete")))
            layers.fill(rectangle(spot, length, depth, angle), rng.choice(numbers("pool")))
        else:
            raise_roof(
                layers,
                spot,
                length,
                depth,
                angle,
                rng.uniform(2, 2.8),
                0.15,
                False,
                _pick({"roof_gray": 0.4, "roof_light": 0.3, "roof_brown": 0.3}, rng),
                rng,
            )


def _inside_frame(parcel: Parcel):
    """Middle of a parcel, unit vectors along and across its direction, and its length and depth in these directions."""
    along = np.array([np.cos(parcel.angle), np.sin(parcel.angle)])
    across = np.array([-along[1], along[0]])
    one, two = parcel.outline_N2 @ along, parcel.outline_N2 @ across
    middle = along * (one.max() + one.min()) / 2 + across * (two.max() + two.min()) / 2
    return middle, along, across, float(np.ptp(one)), float(np.ptp(two))


def _build_apartments(layers: MapLayers, parcel: Parcel, rng: np.random.Generator) -> None:
    """Draw long parallel blocks of apartments, with parking between them."""
    middle, along, across, length, depth = _inside_frame(parcel)
    spacing, roof = rng.uniform(30, 38), _pick({"roof_light": 0.3, "roof_gray": 0.5, "roof_brown": 0.2}, rng)
    eaves = rng.uniform(9, 17)
    for shift in np.arange(-depth / 2 + 20, depth / 2 - 14, spacing):
        for step in np.arange(-length / 2 + 32, length / 2 - 24, 56):
            place = middle + across * shift + along * step
            if _is_free(layers, rectangle(place, 44, 14, parcel.angle)):
                layers.fill(rectangle(place, 46, 18, parcel.angle), rng.choice(numbers("concrete")))
                raise_roof(layers, place, rng.uniform(30, 42), 12, parcel.angle, eaves, 0.0, False, roof, rng)
                _lay_parking(layers, place + across * 16, 34, 10, parcel.angle, rng)


def _build_halls(layers: MapLayers, parcel: Parcel, rng: np.random.Generator) -> None:
    """Draw large halls with flat roofs on a paved yard."""
    middle, along, across, length, depth = _inside_frame(parcel)
    _lay_parking(layers, middle - across * (depth / 2 - 14), length * 0.5, 16, parcel.angle, rng)
    for _ in range(rng.integers(9, 20)):
        place = middle + along * rng.uniform(-0.34, 0.34) * length + across * rng.uniform(-0.3, 0.34) * depth
        hall_length, hall_depth = rng.uniform(18, 55), rng.uniform(13, 30)
        turn = parcel.angle + (np.pi / 2 if rng.random() < 0.3 else 0)
        if _is_free(layers, rectangle(place, hall_length + 5, hall_depth + 5, turn)) and _within(
            parcel, rectangle(place, hall_length + 14, hall_depth + 14, turn)
        ):
            raise_roof(
                layers,
                place,
                hall_length,
                hall_depth,
                turn,
                rng.uniform(5, 9),
                rng.choice([0.0, 0.1, 0.16]),
                False,
                _pick(_HALL_ROOFS, rng),
                rng,
            )


def _within(parcel: Parcel, corner_42) -> bool:
    """True if all corners are in the parcel's bounding box along the parcel's direction."""
    middle, along, across, length, depth = _inside_frame(parcel)
    away = corner_42 - middle
    return bool((np.abs(away @ along) < length / 2).all() and (np.abs(away @ across) < depth / 2).all())


def _lay_parking(layers: MapLayers, place_2, length_m: float, depth_m: float, angle: float, rng) -> None:
    """Draw asphalt with marked bays on both long sides, if there is room."""
    corner = rectangle(place_2, length_m, depth_m, angle)
    if length_m < 8 or not _is_free(layers, corner):
        return
    layers.fill(corner, rng.choice(numbers("asphalt")))
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    for shift in np.arange(-length_m / 2 + 1, length_m / 2 - 1, 2.6):
        for edge in (-1, 1):
            bay = np.asarray(place_2) + along * shift + across * edge * (depth_m / 2 - 2.4)
            layers.fill(rectangle(bay, 0.2, 4.6, angle), numbers("marking")[0], None, None)


def _build_farm(layers: MapLayers, parcel: Parcel, rng: np.random.Generator) -> None:
    """Draw a yard in a meadow with barns around it."""
    middle, along, across, length, depth = _inside_frame(parcel)
    layers.fill(parcel.outline_N2, rng.choice(numbers("meadow")))
    layers.fill(
        rectangle(middle, min(length * 0.45, 60), min(depth * 0.45, 45), parcel.angle), rng.choice(numbers("track"))
    )
    for _ in range(rng.integers(3, 7)):
        place = middle + along * rng.uniform(-24, 24) + across * rng.uniform(-20, 20)
        barn_length, barn_depth = rng.uniform(12, 34), rng.uniform(8, 15)
        turn = parcel.angle + (np.pi / 2 if rng.random() < 0.5 else 0)
        if _is_free(layers, rectangle(place, barn_length + 3, barn_depth + 3, turn)):
            raise_roof(
                layers,
                place,
                barn_length,
                barn_depth,
                turn,
                rng.uniform(3, 5.5),
                0.36,
                False,
                _pick({"roof_red": 0.5, "roof_brown": 0.25, "roof_gray": 0.25}, rng),
                rng,
            )


def _build_sports(layers: MapLayers, parcel: Parcel, rng: np.random.Generator) -> None:
    """Draw a pitch with its lines, and a court beside it."""
    middle, along, across, length, depth = _inside_frame(parcel)
    pitch_length, pitch_depth = min(length * 0.6, 100.0), min(depth * 0.6, 64.0)
    layers.fill(rectangle(middle, pitch_length + 8, pitch_depth + 8, parcel.angle), rng.choice(numbers("lawn")))
    _outline(layers, middle, pitch_length, pitch_depth, parcel.angle)
    layers.fill(rectangle(middle, 0.25, pitch_depth, parcel.angle), numbers("marking")[0], None, None)
    court = middle + across * (pitch_depth / 2 + 16)
    if _within(parcel, rectangle(court, 40, 20, parcel.angle)):
        layers.fill(rectangle(court, 36, 18, parcel.angle), rng.choice(numbers("court")))
        _outline(layers, court, 24, 11, parcel.angle)


def _outline(layers: MapLayers, middle_2, length_m: float, depth_m: float, angle: float) -> None:
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    white = numbers("marking")[0]
    for sign in (-1, 1):
        layers.fill(rectangle(middle_2 + sign * across * depth_m / 2, length_m, 0.25, angle), white, None, None)
        layers.fill(rectangle(middle_2 + sign * along * length_m / 2, 0.25, depth_m, angle), white, None, None)


def _build_park(layers: MapLayers, parcel: Parcel, rng: np.random.Generator) -> None:
    """Draw paths from side to side, and at random a pond."""
    middle, along, across, length, depth = _inside_frame(parcel)
    for direction, reach in ((along, length), (across, depth), (along + across, depth)):
        sway = np.sin(np.linspace(0, np.pi * 2, 24) + rng.uniform(0, 6))[:, None] * 5 * direction[::-1]
        layers.stroke(
            middle + np.linspace(-0.48, 0.48, 24)[:, None] * reach * direction + sway, 2.2, rng.choice(numbers("track"))
        )
    if rng.random() < 0.6:
        turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        radius = rng.uniform(8, 16) * (1 + 0.22 * np.sin(2 * turn + rng.uniform(0, 6)) + 0.1 * np.sin(5 * turn))
        pond = (
            middle
            + along * rng.uniform(-0.15, 0.15) * length
            + radius[:, None] * np.stack([np.cos(turn), np.sin(turn)], 1)
        )
        layers.fill(pond, rng.choice(numbers("water")))


def park_cars(layers: MapLayers, plan: Plan, rng: np.random.Generator) -> None:
    """Draw cars on the roads and in drives, yards and parking lots; each season has different cars."""
    for road in plan.roads:
        if road.kind == "track":
            continue
        length = float(np.hypot(*np.diff(road.line_N2, axis=0).T).sum())
        for at in rng.random(rng.poisson(length / 38)):
            _put_car_on_road(layers, road, at, rng)
    for parcel in plan.parcels:
        if parcel.use in ("residential", "industrial", "apartments", "farm"):
            _put_cars_on_parcel(layers, parcel, rng)


def _put_car_on_road(layers: MapLayers, road, at: float, rng: np.random.Generator) -> None:
    index = min(int(at * (len(road.line_N2) - 1)), len(road.line_N2) - 2)
    step = road.line_N2[index + 1] - road.line_N2[index]
    angle = float(np.arctan2(step[1], step[0]))
    lane = rng.choice([-1, 1]) * road.width_m * (0.24 if rng.random() < 0.4 else 0.38)
    place = road.line_N2[index] + rng.random() * step + lane * np.array([-np.sin(angle), np.cos(angle)])
    _put_car(layers, place, angle, rng)


_PAVED = is_one_of(("asphalt", "concrete", "marking", "track"))


def _put_cars_on_parcel(layers: MapLayers, parcel: Parcel, rng: np.random.Generator) -> None:
    """Draw cars at random points of the parcel that are paved."""
    low, high = parcel.outline_N2.min(axis=0), parcel.outline_N2.max(axis=0)
    tries = int(
        np.prod(high - low) / {"residential": 110, "industrial": 190, "apartments": 70, "farm": 400}[parcel.use]
    )
    size = layers.material.shape[0]
    for place in rng.uniform(low, high, (tries, 2)):
        x, y = (place / layers.m_per_px).astype(int)
        if 0 <= x < size and 0 <= y < size and _PAVED[layers.material[y, x]] and layers.height_cm[y, x] == 0:
            _put_car(layers, place, parcel.angle + np.pi / 2, rng)


def _put_car(layers: MapLayers, place_2, angle: float, rng: np.random.Generator) -> None:
    length, width = rng.uniform(3.9, 5), rng.uniform(1.75, 2.0)
    corner = rectangle(place_2, length, width, angle + np.radians(rng.normal(0, 2)))
    size_m = layers.material.shape[0] * layers.m_per_px
    if corner.min() < 0 or corner.max() > size_m - layers.m_per_px:
        return
    x, y = (np.concatenate([corner, place_2[None]]) / layers.m_per_px).astype(int).T
    if layers.height_cm[y, x].any() or not _PAVED[layers.material[y, x]].all():
        return
    layers.fill(corner, rng.choice(numbers("car")), DETAIL_NEUTRAL, 145)
    glass = rectangle(place_2 + 0.12 * length * np.array([np.cos(angle), np.sin(angle)]), 0.6, width * 0.85, angle)
    layers.fill(glass, numbers("car")[4], None, None)
