"""Ground geometry by hand, by counting points, and by symmetry."""

import numpy as np
import pytest

from mindloc.geo.footprints import (
    camera_axes,
    clip_to_bounds,
    footprints_m,
    iou_with_bounds,
    polygon_area,
)


def squares(bounds_P4):
    """Corners (P, 4, 2) of (left, top, right, bottom)."""
    left, top, right, bottom = np.array(bounds_P4, float).T
    return np.stack([[left, right, right, left], [top, top, bottom, bottom]]).transpose(2, 1, 0)


def test_straight_down_is_a_rectangle():
    # tan of half the field .5, height 100: half a width 50 m; aspect .75: half a height 37.5 m; top is north (y down)
    corners = footprints_m([[10, 20]], 100, camera_axes(0, -90, 0), aspect=0.75, half_width_tan=0.5)
    np.testing.assert_allclose(corners[0], [[-40, -17.5], [60, -17.5], [60, 57.5], [-40, 57.5]], atol=1e-9)


def test_yaw_turns_clockwise():
    # flying east, the picture's top looks east: its top left corner is north-east of the camera
    corners = footprints_m([[0, 0]], 100, camera_axes(90, -90, 0), aspect=0.75, half_width_tan=0.5)
    np.testing.assert_allclose(corners[0], [[37.5, -50], [37.5, 50], [-37.5, 50], [-37.5, -50]], atol=1e-9)


def test_roll_straight_down_is_yaw():
    np.testing.assert_allclose(camera_axes(0, -90, 30), camera_axes(30, -90, 0), atol=1e-12)


def test_tilt_by_hand():
    # 45 degrees down, heading north: the middle of the picture is 100 m ahead; with a half field of atan(.5) the top
    # edge looks 45 - 26.57 = 18.43 degrees below the horizon, tan = 1/3, so 300 m ahead, the bottom edge 33.3 m ahead
    corners = footprints_m([[0, 0]], 100, camera_axes(0, -45, 0), aspect=1.0, half_width_tan=0.5)[0]
    np.testing.assert_allclose(corners[:, 1], [-300, -300, -100 / 3, -100 / 3])
    # half the width grows with the distance along the sight line: 100 / (ray down), with ray down = (1 - .5) / sqrt 2
    np.testing.assert_allclose(corners[1, 0], 0.5 * 100 / ((1 - 0.5) / np.sqrt(2)))


def test_axes_are_a_right_handed_frame():
    rng = np.random.default_rng(1)
    axes = camera_axes(rng.uniform(-180, 180, 50), rng.uniform(-90, 0, 50), rng.uniform(-30, 30, 50))
    np.testing.assert_allclose(axes @ axes.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (50, 3, 3)), atol=1e-12)
    # world axes (east, south, up) are left-handed, and so is (right, down, forward) seen in them
    np.testing.assert_allclose(np.linalg.det(axes), -1)


def test_horizon_is_refused():
    with pytest.raises(ValueError, match="horizon"):
        footprints_m([[0, 0]], 100, camera_axes(0, -20, 0), aspect=1.0, half_width_tan=0.5)


def test_area_by_hand():
    # a triangle 4 x 3 / 2, far from the origin, and the same one wound the other way
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


def test_apart_and_inside():
    small = squares([[2, 2, 3, 3]] * 3)
    bounds = [[0, 0, 1, 1], [0, 0, 4, 4], [3, 2, 4, 3]]  # apart, around, edge to edge
    np.testing.assert_allclose(iou_with_bounds(small, bounds), [0, 1 / 16, 0], atol=1e-12)


def random_quads(rng, count):
    """Convex quadrilaterals: footprints of random cameras."""
    axes = camera_axes(rng.uniform(-180, 180, count), rng.uniform(-90, -60, count), rng.uniform(-10, 10, count))
    return footprints_m(rng.uniform(-20, 20, (count, 2)), rng.uniform(30, 80, count), axes, 0.75, 0.55)


def test_iou_equals_counting_points():
    rng = np.random.default_rng(2)
    quads = random_quads(rng, 12)
    bounds = np.array([[-30, -25, 30, 35]] * 12) + rng.uniform(-15, 15, (12, 1))
    xy = np.stack(np.meshgrid(np.arange(-200, 200, 0.5), np.arange(-200, 200, 0.5)), axis=-1) + 0.25

    def inside(polygon):
        side = [np.cross(b - a, xy - a) for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True)]
        return np.all(np.array(side) > 0, axis=0) | np.all(np.array(side) < 0, axis=0)

    for index in range(12):
        one, box = inside(quads[index]), inside(squares(bounds)[index])
        assert iou_with_bounds(quads, bounds)[index] == pytest.approx((one & box).sum() / (one | box).sum(), abs=0.01)


def test_clipping_does_not_depend_on_winding_or_first_corner():
    rng = np.random.default_rng(3)
    quads = random_quads(rng, 500)
    bounds = np.stack([*rng.uniform(-60, 0, (2, 500)), *rng.uniform(1, 60, (2, 500))], axis=1)
    area = polygon_area(clip_to_bounds(quads, bounds))
    for same in (quads[:, ::-1], np.roll(quads, 1, axis=1)):
        np.testing.assert_allclose(polygon_area(clip_to_bounds(same, bounds)), area, atol=1e-6)
    # what a polygon shares with the four quarters of a rectangle is what it shares with the whole
    left, top, right, bottom = bounds.T
    x, y = (left + right) / 2, (top + bottom) / 2
    quarters = [[left, top, x, y], [x, top, right, y], [left, y, x, bottom], [x, y, right, bottom]]
    parts = sum(polygon_area(clip_to_bounds(quads, np.stack(quarter, axis=1))) for quarter in quarters)
    np.testing.assert_allclose(parts, area, atol=1e-6)
