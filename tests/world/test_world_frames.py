"""Frames, their footprints and their overlaps, tested by hand, by counting points, and by properties."""

import numpy as np
import pytest

from mindloc.errors import DataError
from mindloc.geo.footprints import camera_axes, footprints_m, polygon_area
from mindloc.world.camera import project, rays
from mindloc.world.frames import POSITIVE_IOU, SEMIPOSITIVE_IOU, build_gallery, draw_frames, find_overlaps, tile_files
from mindloc.world.spec import WorldSpec

SPEC = WorldSpec(seed=5, drones=300)


@pytest.fixture(scope="module")
def gallery():
    return build_gallery(SPEC)


@pytest.fixture(scope="module")
def frames(gallery):
    return draw_frames(SPEC, gallery)


def test_a_ground_point_is_projected_to_the_position_computed_by_hand():
    # straight down from 100 m with tan(half field) = 0.5, 200 px wide: focal length 100 / 0.5 = 200 px, so 1 m = 2 px;
    # with yaw 90 the top of the image is east and its right side south: (110, 20) is 10 m east of (100, 20)
    axes = camera_axes(90, -90, 0)[0]
    got = project([[110, 20, 0], [100, 25, 0], [100, 25, 50]], (100, 20), 100, axes, (150, 200), 0.5)
    # a point 50 m up is twice as near, so twice as far from the middle (100, 75)
    np.testing.assert_allclose(got, [[100, 75 - 20], [100 + 10, 75], [100 + 20, 75]], atol=1e-9)


def test_rays_footprint_and_projection_agree():
    axes = camera_axes(33, -70, 4)
    corners = footprints_m([[500, 400]], 120, axes, 0.75, 0.6)[0]
    ground = np.concatenate([corners, np.zeros((4, 1))], axis=1)
    seen = project(ground, (500, 400), 120, axes[0], (192, 256), 0.6)
    np.testing.assert_allclose(seen, [[0, 0], [256, 0], [256, 192], [0, 192]], atol=1e-6)
    slope = rays(axes[0], (192, 256), 0.6)  # of pixel centers: half a pixel inside the corner
    center = project([[*(np.array([500, 400]) + 120 * slope[10, 20]), 0]], (500, 400), 120, axes[0], (192, 256), 0.6)
    np.testing.assert_allclose(center, [[20.5, 10.5]], atol=1e-3)


def test_gallery_contains_every_tile_once(gallery):
    # zooms 2, 3, 4 give 16 + 64 + 256 tiles, and shifted by half a tile 9 + 49 + 225
    assert len(gallery.tile_T4) == 16 + 64 + 256 + 9 + 49 + 225
    assert len(np.unique(gallery.tile_T4, axis=0)) == len(gallery.tile_T4)
    for (zoom, offset), table in gallery.lattices.items():
        for x, y in [(0, 0), (1, 2)]:
            assert tuple(gallery.tile_T4[table[x, y]]) == (zoom, offset, x, y)


def test_kept_tiles_are_the_nearest_to_the_middle():
    spec = WorldSpec(tiles=500)
    kept, everything = build_gallery(spec), build_gallery(WorldSpec())
    assert len(kept.tile_T4) == 500

    def away(rows):
        return np.abs(kept.grid.center_of(rows) - spec.map_m / 2).max(axis=1)

    left_out = [row for row in everything.tile_T4.tolist() if row not in kept.tile_T4.tolist()]
    assert away(kept.tile_T4).max() <= away(np.array(left_out)).min() + 1e-6


def test_overlaps_equal_counting_points(frames, gallery):
    """The IoU of every tile with three frames, by counting points on a grid of half a meter."""
    axis = np.arange(0.25, SPEC.map_m, 0.5)
    for frame in (0, 7, 100):
        polygon = frames.footprint_F42[frame]
        (x0, y0), (x1, y1) = polygon.min(axis=0), polygon.max(axis=0)
        xy = np.stack(np.meshgrid(axis[(axis > x0) & (axis < x1)], axis[(axis > y0) & (axis < y1)]), axis=-1)
        side = np.array([np.cross(b - a, xy - a) for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True)])
        xy = xy[(side > 0).all(axis=0) | (side < 0).all(axis=0)]
        left, top, right, bottom = gallery.bounds_T4.T
        inside_TN = (
            (xy[:, 0] >= left[:, None])
            & (xy[:, 0] < right[:, None])
            & (xy[:, 1] >= top[:, None])
            & (xy[:, 1] < bottom[:, None])
        )
        shared = inside_TN.sum(axis=1) * 0.25
        iou = shared / (len(xy) * 0.25 + (right - left) * (bottom - top) - shared)
        edges = slice(frames.overlaps.start[frame], frames.overlaps.start[frame + 1])
        found = dict(zip(frames.overlaps.tile_E[edges].tolist(), frames.overlaps.iou_E[edges], strict=True))
        for tile, value in enumerate(iou):
            if tile in found:
                assert found[tile] == pytest.approx(value, abs=0.01)
            else:
                assert value < SEMIPOSITIVE_IOU + 0.01


def test_overlaps_do_not_depend_on_blocks(frames, gallery, monkeypatch):
    monkeypatch.setattr("mindloc.world.frames.BLOCK_FRAMES", 7)
    again = find_overlaps(frames.footprint_F42, gallery)
    np.testing.assert_array_equal(again.start, frames.overlaps.start)
    np.testing.assert_array_equal(again.tile_E, frames.overlaps.tile_E)
    np.testing.assert_array_equal(again.iou_E, frames.overlaps.iou_E)


def test_most_frames_have_a_positive(frames):
    assert (frames.overlaps.best() > POSITIVE_IOU).mean() >= SPEC.positive_share


def test_footprints_are_on_their_side_of_the_map(frames):
    footprint = frames.footprint_F42
    assert footprint.min() >= -1e-6 and footprint.max() <= SPEC.map_m + 1e-6
    assert (footprint[~frames.cross_test_F][..., 0] <= frames.border_m + 1e-6).all()
    assert (footprint[frames.cross_test_F][..., 0] >= frames.border_m - 1e-6).all()


def test_cross_area_splits_share_no_tile_and_no_ground(frames, gallery):
    owner = np.repeat(np.arange(SPEC.drones), np.diff(frames.overlaps.start))
    member = ~frames.straddles_F[owner]
    train = frames.overlaps.tile_E[member & ~frames.cross_test_F[owner]]
    test = frames.overlaps.tile_E[member & frames.cross_test_F[owner]]
    assert len(train) and len(test)
    assert gallery.bounds_T4[train, 2].max() <= gallery.bounds_T4[test, 0].min() + 1e-6
    assert not set(train.tolist()) & set(test.tolist())


def test_same_area_split_has_the_requested_share(frames):
    assert frames.same_test_F.sum() == round(SPEC.test_share * SPEC.drones)


def test_footprints_are_about_as_large_as_tiles(frames):
    # heights_m None: a footprint straight down has the area of a tile of the two highest zooms; heights vary by 10 %
    upright = frames.poses.cam_pitch_F < -85
    area = polygon_area(frames.footprint_F42[upright])
    tile = np.array([SPEC.map_m / 8, SPEC.map_m / 16])[frames.poses.level_F[upright]] ** 2
    assert SPEC.levels_m == pytest.approx((153.6, 76.8), abs=0.3)
    assert ((area / tile > 0.8) & (area / tile < 1.3)).all()


def test_bounds_of_tiles_agree_with_their_names(gallery):
    assert tile_files(SPEC, gallery)[0] == "2_0_0_0.png"
    np.testing.assert_allclose(gallery.bounds_T4[0], [0, 0, SPEC.map_m / 4, SPEC.map_m / 4])


@pytest.mark.parametrize(
    "wrong, line",
    [
        ({"heights_m": (2000.0,)}, "lower heights_m"),
        ({"zooms": ()}, "zooms is empty"),
        ({"drones": 0}, "drones is 0"),
        ({"test_share": 1.5}, "test_share is 1.5"),
        ({"drone_format": "gif"}, "choose png or jpg"),
        ({"oblique_tilt_deg": (10.0, 60.0)}, "below 85"),
        ({"m_per_px": float("nan")}, "m_per_px is nan"),
        ({"offsets": (256,)}, "expected 0..255"),
    ],
)
def test_impossible_worlds_are_refused(wrong, line):
    spec = WorldSpec(**{"drones": 20, **wrong})
    with pytest.raises(DataError, match=line):
        draw_frames(spec.check(), build_gallery(spec))


@pytest.mark.parametrize("seed", [7, 8, 9])  # with 7 the footprint of an oblique image would be larger than its region
def test_the_defaults_give_a_world_for_any_seed(seed):
    spec = WorldSpec(seed=seed)
    assert len(draw_frames(spec, build_gallery(spec)).poses.level_F) == spec.drones
