"""Generated images: the position of what is drawn, its light, and the camera."""

import cv2
import numpy as np
import pytest

from mindloc.geo.footprints import camera_axes
from mindloc.world import images as painting
from mindloc.world.camera import Look, apply_look, build_levels, photograph, project
from mindloc.world.images import cut_tile
from mindloc.world.materials import FIRST, MATERIALS, numbers
from mindloc.world.seasons import DRONE_SEASONS, SATELLITE_SEASON, draw_scenery
from mindloc.world.town import draw_plan, empty_layers, rectangle, ribbon

PLAIN = Look((1, 1, 1), 1, 1, 1, 0, 0, 0, 0, 0)


def flat_layers(side=200, m_per_px=0.5):
    return empty_layers(side, m_per_px, numbers("lawn")[0])


def test_material_numbers_do_not_collide_and_fit_a_byte():
    everything = np.concatenate([numbers(name) for name in MATERIALS])
    assert len(set(everything.tolist())) == len(everything) and everything.max() < 256
    assert FIRST["meadow"] == 0


def test_every_season_colors_every_material():
    for season in (SATELLITE_SEASON, *DRONE_SEASONS):
        color = draw_scenery(season, np.random.default_rng(0), np.random.default_rng(0)).color_256x3
        assert (color[np.concatenate([numbers(name) for name in MATERIALS])].max(axis=1) > 20).all()


def test_fill_covers_meters():
    layers = flat_layers(side=100, m_per_px=0.5)
    layers.fill(rectangle((25, 25), 20, 10, 0.0), numbers("asphalt")[0])
    row, column = np.nonzero(layers.material == numbers("asphalt")[0])
    # 15..35 m by 20..30 m at half a meter: pixels 30..69 and 40..59; the border pixel may fall either way
    assert abs(column.min() - 30) <= 1 and abs(column.max() - 69) <= 1
    assert abs(row.min() - 40) <= 1 and abs(row.max() - 59) <= 1


def test_ribbon_of_a_straight_line_is_a_rectangle():
    quads = ribbon([[0, 0], [10, 0], [20, 0]], 2)
    np.testing.assert_allclose(quads[0], [[0, 2], [10, 2], [10, -2], [0, -2]])


def test_the_length_of_a_shadow_follows_the_height_of_the_sun():
    """A wall 4 m high, sun in the west at 45 degrees: 4 m of shadow to the east, none to the west."""
    layers = flat_layers()
    layers.height_cm[:, 100:104] = 400
    sun = np.array([-1, 0, 1]) / np.sqrt(2)
    shadow = painting.cast_shadow(layers, sun, 0, 0, 200, 200)[100]
    assert shadow[:98].max() < 0.01
    assert shadow[106:109].min() > 0.95  # up to 8 px = 4 m behind the wall, minus the 25 cm that give no shadow
    assert shadow[114:].max() < 0.01


def test_slopes_that_face_the_sun_are_brighter():
    layers = flat_layers()
    ramp = np.minimum(np.arange(200), 199 - np.arange(200))
    layers.height_cm[:] = (ramp * 20)[None, :].astype(np.uint16)  # 20 cm in 50 cm up to the east, then down
    sun = np.array([-1, 0, 1]) / np.sqrt(2)
    light = painting._slope_light(layers, sun, 0, 0, 200, 200)[100]
    # facing: (z - slope * x) / sqrt(1 + 0.4^2) / z = (1 + 0.4) / 1.077 = 1.3 west of the ridge, 0.557 east of it
    assert light[50] == pytest.approx(0.42 + 0.58 * 1.4 / np.sqrt(1.16), abs=0.01)
    assert light[150] == pytest.approx(0.42 + 0.58 * 0.6 / np.sqrt(1.16), abs=0.01)


def test_painting_does_not_depend_on_the_number_of_threads():
    rng = np.random.default_rng(0)
    layers = flat_layers(side=700)
    layers.material[:] = rng.integers(0, 60, layers.material.shape)
    layers.height_cm[200:260, 300:420] = 600
    scenery = draw_scenery(SATELLITE_SEASON, np.random.default_rng(1), np.random.default_rng(1))
    noise = painting.draw_noise(350.0, 0.5, np.random.default_rng(2))
    np.testing.assert_array_equal(painting.paint(layers, scenery, noise, 1), painting.paint(layers, scenery, noise, 3))


def test_blocks_leave_no_seam(monkeypatch):
    layers = flat_layers(side=256)
    layers.height_cm[100:150, 110:140] = 700
    scenery = draw_scenery(SATELLITE_SEASON, np.random.default_rng(1), np.random.default_rng(1))
    noise = painting.draw_noise(128.0, 0.5, np.random.default_rng(2))
    whole = painting.paint(layers, scenery, noise, 1)
    monkeypatch.setattr(painting, "BLOCK_PX", 64)
    difference = np.abs(whole.astype(int) - painting.paint(layers, scenery, noise, 1))
    assert difference.max() <= 6 and difference.mean() < 0.1


def test_tile_is_the_named_part_of_the_map():
    image = np.zeros((256, 256, 3), np.uint8)
    image[64:128, 128:192] = 200  # zoom 2: tiles of 64 px; column 2, row 1
    np.testing.assert_array_equal(cut_tile(image, (2, 0, 2, 1), 32), np.full((32, 32, 3), 200, np.uint8))
    half = cut_tile(image, (2, 128, 1, 1), 32)  # shifted by 32 px both ways: the lit part is the upper right quarter
    assert (half[:16, 16:] == 200).all() and (half[16:] == 0).all() and (half[:, :16] == 0).all()


@pytest.mark.parametrize("pitch, yaw", [(-90, 0), (-90, 130), (-68, 40)])
def test_a_spot_on_the_ground_appears_where_projected(pitch, yaw):
    layers = flat_layers(side=400)
    image = np.zeros((400, 400, 3), np.uint8)
    spot = np.array([90.0, 105.0])
    cv2.circle(image, tuple(int(v) for v in spot / 0.5), 5, (255, 255, 255), -1)
    axes = camera_axes(yaw, pitch, 3)[0]
    place = np.array([100.0, 100.0]) - (
        np.array([np.sin(np.radians(yaw)), -np.cos(np.radians(yaw))]) * 22 if pitch > -80 else 0
    )
    shot = photograph(build_levels(image, layers, 1.0), np.array([0, 0, 1.0]), place, 70, axes, (192, 256), 0.577)
    row, column = np.nonzero(shot[..., 0] > 128)
    expected = project([[*spot, 0]], place, 70, axes, (192, 256), 0.577)[0]
    assert (column.mean() + 0.5, row.mean() + 0.5) == pytest.approx(tuple(expected), abs=1.5)


def test_roofs_are_shifted_outwards_and_a_wall_is_visible():
    """A white flat roof 10 m above ground, away from the middle of the image: it appears where its height is projected,
    with a wall on the side toward the middle.
    """
    layers = flat_layers(side=400)
    image = np.zeros((400, 400, 3), np.uint8)
    window = np.s_[190:210, 260:280]  # 95..105 m north-south, 130..140 m east
    layers.height_cm[window], layers.material[window], image[window] = 1000, numbers("roof_light")[0], 255
    axes = camera_axes(0, -90, 0)[0]
    shot = photograph(build_levels(image, layers, 0.5), np.array([0, 0, 1.0]), (100, 100), 60, axes, (192, 256), 0.8)
    row, column = np.nonzero(shot[..., 0] > 240)
    west, east = project([[130, 100, 10], [140, 100, 10]], (100, 100), 60, axes, (192, 256), 0.8)[:, 0]
    foot = project([[130, 100, 0]], (100, 100), 60, axes, (192, 256), 0.8)[0, 0]
    assert (column.min(), column.max() + 1) == pytest.approx((west, east), abs=3.3)  # two map pixels of 1.6 px
    wall = shot[96, int(foot) + 2 : int(west) - 2, 0]
    assert west - foot > 10 and ((wall > 60) & (wall < 200)).all()  # neither roof (255) nor ground (0)


def test_plain_look_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    difference = apply_look(image, PLAIN, np.random.default_rng(0), stray=0).astype(int) - image
    assert np.abs(difference).max() <= 1


def test_plan_covers_the_map():
    plan = draw_plan(600.0, np.random.default_rng(3))
    covered = np.zeros((300, 300), np.uint8)
    for parcel in plan.parcels:
        cv2.fillPoly(covered, [np.round(parcel.outline_N2 / 2).astype(np.int32)], 1)
    assert covered.mean() > 0.999


def test_a_roof_keeps_its_color_through_the_seasons_and_a_tree_does_not():
    summer, autumn = (
        draw_scenery(season, np.random.default_rng(number), np.random.default_rng(9)).color_256x3
        for number, season in enumerate((SATELLITE_SEASON, DRONE_SEASONS[1]))
    )
    np.testing.assert_array_equal(summer[numbers("roof_red")], autumn[numbers("roof_red")])
    assert np.abs(summer[numbers("tree")] - autumn[numbers("tree")]).mean() > 15
