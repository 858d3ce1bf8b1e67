"""Ground geometry: values by hand, counted points, and symmetries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindloc.geo.footprints import (
    camera_axes,
    clip_to_bounds,
    footprints_m,
    iou_with_bounds,
    polygon_area,
)

YAW, PITCH, ROLL = st.floats(-180, 180), st.floats(-90, -60), st.floats(-10, 10)
PLACE = st.tuples(st.floats(-20, 20), st.floats(-20, 20))
BOUNDS = st.tuples(*[st.floats(-60, 0)] * 2, *[st.floats(1, 60)] * 2)


@st.composite
def quads(draw) -> np.ndarray:
    """A convex quadrilateral (1, 4, 2): the footprint of any camera that looks down."""
    axes = camera_axes(draw(YAW), draw(PITCH), draw(ROLL))
    return footprints_m([draw(PLACE)], draw(st.floats(30, 80)), axes, 0.75, 0.55)


def squares(bounds_P4):
    """Corners (P, 4, 2) of (left, top, right, bottom)."""
    left, top, right, bottom = np.array(bounds_P4, float).T
    return np.stack([[left, right, right, left], [top, top, bottom, bottom]]).transpose(2, 1, 0)


def test_straight_down_is_a_rectangle():
    # tan of half the field 0.5, height 100: half a width 50 m; aspect 0.75: half a height 37.5 m; top is north (y down)
    corners = footprints_m([[10, 20]], 100, camera_axes(0, -90, 0), aspect=0.75, half_width_tan=0.5)
    np.testing.assert_allclose(corners[0], [[-40, -17.5], [60, -17.5], [60, 57.5], [-40, 57.5]], atol=1e-9)


def test_yaw_turns_clockwise():
    # flying east, the image's top looks east: its top left corner is north-east of the camera
    corners = footprints_m([[0, 0]], 100, camera_axes(90, -90, 0), aspect=0.75, half_width_tan=0.5)
    np.testing.assert_allclose(corners[0], [[37.5, -50], [37.5, 50], [-37.5, 50], [-37.5, -50]], atol=1e-9)


def test_roll_straight_down_is_yaw():
    np.testing.assert_allclose(camera_axes(0, -90, 30), camera_axes(30, -90, 0), atol=1e-12)


def test_tilt_by_hand():
    # 45 degrees down, heading north: the middle of the image is 100 m ahead; with a half field of atan(0.5) the top
    # edge looks 45 - 26.57 = 18.43 degrees below the horizon, tan = 1/3, so 300 m ahead, the bottom edge 33.3 m ahead
    corners = footprints_m([[0, 0]], 100, camera_axes(0, -45, 0), aspect=1.0, half_width_tan=0.5)[0]
    np.testing.assert_allclose(corners[:, 1], [-300, -300, -100 / 3, -100 / 3])
    # half the width grows with the distance along the sight line: 100 / (ray down), with ray down = (1 - 0.5) / sqrt 2
    np.testing.assert_allclose(corners[1, 0], 0.5 * 100 / ((1 - 0.5) / np.sqrt(2)))


@given(YAW, st.floats(-90, 0), st.floats(-30, 30))
def test_axes_are_a_right_handed_frame(yaw, pitch, roll):
    ((axes),) = camera_axes(yaw, pitch, roll)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    # world axes (east, south, up) are left-handed, and so is (right, down, forward) seen in them
    assert np.linalg.det(axes) == pytest.approx(-1)


def test_a_corner_above_the_horizon_raises():
    with pytest.raises(ValueError, match="horizon"):
        footprints_m([[0, 0]], 100, camera_axes(0, -20, 0), aspect=1.0, half_width_tan=0.5)


def test_area_by_hand():
    # a triangle 4 x 3 / 2, far from the origin, and the same triangle with reversed corners
    triangle = np.array([[0, 0], [4, 0], [0, 3]]) + 1e6
    np.testing.assert_allclose(polygon_area([triangle, triangle[::-1]]), [6, 6])


def test_iou_by_hand():
    # unit squares half shifted: 1/2 shared of 3/2
    square = squares([[0, 0, 1, 1]])
    np.testing.assert_allclose(iou_with_bounds(square, [[0.5, 0, 1.5, 1]]), 1 / 3)
    # a diamond of half diagonals 1 around the middle of a 2 x 2 square: area 2 of 4
    diamond = np.array([[[0, -1], [1, 0], [0, 1], [-1, 0]]], float)
    np.testing.assert_allclose(iou_with_bounds(diamond, [[-1, -1, 1, 1]]), 0.5)
    # cut through the middle: half of the diamond (1) in a 1 x 2 square, union 2 + 2 - 1
    np.testing.assert_allclose(iou_with_bounds(diamond, [[0, -1, 1, 1]]), 1 / 3)
    np.testing.assert_allclose(iou_with_bounds(square, [[0, 0, 1, 1], [5, 5, 6, 6]][:1]), 1)


def test_iou_of_disjoint_and_nested_rectangles():
    small = squares([[2, 2, 3, 3]] * 3)
    bounds = [[0, 0, 1, 1], [0, 0, 4, 4], [3, 2, 4, 3]]  # disjoint, around the other, sharing an edge
    np.testing.assert_allclose(iou_with_bounds(small, bounds), [0, 1 / 16, 0], atol=1e-12)


def test_iou_equals_counting_points():
    rng = np.random.default_rng(2)
    axes = camera_axes(rng.uniform(-180, 180, 12), rng.uniform(-90, -60, 12), rng.uniform(-10, 10, 12))
    quad_P42 = footprints_m(rng.uniform(-20, 20, (12, 2)), rng.uniform(30, 80, 12), axes, 0.75, 0.55)
    bounds = np.array([[-30, -25, 30, 35]] * 12) + rng.uniform(-15, 15, (12, 1))
    xy = np.stack(np.meshgrid(np.arange(-200, 200, 0.5), np.arange(-200, 200, 0.5)), axis=-1) + 0.25

    def inside(polygon):
        side = [np.cross(b - a, xy - a) for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True)]
        return np.all(np.array(side) > 0, axis=0) | np.all(np.array(side) < 0, axis=0)

    for index in range(12):
        one, box = inside(quad_P42[index]), inside(squares(bounds)[index])
        counted = (one & box).sum() / (one | box).sum()
        assert iou_with_bounds(quad_P42, bounds)[index] == pytest.approx(counted, abs=0.01)


def shared_area(quad_142, bounds) -> float:
    return float(polygon_area(clip_to_bounds(quad_142, [bounds]))[0])


@given(quads(), BOUNDS, st.integers(0, 3))
def test_clipping_does_not_depend_on_the_order_of_corners(quad_142, bounds, first):
    area = shared_area(quad_142, bounds)
    for same in (quad_142[:, ::-1], np.roll(quad_142, first, axis=1)):
        assert shared_area(same, bounds) == pytest.approx(area, abs=1e-6)


@given(quads(), BOUNDS)
def test_areas_shared_with_four_quarters_sum_to_the_area_shared_with_the_whole(quad_142, bounds):
    left, top, right, bottom = bounds
    x, y = (left + right) / 2, (top + bottom) / 2
    quarters = [(left, top, x, y), (x, top, right, y), (left, y, x, bottom), (x, y, right, bottom)]
    whole = shared_area(quad_142, bounds)
    assert sum(shared_area(quad_142, quarter) for quarter in quarters) == pytest.approx(whole, abs=1e-6)


@given(quads(), BOUNDS, st.tuples(st.floats(-1e5, 1e5), st.floats(-1e5, 1e5)))
def test_iou_is_between_0_and_1_and_invariant_to_translation(quad_142, bounds, by):
    (iou,) = iou_with_bounds(quad_142, [bounds])
    assert 0 <= iou <= 1 + 1e-9
    (moved,) = iou_with_bounds(quad_142 + np.array(by), [np.add(bounds, (*by, *by))])
    assert moved == pytest.approx(iou, abs=1e-6)
    (own,) = iou_with_bounds(squares([bounds]), [bounds])
    assert own == pytest.approx(1)
